"""Cameras and depth brought onto what the images show: corner tracks, bundle adjustment, evidence, verdict.

In: pictures where they are decoded, a window of the network's chunks. Out: adjusted cameras, corrected depth, findings.
NumPy, SciPy and OpenCV; no Ray, no torch.
"""
