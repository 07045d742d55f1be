"""Small trained mixture of experts, packed at 4 bits; README.md describes its training.

``load("demo")`` loads it. It can call tools and answer in JSON, and little else.
"""

from pathlib import Path

NAME = "demo"
STORE = Path(__file__).parent / "store"
# Held-out prompts with expected answers: a share of those measured in README.md.
PROMPTS = Path(__file__).parent / "prompts.json"
