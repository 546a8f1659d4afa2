"""Make reports of drives: python -m jobs.report --output URI --drive ID [--compare OTHER ...] --site DIR [--serve].

Without --drive it makes the index page over all drives of the output; --live opens one drive in viser instead.
"""

from __future__ import annotations

import sys
import threading
from pathlib import Path

from jobs.command import run_job
from pipeline import storage
from pipeline.common.progress import Reporter
from pipeline.common.visible_text import show
from pipeline.publish import open_drive
from pipeline.report import ReportConfig, make_server, start_live, write_site
from pipeline.report.colours import PATH
from pipeline.report.comparison import compare_with
from pipeline.report.drive_report import other_paths
from pipeline.report.drive_view import DriveView


def main(arguments: list[str] | None = None) -> int:
    """Run the job; returns the exit code."""
    return run_job(ReportConfig, _report, arguments, prog="jobs.report")


def _report(config: ReportConfig) -> None:
    if config.live:
        _live(config)
        return
    site = Path(storage.absolute(config.site))
    server = make_server(site, config.host, config.port) if config.serve else None  # first: the port may be in use
    try:
        with Reporter() as reporter:
            made = write_site(config, reporter)
        show(summary(site, made, reporter.seconds))
        if server is not None:
            show(f"serving {site} on http://{config.host}:{server.server_port}/ until interrupted")
            server.serve_forever()
    finally:
        if server is not None:
            server.server_close()


def _live(config: ReportConfig) -> None:
    view = DriveView.of(open_drive(storage.absolute(config.output), config.drive[0], images_from=config.images_from))
    others = other_paths(compare_with(view, config.compared(), config.truth, PATH))
    server = start_live(view, config.host, config.port, config.points, others)
    try:
        show(f"drive {view.drive_id} on http://{config.host}:{config.port}/ until interrupted")
        threading.Event().wait()
    finally:
        server.stop()


def summary(site: Path, made: list[str], seconds: dict[str, float]) -> str:
    """The pages that were made, and how to open them."""
    lines = [f"drive {name}: {site / 'drives' / name / 'index.html'}" for name in made]
    lines.append(f"index: {site / 'index.html'}")
    if seconds:
        lines.append("  seconds  " + ", ".join(f"{name} {spent:.1f}" for name, spent in seconds.items()))
    lines.append(f"  open it with --serve, or with any web server: python -m http.server -d {site}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
