"""mlx-lm's models with streamed experts: connects router, bank and kernels."""
