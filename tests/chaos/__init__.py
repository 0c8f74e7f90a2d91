"""Processes killed at every step and at random instants, under every fault, and what must hold all the same."""
