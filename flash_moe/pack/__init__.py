"""Packing: from a checkpoint to a store. Never imports the packages that run a store."""
