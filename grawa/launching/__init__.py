"""Processes that are started together on this machine, and find each other there."""
