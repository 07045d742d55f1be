"""Text in, text out: prompts, stop texts, constraints, conversations and their tool calls."""
