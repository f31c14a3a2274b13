"""Runs: how they are configured, and the folder each leaves behind."""
