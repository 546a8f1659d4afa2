"""The outer loop: the network learns on groups of chunks whose memories are summed and differentiated.

In: settings (`TrainConfig`), drives with poses and depth (rendered on the fly, or on disk). Out: checkpoints,
metrics and their picture, and final.safetensors. Read `run.py` first, then `trainer.py` and `forward.py`.
"""
