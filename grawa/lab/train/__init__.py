"""Training: workers, the loop, checkpoints, and starting processes."""
