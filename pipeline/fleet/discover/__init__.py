"""Finds the drives of an input."""
