"""Chat on a terminal: input, streamed answers, tool permissions, saved sessions."""
