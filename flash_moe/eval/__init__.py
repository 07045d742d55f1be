"""Quality of a model: perplexity, distance from a reference, and answers to prompts.

This file imports nothing, so that ``eval.scoring`` works where MLX is not installed.
"""
