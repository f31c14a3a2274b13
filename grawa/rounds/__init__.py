"""Rounds: when they are due, what is said before one, and what comes of it."""
