"""Decides which drive runs when and in which group."""
