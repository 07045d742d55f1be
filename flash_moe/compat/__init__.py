"""Compatibility layer: the internals of MLX, mlx-lm and safetensors that flash_moe uses."""
