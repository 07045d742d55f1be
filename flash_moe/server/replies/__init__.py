"""Responses of all APIs, complete and as server-sent events."""
