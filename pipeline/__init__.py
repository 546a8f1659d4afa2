"""Turns city drives into camera poses and point clouds, on Ray. README.md has the architecture."""
