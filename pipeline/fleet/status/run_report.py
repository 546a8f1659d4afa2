"""A run as one HTML file: counts, figures, reasons of failure, and a table of all drives with sorting and search.

It needs no cluster, no server and no network: the file contains everything, and its content policy forbids requests.
The template is run_report.html beside this file; texts from inputs are escaped, rows are embedded as JSON.
"""

from __future__ import annotations

import html
import json
import math
import shlex
import time
from collections.abc import Callable, Sequence
from importlib import resources
from string import Template

from pipeline import storage
from pipeline.common.secrets import without_secrets
from pipeline.common.sizes import size_text
from pipeline.common.visible_text import visible, visible_values
from pipeline.fleet.records.ledger import FINAL, STATES, DriveRow, RunState, run_uri
from pipeline.fleet.status.summary import FAILED, Summary, duration, failure_kinds, retry_command, summarise

REPORT_NAME = "report.html"

_WIDTH, _HEIGHT, _LEFT, _BOTTOM = 420, 150, 44, 20
_BINS = 24
_SHOWN_KINDS, _SHOWN_IDS = 30, 12


def write_run_report(output: str, run: RunState) -> str:
    """Write the page of a run beside its ledger; returns its URI. Raises StorageError."""
    uri = storage.join(run_uri(output, run.info.run_id), REPORT_NAME)
    storage.write_bytes_atomically(uri, render_run_report(run).encode())
    return uri


def render_run_report(run: RunState) -> str:
    """The page of a run, finished or not."""
    template = Template((resources.files("pipeline.fleet.status") / "run_report.html").read_text("utf-8"))
    info, total = run.info, summarise(run)
    counts = [(state, total.counts[state]) for state in STATES if total.counts[state]]
    when = f"{_date(info.started_at)} to {_date(info.ended_at or info.updated_at)} UTC, {duration(total.wall_s)}"
    return template.substitute(
        run_id=_text(info.run_id),
        state=_text(info.state),
        when=_text(when),
        message="".join(f"<p>{_text(said)}</p>" for said in (info.message, *info.notes) if said),
        facts="".join(f"<div><b>{_text(value)}</b><span>{_text(name)}</span></div>" for name, value in _facts(total)),
        bar="".join(f'<div style="flex:{count};background:var(--{state})"></div>' for state, count in counts),
        bar_label=_text(", ".join(f"{count} {state}" for state, count in counts)),
        legend="".join(
            f'<span><i class="dot" style="background:var(--{state})"></i>{count:,} {state}</span>'
            for state, count in counts
        ),
        figures="".join(_figures(run, total)),
        failures=_failures(run),
        state_options="".join(f"<option>{state}</option>" for state, _ in counts),
        command=_text(shlex.join(info.command)),
        input=_text(info.input),
        host=_text(info.host),
        machines=f"{info.groups} group{'s' * (info.groups != 1)} of {info.workers}, {info.gpus} GPUs",
        settings=_text(json.dumps(dict(info.settings), indent=1, default=str)),
        rows=_rows(run),
    )


def _facts(total: Summary) -> list[tuple[str, str]]:
    facts = [
        ("drives", f"{total.drives:,}"),
        ("frames made", f"{total.frames:,}"),
        ("frames a second", f"{total.frames_per_s:.1f}"),
        ("points", f"{total.points:,}"),
        ("written", size_text(total.bytes)),
    ]
    if total.gpu_seconds:
        facts.append(("GPU hours", f"{total.gpu_seconds / 3600:.1f}"))
    if total.gpu_busy is not None:
        facts.append(("GPUs busy", f"{total.gpu_busy:.0%}"))
    return facts


def _rows(run: RunState) -> str:
    """Columns and rows as JSON, escaped so that no text can end the script element."""
    stages = sorted({stage for row in run.rows.values() for stage in row.seconds})
    columns = [
        "drive",
        "state",
        "stage",
        "frame",
        "reason",
        "attempts",
        "frames",
        "chunks",
        "loops",
        "points",
        "bytes",
        "verdict",
        "frames/s",
        "GPU s",
        *(f"{stage} s" for stage in stages),
        "group",
        "tags",
    ]
    rows = [_row(row, stages) for _, row in sorted(run.rows.items())]
    text = json.dumps(visible_values({"columns": columns, "rows": rows}), separators=(",", ":"))
    return text.replace("<", "\\u003c").replace("&", "\\u0026")


def _row(row: DriveRow, stages: Sequence[str]) -> list[object]:
    return [
        row.drive_id,
        row.state,
        row.stage,
        row.frame,
        row.reason,
        row.attempts,
        row.frames or None,
        row.chunks or None,
        row.loops if row.chunks else None,
        row.points or None,
        row.bytes or None,
        row.verdict,
        _short(row.frames_per_s or None),
        _short(row.gpu_seconds or None),
        *(_short(row.seconds.get(stage)) for stage in stages),
        row.group,
        " ".join(row.tags) or None,
    ]


