"""Checkpoints of a user's training loop: files that are complete, checked, and never run code."""
