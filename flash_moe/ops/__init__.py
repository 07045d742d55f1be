"""What is computed on the slots: one file an operation, each with a plain-MLX reference."""