def _short(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else round(value, 2)


def _failures(run: RunState) -> str:
    kinds = failure_kinds(run)
    if not kinds:
        return ""
    lines = []
    for kind in kinds[:_SHOWN_KINDS]:
        ids = ", ".join(kind.drive_ids[:_SHOWN_IDS])
        more = f" and {len(kind.drive_ids) - _SHOWN_IDS} more" if len(kind.drive_ids) > _SHOWN_IDS else ""
        lines.append(
            f'<tr><td class="n">{len(kind.drive_ids)}</td><td>{_text(kind.stage or "")}</td>'
            f'<td class="text">{_text(kind.reason)}</td><td class="text">{_text(ids + more)}</td></tr>'
        )
    more = f'<p class="dim">and {len(kinds) - _SHOWN_KINDS} kinds more</p>' if len(kinds) > _SHOWN_KINDS else ""
    return (
        f"<h2>What failed and why</h2><p>do exactly these again: <code>{_text(retry_command(run))}</code></p>"
        '<table id="failures"><tr><th class="n">drives</th><th>stage</th><th>reason (of the first)</th>'
        f"<th>which</th></tr>{''.join(lines)}</table>{more}"
    )


def _figures(run: RunState, total: Summary) -> list[str]:
    """Inline pictures: drives over time, seconds by stage, speed of drives, length of drives."""
    found = []
    ended = sorted(
        (row.ended_at, row.state in FAILED)
        for row in run.rows.values()
        if row.ended_at is not None and row.state in FINAL and row.state != "skipped"
    )
    if len(ended) > 1 and ended[-1][0] > run.info.started_at:
        found.append(_over_time([(when - run.info.started_at, bad) for when, bad in ended]))
    if total.seconds:
        found.append(_stage_bars(total))
    published = run.in_state("published")
    for values, title in (
        ([row.frames_per_s for row in published if row.frames_per_s > 0], "frames a second of a drive (network)"),
        ([float(row.frames) for row in published if row.frames], "frames of a drive"),
    ):
        if len(values) > 1:
            found.append(_histogram(values, title))
    return found


def _over_time(ended: list[tuple[float, bool]]) -> str:
    end, count = ended[-1][0], len(ended)
    lines = []
    for want_bad, colour in ((False, "published"), (True, "failed")):
        done, points = 0, [(0.0, 0)]
        for when, bad in ended:
            done += bad == want_bad
            points.append((when, done))
        points = points[:: max(1, len(points) // 400)] + [(end, done)]
        place = " ".join(f"{_x(when / end):.1f},{_y(done / count):.1f}" for when, done in points)
        lines.append(f'<polyline points="{place}" fill="none" stroke="var(--{colour})" stroke-width="2"/>')
    return _figure("published (green), failed (red)", lines, (0, end), (0, count), duration)


def _stage_bars(total: Summary) -> str:
    longest = sorted(total.seconds.items(), key=lambda item: -item[1])[:7]
    height, most = 22, max(longest[0][1], 1e-9)
    parts = []
    for number, (stage, spent) in enumerate(longest):
        y, width = number * height, 250 * spent / most
        parts.append(
            f'<text x="76" y="{y + 14}" text-anchor="end">{_text(stage)}</text>'
            f'<rect x="84" y="{y + 3}" width="{max(width, 1):.1f}" height="14" rx="3" fill="var(--running)"/>'
            f'<text x="{90 + width:.1f}" y="{y + 14}">{_text(duration(spent))}</text>'
        )
    tall = height * len(longest)
    return _wrapped("time by stage, summed over drives", f'<svg viewBox="0 0 {_WIDTH} {tall}">{"".join(parts)}</svg>')


def _histogram(values: list[float], title: str) -> str:
    low, high = min(values), max(values)
    width = (high - low) / _BINS or 1.0
    bins = [0] * _BINS
    for value in values:
        bins[min(_BINS - 1, int((value - low) / width))] += 1
    most = max(bins)
    bars = [
        f'<rect x="{_x(k / _BINS) + 1:.1f}" y="{_y(n / most):.1f}" width="{_x(1 / _BINS) - _x(0) - 2:.1f}" '
        f'height="{_y(0) - _y(n / most):.1f}" fill="var(--running)"/>'
        for k, n in enumerate(bins)
    ]
    return _figure(title, bars, (low, low + width * _BINS), (0, most), lambda value: f"{value:,.4g}")


def _figure(
    title: str, parts: list[str], x: tuple[float, float], y: tuple[float, float], label: Callable[[float], str]
) -> str:
    axes = (
        f'<path d="M{_LEFT} 6V{_HEIGHT - _BOTTOM}H{_WIDTH - 8}" fill="none" stroke="var(--line)"/>'
        f'<text x="{_LEFT - 6}" y="14" text-anchor="end">{y[1]:,.0f}</text>'
        f'<text x="{_LEFT - 6}" y="{_HEIGHT - _BOTTOM}" text-anchor="end">{y[0]:,.0f}</text>'
        f'<text x="{_LEFT}" y="{_HEIGHT - 5}">{_text(label(x[0]))}</text>'
        f'<text x="{_WIDTH - 8}" y="{_HEIGHT - 5}" text-anchor="end">{_text(label(x[1]))}</text>'
    )
    return _wrapped(title, f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}">{axes}{"".join(parts)}</svg>')


def _wrapped(title: str, svg: str) -> str:
    return f"<figure><h2>{_text(title)}</h2>{svg}</figure>"


def _x(share: float) -> float:
    return _LEFT + share * (_WIDTH - 8 - _LEFT)


def _y(share: float) -> float:
    return _HEIGHT - _BOTTOM - share * (_HEIGHT - _BOTTOM - 8)


def _date(seconds: float) -> str:
    try:
        return time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(seconds))
    except (OverflowError, ValueError, OSError):  # a damaged ledger's
        return f"no date ({seconds:g})"


def _text(value: str) -> str:
    return html.escape(visible(without_secrets(str(value))))
