"""jobs.report: its errors, and the files that it writes."""

import builtins
import json
import socket
import subprocess
import sys
import time
import urllib.request

import pytest

from jobs import report
from pipeline.errors import DriveError
from pipeline.report.live import start_live
from pipeline.report.scene import viser_module
from pipeline.report.site import claim_site
from pipeline.storage import sign_folder
from tests.report.drives import publish


@pytest.fixture(scope="module")
def output(tmp_path_factory):
    folder = tmp_path_factory.mktemp("reported")
    publish(folder / "out", folder / "source")
    return folder / "out"


def said(capsys, *arguments) -> str:
    """The one line on stderr of a command that fails."""
    assert report.main([str(one) for one in arguments]) == 1
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1, lines
    return lines[0]


def test_a_missing_unfinished_or_newer_drive_gives_a_one_line_error(output, tmp_path, capsys):
    site = tmp_path / "site"
    assert "no drive ghost in" in said(capsys, "--output", output, "--drive", "ghost", "--site", site)
    (tmp_path / "out" / "half").mkdir(parents=True)
    assert "is not finished" in said(capsys, "--output", tmp_path / "out", "--drive", "half", "--site", site)
    manifest = json.loads((output / "bend" / "manifest.json").read_text())
    (tmp_path / "out" / "half" / "manifest.json").write_text(json.dumps({**manifest, "schema_version": 99}))
    assert "newer than" in said(capsys, "--output", tmp_path / "out", "--drive", "half", "--site", site)
    assert not site.exists()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("--compare", "x"), "need one drive"),
        (("--live",), "--live shows one drive"),
        (("--points", "0"), "--points must be at least 1"),
        (("--port", "70000"), "--port must be between"),
        (("--site", "s3://bucket/site"), "--site is a folder on this machine"),
    ],
)
def test_settings_that_cannot_work_are_reported(output, capsys, arguments, expected):
    assert expected in said(capsys, "--output", output, *arguments)


def test_a_refused_comparison_does_not_change_an_earlier_report(output, tmp_path, capsys):
    source = tmp_path / "source"
    source.mkdir()
    for number in range(12):
        (source / f"{number:06d}.png").write_bytes(b"x" * (500 + number))
    publish(tmp_path / "other", source, frames=12)
    claim_site(tmp_path / "site")
    kept = tmp_path / "site" / "drives" / "bend" / "index.html"
    kept.parent.mkdir(parents=True)
    kept.write_text("a former report")
    sign_folder(kept.parent, "report.json", "report", {"published_at": "long ago"})
    line = said(
        capsys, "--output", output, "--drive", "bend", "--site", tmp_path / "site", "--compare", tmp_path / "other"
    )
    assert "is not a result of drive bend" in line
    assert kept.read_text() == "a former report"


def test_a_port_in_use_is_reported_before_any_work(output, tmp_path, capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        arguments = ("--output", output, "--drive", "bend", "--port", port, "--site", tmp_path / "site")
        assert "give another --port" in said(capsys, *arguments, "--serve")
        assert "give another --port" in said(capsys, *arguments, "--live")
    assert not (tmp_path / "site").exists()


def test_the_error_for_missing_viser_names_the_extra_to_install(output, tmp_path, capsys, monkeypatch):
    real = builtins.__import__

    def without(name, *rest):
        if name == "viser":
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(DriveError, match="pip install"):
        viser_module()
    line = said(capsys, "--output", output, "--drive", "bend", "--site", tmp_path / "site")
    assert "pip install '.[view]'" in line
    assert report.main(["--output", str(output), "--site", str(tmp_path / "site")]) == 0  # the index needs no viser


@pytest.mark.slow
def test_every_makes_reports_once_and_serves_them(output, tmp_path, capsys):
    site = tmp_path / "site"
    arguments = ["--output", str(output), "--site", str(site), "--every", "--points", "2000"]
    assert report.main(arguments) == 0
    assert "drive bend: " in capsys.readouterr().out
    data = json.loads((site / "drives" / "bend" / "drive.json").read_text())
    assert data["id"] == "bend" and len(data["frames"]["files"]) == 30
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = subprocess.Popen(
        [sys.executable, "-m", "jobs.report", *arguments, "--serve", "--port", str(port)],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        lines = iter(server.stdout.readline, "")
        before = next(line for line in lines if line.startswith(("index: ", "drive ")))
        assert before.startswith("index: "), "an existing report was made again"
        next(line for line in lines if line.startswith("serving "))
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/drives/bend/index.html", timeout=10) as page:
            assert b"3D viewer" in page.read()
    finally:
        server.terminate()
        server.wait(30)


@pytest.mark.slow
def test_live_serves_the_scene_with_its_switches(output):
    from pipeline.publish import open_drive
    from pipeline.report.drive_view import DriveView

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = start_live(DriveView.of(open_drive(str(output), "bend")), "127.0.0.1", port, 2000)
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=10) as page:
            assert b"Viser" in page.read()
        nodes = server.scene._handle_from_node_name
        assert {"/points/colour", "/path", "/cameras", "/now", "/loops/accepted", "/stretches/warn"} <= set(nodes)
        controls = {handle.label: handle for handle in server.gui._gui_input_handle_from_uuid.values()}
        controls["points by"].value = "chunk"
        controls["frame"].value = 12
        controls["path"].value = False
        deadline = time.monotonic() + 20
        while nodes["/points/colour"].visible and time.monotonic() < deadline:
            time.sleep(0.05)
        assert nodes["/points/chunk"].visible and not nodes["/points/colour"].visible and not nodes["/path"].visible
        assert abs(nodes["/now"].position[2] - 5.9) < 0.5
    finally:
        server.stop()
