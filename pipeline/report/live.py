"""Shows one drive in a live viser viewer, with switches and a slider, without writing a site."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from pipeline.drive_images import read_frames
from pipeline.publish.poses import quaternion_from_rotation
from pipeline.report.camera_views import chase_camera, overview_camera
from pipeline.report.drive_view import DriveView
from pipeline.report.sample import PointSample, sample_points
from pipeline.report.scene import COLOURS, OtherPath, add_layers, point_size, viser_module
from pipeline.report.site import port_error

if TYPE_CHECKING:
    import viser

_LAYERS = ("path", "cameras", "loops", "stretches", "others")


def start_live(
    view: DriveView, host: str, port: int, points: int, others: Sequence[OtherPath] = ()
) -> viser.ViserServer:
    """Start viser with the drive's scene and controls; returns the server, which runs until its `stop()`.

    Raises DriveError where viser is missing or the port is taken.
    """
    viser_module()
    import viser

    with socket.socket() as probe:  # viser would silently take the next free port
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise port_error(host, port, error) from None
    sample = sample_points(view.drive, points)
    server = viser.ViserServer(host=host, port=port, verbose=False)
    server.gui.configure_theme(dark_mode=True, show_logo=False)
    server.scene.world_axes.visible = False
    add_layers(server.scene, view, sample, others)
    _start_at(server, view)
    _add_controls(server, view, sample)
    return server


def _start_at(server: viser.ViserServer, view: DriveView) -> None:
    camera = overview_camera(view)
    position, ahead = camera.world_from_camera[:3, 3], camera.world_from_camera[:3, 2]
    server.initial_camera.position = tuple(position)
    server.initial_camera.look_at = tuple(position + ahead * np.linalg.norm(position - view.path.mean(0)))
    server.initial_camera.up = tuple(view.up)
    server.initial_camera.near = 0.1 * view.step


def _add_controls(server: viser.ViserServer, view: DriveView, sample: PointSample) -> None:
    import viser

    gui, nodes = server.gui, {handle.name: handle for handle in _handles(server)}
    gui.add_markdown(f"**{view.drive_id}** · verdict {view.verdict} · {sample.note}")
    colour = gui.add_dropdown("points by", COLOURS, initial_value="colour")
    size = gui.add_slider("point size", 0.2, 4.0, 0.1, 1.0)
    frame = gui.add_slider("frame", 0, max(len(view.frames) - 1, 1), 1, int(np.flatnonzero(view.known)[0]))
    ride = gui.add_checkbox("ride along", False)
    picture = gui.add_image(np.zeros((9, 16, 3), np.uint8), label="frame")
    said = gui.add_markdown("")
    usual = point_size(sample.xyz, view.step)

    def show(_: object = None) -> None:
        number = int(frame.value)
        row = view.drive.poses.slice(number, 1).to_pylist()[0]
        said.content = f"status {row['status']}, chunk {row['chunk_index']}, confidence {row['confidence'] or '–'}"
        for _, image in read_frames(view.drive, [number]):
            if not isinstance(image, str):
                image.thumbnail((480, 480))
                picture.image = np.asarray(image)
            else:
                said.content += f"; no image: {image}"
        if view.known[number]:
            pose = view.poses[number]
            nodes["/now"].position = pose[:3, 3]
            nodes["/now"].wxyz = quaternion_from_rotation(pose[:3, :3])
            if ride.value:
                _ride(server, view, number)

    def paint(_: object) -> None:
        for name in COLOURS:
            if f"/points/{name}" in nodes:
                nodes[f"/points/{name}"].visible = name == colour.value

    def resize(_: object) -> None:
        for node in nodes.values():
            if isinstance(node, viser.PointCloudHandle):
                node.point_size = usual * float(size.value)

    for layer in _LAYERS:
        mine = [handle for name, handle in nodes.items() if name == f"/{layer}" or name.startswith(f"/{layer}/")]
        if mine:
            _add_switch(gui, layer, mine)
    colour.on_update(paint)
    size.on_update(resize)
    frame.on_update(show)
    ride.on_update(show)
    show()


def _add_switch(gui: viser.GuiApi, layer: str, handles: Sequence[viser.SceneNodeHandle]) -> None:
    switch = gui.add_checkbox(layer, True)

    @switch.on_update
    def _(_: object) -> None:
        for handle in handles:
            handle.visible = switch.value


def _ride(server: viser.ViserServer, view: DriveView, frame: int) -> None:
    pose = chase_camera(view, frame).world_from_camera
    for client in server.get_clients().values():
        with client.atomic():
            client.camera.up_direction = view.up
            client.camera.position = pose[:3, 3]
            client.camera.look_at = pose[:3, 3] + pose[:3, 2] * 20 * view.step


def _handles(server: viser.ViserServer) -> list[viser.SceneNodeHandle]:
    return list(server.scene._handle_from_node_name.values())
