"""Examples: scripts, and strategies and tasks that commands take by name."""
