"""mlx-lm's models with streamed experts: where router, bank and kernels meet."""
