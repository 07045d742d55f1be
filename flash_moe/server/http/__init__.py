"""Connections and event streams."""
