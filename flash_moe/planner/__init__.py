"""What a store of a model would be on this machine, before it is there."""
