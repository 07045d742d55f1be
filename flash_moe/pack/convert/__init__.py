"""Quantization and the mapping from an original checkpoint's tensors to mlx-lm's."""
