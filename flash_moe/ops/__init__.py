"""Operations on slots: one file per operation, each with a plain-MLX reference."""
