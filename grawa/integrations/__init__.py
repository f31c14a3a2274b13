"""Other tools, each behind an extra."""
