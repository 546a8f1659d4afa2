"""From storage to the frames of chunks.

In: the URI of a drive (images, KITTI sequence, video). Out: a `Drive`, its chunks, and for each rank an ordered stream
of decoded, resized frames. Only `frames` and `scan` need Ray; import them by name.
"""
