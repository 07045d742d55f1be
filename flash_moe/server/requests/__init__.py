"""Validation of request bodies of all APIs into one type."""
