"""Validation of request bodies of the two APIs into one type."""
