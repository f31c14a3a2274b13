"""How fast a training would be, before it is run: step time, rounds, network."""
