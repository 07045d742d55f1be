"""Checkpoint formats that can be packed."""
