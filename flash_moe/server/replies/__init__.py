"""Responses of the two APIs, complete and as server-sent events."""
