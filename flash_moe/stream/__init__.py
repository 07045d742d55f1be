"""Expert cache: slots, eviction policy, reader threads and prefetch."""
