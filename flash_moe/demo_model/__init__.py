"""A small mixture of experts that was really trained, packed at 4 bits; README.md says how.

``load("demo")`` loads it. It calls tools, answers in JSON and knows little else.
"""

from pathlib import Path

NAME = "demo"
STORE = Path(__file__).parent / "store"
# Held-out prompts with what is expected: a share of those that its README's figures are from.
PROMPTS = Path(__file__).parent / "prompts.json"
