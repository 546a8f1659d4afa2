"""Read a published drive with the Python API: python -m jobs.examples.read_drive OUT DRIVE [PICTURE.png].

Prints counts, the length of the camera's steps and the points near its path, and draws cloud and path from above.
"""

from __future__ import annotations

import sys

import numpy as np

from pipeline.publish import open_drive


def main(output: str, drive_id: str, picture: str = "drive.png") -> int:
    """Read a drive and draw it to `picture`."""
    drive = open_drive(output, drive_id)  # reads only the manifest
    counts = drive.manifest.counts
    print(f"drive {drive_id}: {counts.frames} frames, {counts.points:,} points, path {counts.path_length:.1f} units")

    poses = drive.poses.to_pandas()  # one row for each frame; columns and units: pipeline/schema.py
    print(poses.groupby("status").size().to_string())

    cameras = drive.cameras  # the same poses as arrays
    path = cameras.world_from_camera[:, :3, 3]
    steps = np.linalg.norm(np.diff(path, axis=0), axis=1)
    print(f"a step of the camera: {np.median(steps):.3f} units in the median, {steps.max():.3f} at most")

    # Points around the middle of the drive: a box in the world frame. Only row groups that touch it are read.
    middle, reach = path[len(path) // 2], 10 * np.median(steps)
    box = (middle - reach, middle + reach)
    near = drive.points(box, columns=["x", "y", "z", "frame_index"])
    read = sum(len(groups.chosen) for groups in drive.row_groups(box))
    print(
        f"within {reach:.2f} units of frame {cameras.frame_index[len(path) // 2]}: {near.num_rows:,} points "
        f"({read} row groups read)"
    )

    # The whole drive, thinned while reading and without the sky: memory does not grow with the number of points.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 8), layout="constrained")
    axes = figure.add_subplot(aspect="equal", xlabel="x (right)", ylabel="z (forward)", title=f"drive {drive_id}")
    for batch in drive.point_batches(voxel=np.median(steps) / 2, far=5.0):
        colour = np.stack([batch[c].to_numpy() for c in "rgb"], -1) / 255
        axes.scatter(batch["x"], batch["z"], s=0.2, c=colour, linewidths=0)
    axes.plot(path[:, 0], path[:, 2], color="tab:red", linewidth=1)
    figure.savefig(picture, dpi=120)
    print(f"picture: {picture}")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
