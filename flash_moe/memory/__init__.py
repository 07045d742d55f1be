"""Memory of the machine, of this process, and its division between bank and prompts."""
