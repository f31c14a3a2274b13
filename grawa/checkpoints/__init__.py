"""Checkpoints of all workers: files that are complete, checked, and never run code."""
