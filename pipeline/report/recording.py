"""Records a viser scene to a file, and copies the static client that plays it. Viewing them needs no viser server."""

from __future__ import annotations

import contextlib
import io
import shutil
from collections.abc import Sequence
from pathlib import Path

from pipeline.report.drive_view import DriveView
from pipeline.report.sample import PointSample
from pipeline.report.scene import OtherPath, add_layers, viser_module


def record_scene(path: Path, view: DriveView, sample: PointSample, others: Sequence[OtherPath] = ()) -> None:
    """Write the drive's layers as a .viser file. Raises DriveError where viser is not installed."""
    viser = viser_module()
    # building a scene needs a server; this one listens only on loopback, and only during the recording
    with contextlib.redirect_stdout(io.StringIO()):  # viser prints messages when it starts and stops
        server = viser.ViserServer(host="127.0.0.1", port=_free_port(), verbose=False)
        try:
            server.scene.world_axes.visible = False
            add_layers(server.scene, view, sample, others)
            path.write_bytes(server.get_scene_serializer().serialize())
        finally:
            server.stop()


def copy_client(folder: Path) -> None:
    """Copy the client of the installed viser (one page, Apache-2.0), as `viser-build-client` does."""
    package = viser_module().__file__
    assert package is not None
    built = Path(package).parent / "client" / "build"
    shutil.copytree(built, folder, dirs_exist_ok=True)


def _free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
