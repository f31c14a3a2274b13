"""Models of the tasks."""
