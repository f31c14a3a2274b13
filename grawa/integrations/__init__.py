"""Integrations with other tools, each in an optional extra."""
