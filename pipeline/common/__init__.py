"""Functions that any stage may use: progress, Ray, memory, metrics. Imports no stage."""
