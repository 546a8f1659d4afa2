"""From storage to the frames of chunks.

In: the URI of a drive (images, KITTI sequence, video). Out: a `Drive`, its plan of chunks, and an ordered
stream of decoded, resized frames per rank (in `frames`, which alone needs Ray and is imported by name).
"""
