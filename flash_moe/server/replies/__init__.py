"""Responses of the two APIs, whole and as server-sent events."""
