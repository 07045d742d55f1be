"""Which records are read into which slots, the slots themselves, and the threads that read."""
