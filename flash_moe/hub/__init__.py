"""Repositories of the hub and the stores pulled from them."""
