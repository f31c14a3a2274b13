"""`grawa chaos`: a real job, what clusters do to it, and what came of it."""
