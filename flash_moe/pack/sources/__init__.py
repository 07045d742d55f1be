"""Checkpoints that can be packed."""
