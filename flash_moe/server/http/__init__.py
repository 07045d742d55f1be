"""HTTP connections and server-sent events."""
