"""Trainings for comparison, and of the weights that are shipped."""
