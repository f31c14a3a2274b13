"""Rounds: when they are due, what workers report before one, and what it changes."""
