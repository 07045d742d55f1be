"""Bytes of experts on disk: layout, manifest, packing, reading, verifying. Knows no MLX."""
