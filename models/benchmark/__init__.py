"""Measures the network on one device: the fast path, its plain twin and the published schedule. It imports torch only.

`python -m models.benchmark.gpu_check` runs all measurements that need a GPU.
"""
