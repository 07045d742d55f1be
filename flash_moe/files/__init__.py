"""Untrusted input files, and files that must survive a crash."""
