"""A chat on a terminal: input, streamed answers, permissions for tools, and what is kept."""
