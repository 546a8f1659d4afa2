"""Training of the network (Scal3R's outer loop), on groups of chunks that share memories; gradients go through these.

In: settings (`TrainConfig`), drives with poses and depth (rendered during training, or on storage). Out: checkpoints,
metrics with a plot, and final.safetensors. Read `run.py` first, then `trainer.py` and `forward.py`.
"""
