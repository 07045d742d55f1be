"""From a request to the engine and back: admission, tokenizing, constraints, answers."""
