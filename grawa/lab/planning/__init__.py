"""Predicts the speed of training from the times of a step, of rounds and of the network."""
