"""Training in the laboratory: workers, the loop, checkpoints, and starting processes."""
