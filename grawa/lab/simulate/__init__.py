"""A modelled network, and a clock whose time is computed instead of measured."""
