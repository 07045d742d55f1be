"""A server that speaks the APIs of OpenAI and Anthropic, on mlx-lm's server machinery.

mlx-lm's classes do the work in the middle: its provider (given our loader), its thread of
generation with batches and prompt caches. Ours are the edges: HTTP with limits, requests checked
field by field, constraints, answers in the form of either API, metrics. Only ``run.py`` is for
callers; it is imported when a server starts, since it needs more of mlx-lm than the rest does.
"""
