"""Packing: from a checkpoint to a store. Never imports what runs a store."""
