"""The laboratory: the command `grawa`, its tasks, runs, studies, simulations and reports."""
