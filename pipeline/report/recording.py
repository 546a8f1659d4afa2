"""A viser scene as a file, and the static client that plays it: no server is needed to look at them."""

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
    """Write the drive's layers as a .viser file. DriveError where viser is missing."""
    viser = viser_module()
    # The scene needs a server to be built; this one is reachable from this machine alone, for moments.
    with contextlib.redirect_stdout(io.StringIO()):  # viser greets and says goodbye
        server = viser.ViserServer(host="127.0.0.1", port=_free_port(), verbose=False)
        try:
            server.scene.world_axes.visible = False
            add_layers(server.scene, view, sample, others)
            path.write_bytes(server.get_scene_serializer().serialize())
        finally:
            server.stop()


def copy_client(folder: Path) -> None:
    """The client of the installed viser (one page, Apache-2.0), as `viser-build-client` copies it."""
    package = viser_module().__file__
    assert package is not None
    built = Path(package).parent / "client" / "build"
    shutil.copytree(built, folder, dirs_exist_ok=True)


def _free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
