"""Adjusts cameras and depth to the images: corner tracks, bundle adjustment, evidence, verdict.

In: decoded pictures, and windows of the network's chunks. Out: adjusted cameras, corrected depth, findings.
It uses NumPy, SciPy and OpenCV; neither Ray nor torch.
"""
