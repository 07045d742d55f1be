"""How good a run is: perplexity, distance from a reference, and answers to prompts.

This file imports nothing, so that ``quality.judge`` can be used where MLX is not installed.
"""
