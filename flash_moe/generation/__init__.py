"""Text generation: prompts, sampling, stop texts, batching, conversations and tool calls."""
