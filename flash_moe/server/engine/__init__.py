"""Work before and after the engine: tokenizing, constraints, admission, answers."""
