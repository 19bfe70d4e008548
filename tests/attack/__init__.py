"""Hostile calls of every command, and what becomes of the user's files (`python -m tests.attack`)."""
