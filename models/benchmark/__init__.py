"""The network against its limits: the fast path, its plain twin and the published schedule, on one device. torch only.

`python -m models.benchmark.gpu_check` is everything that wants a GPU, in one run.
"""
