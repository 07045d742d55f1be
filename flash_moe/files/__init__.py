"""Files that others wrote, and files that must survive a crash."""
