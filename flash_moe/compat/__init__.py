"""Everything relied on inside MLX, mlx-lm and safetensors."""
