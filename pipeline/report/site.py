"""Writes the whole site: pages, the viewer's client, reports of drives, the index. Also a web server for it."""

from __future__ import annotations

import functools
import http.server
import os
import shutil
import sys
import uuid
from importlib import resources
from pathlib import Path

from pipeline import storage
from pipeline.common.progress import Reporter
from pipeline.errors import DriveError, PipelineError
from pipeline.publish import open_drive
from pipeline.report.benchmarks import read_benchmarks
from pipeline.report.city_map import write_city
from pipeline.report.colours import PATH
from pipeline.report.comparison import compare_with
from pipeline.report.config import ReportConfig
from pipeline.report.drive_report import write_report
from pipeline.report.drive_view import DriveView
from pipeline.report.index import REPORT, REPORT_SIGNATURE, has_report, index_drives, published_drives, write_index
from pipeline.report.recording import copy_client
from pipeline.report.scene import viser_module

SITE_SIGNATURE = "site.json"
_PAGES = ("index.html", "elements.js", "index.js", "scene.js", "report.js", "city.html", "city.js", "site.css")


def write_site(config: ReportConfig, reporter: Reporter) -> list[str]:
    """Write the requested reports and the index. Returns the names of the drives whose report was made.

    A report appears when it is complete; an older one stays until then. Raises DriveError for a drive that does not
    exist, is not published or has a newer schema, for a comparison of different drives, and where viser is not
    installed.
    """
    output, site = storage.absolute(config.output), Path(storage.absolute(config.site))
    if config.drive or config.every:
        viser_module()  # raises before the work begins
    for drive_id in config.drive:
        open_drive(output, drive_id)
    claim_site(site)
    for drive_id in config.drive:
        storage.check_replaceable(str(site / "drives" / drive_id), REPORT_SIGNATURE, REPORT)
    drives = list(config.drive) if config.drive and not config.every else published_drives(output)
    _write_pages(site)
    made = []
    for drive_id in drives if config.every else config.drive:
        if config.every and drive_id not in config.drive and _is_current(output, drive_id, site, reporter):
            continue
        _write_drive(output, drive_id, site, config, reporter)
        made.append(drive_id)
    entries = index_drives(output, drives, site, reporter, config.images_from)
    city = write_city(site, output, reporter)
    write_index(site, output, entries, whole=drives != list(config.drive), city=city)
    return made


def claim_site(site: Path) -> None:
    """Make the folder of a site, or check that it is a site of this program. Raises DriveError where it is not empty
    and no site."""
    if storage.read_signature(str(site), SITE_SIGNATURE, "site") is not None:
        return
    storage.check_replaceable(str(site), SITE_SIGNATURE, "site")
    try:
        site.mkdir(parents=True, exist_ok=True)
        storage.sign_folder(site, SITE_SIGNATURE, "site", {})
    except OSError as error:
        raise DriveError(f"--site {site} cannot be written: {error.strerror}") from None


def make_server(site: Path, host: str, port: int) -> http.server.ThreadingHTTPServer:
    """A web server for a folder. Raises DriveError where the port is in use or the address is not of this machine."""
    handler = functools.partial(_QuietHandler, directory=str(site))
    try:
        return _Server((host, port), handler)
    except OSError as error:
        raise port_error(host, port, error) from None


def port_error(host: str, port: int, error: OSError) -> DriveError:
    """The error for a port on which this process cannot listen."""
    return DriveError(f"cannot serve on {host}:{port}: {os.strerror(error.errno or 0)}; give another --port or --host")


class _Server(http.server.ThreadingHTTPServer):
    allow_reuse_address = True
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """Ignores closed connections: a browser closes one when it no longer needs an image."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]


class _QuietHandler(http.server.SimpleHTTPRequestHandler):
    """Serves files without a log line for each request."""

    def translate_path(self, path: str) -> str:
        """The file of a request. A name with a NUL byte, which no file can have, gives a file that does not exist."""
        place = super().translate_path(path)
        return place if "\0" not in place else os.path.join(self.directory, "no", "such", "file")

    def log_message(self, format: str, *args: object) -> None:
        return


def _write_drive(output: str, drive_id: str, site: Path, config: ReportConfig, reporter: Reporter) -> None:
    view = DriveView.of(open_drive(output, drive_id, images_from=config.images_from))
    if not view.known.any():
        raise DriveError(f"drive {drive_id} has no frame with a pose; there is nothing to show")
    with reporter.timed("compare"):
        compared = compare_with(view, config.compared(), config.truth, PATH)
    benchmarks = read_benchmarks(config.benchmark)
    reporter.say(f"drive {drive_id}: {len(view.frames)} frames, {view.drive.manifest.counts.points:,} points")
    folder = site / "drives" / drive_id
    work = site / "drives" / f".{drive_id}.{uuid.uuid4().hex[:8]}"
    work.mkdir(parents=True)
    try:
        write_report(work, view, compared, config, benchmarks, reporter)
        (work / "index.html").write_bytes(_asset("report.html"))
        storage.sign_folder(work, REPORT_SIGNATURE, REPORT, {"published_at": view.drive.manifest.published_at})
        storage.replace_folder(work, folder, REPORT_SIGNATURE, REPORT)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _is_current(output: str, drive_id: str, site: Path, reporter: Reporter) -> bool:
    """Whether no report has to be made: it is of the current result, or the result cannot be read."""
    try:
        return has_report(site, drive_id, open_drive(output, drive_id).manifest.published_at)
    except PipelineError as error:
        reporter.say(f"drive {drive_id}: no report, {error}")
        return True


def _write_pages(site: Path) -> None:
    for name in _PAGES:
        storage.write_bytes_atomically(str(site / name), _asset(name))
    try:
        viser_module()
    except PipelineError:
        return  # without viser there are no reports, and the index shows no scene
    copy_client(site / "viewer")


def _asset(name: str) -> bytes:
    return resources.files("pipeline.report").joinpath("assets", name).read_bytes()
