"""Runs and studies: their configuration, their folders, and how studies are executed."""
