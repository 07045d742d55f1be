"""Generation behind the server: admission, the thread that owns MLX, and answers."""
