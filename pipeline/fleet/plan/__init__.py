"""Decides what has to be done for each drive, and estimates its cost."""
