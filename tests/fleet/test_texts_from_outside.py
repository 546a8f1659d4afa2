"""Names with escape sequences and URIs with credentials: no output of a run contains either."""

import io

import pytest

from pipeline.common.progress import Reporter
from pipeline.common.visible_text import show
from pipeline.errors import DriveError
from pipeline.fleet.discover.discovery import iter_drives
from pipeline.fleet.records.ledger import read_run
from pipeline.fleet.status.run_report import render_run_report
from pipeline.fleet.status.summary import status_text
from pipeline.storage import UnreachableError, retry
from tests.fleet.standins import World

ESCAPES = "\x1b]0;PWNED\x07\x1b[2J\x1b[31m\u202e"
SECRETS = ("wJalrXU", "SECRETPART", "PASSWORDB", "SASSECRET", "PLAINSECRET", "hunter22/x")


def everything(run, output, said, capsys):
    """All texts that leave a run: its log, the files in the output, its status on a terminal, its page."""
    show(status_text(read_run(str(output)), 20, 1.0))
    stored = "".join(path.read_bytes().decode() for path in output.rglob("*") if path.is_file())
    return said.getvalue() + stored + capsys.readouterr().out + render_run_report(run)


@pytest.fixture
def said():
    return io.StringIO()


def test_no_escape_sequence_of_a_name_reaches_log_ledger_status_or_page(tmp_path, said, capsys):
    drives, output = tmp_path / "in", tmp_path / "out"
    for name in ("good", f"{ESCAPES}folder"):
        (drives / name).mkdir(parents=True)
        for number in range(4):
            (drives / name / f"{number}{ESCAPES}.png").write_bytes(b"x")
    (drives / f"{ESCAPES}lidar").mkdir()
    (tmp_path / "list.csv").write_text(f'drive_id,uri\n"{ESCAPES}x",/q\nok2,"/q/{ESCAPES}z"\n')
    noted = []
    refs = [*iter_drives(str(drives), note=noted.append), *iter_drives(str(tmp_path / "list.csv"), note=noted.append)]
    world = World(bad={"ok2": DriveError(f"drive ok2: /q/{ESCAPES}z is no drive")})
    reporter = Reporter(said)
    for note in noted:
        reporter.say(note)
    run = world.run(output, refs, reporter)
    text = everything(run, output, said, capsys)
    assert "PWNED" in text and len(run.rows) >= 3
    assert not any(mark in text for mark in ("\x1b", "\x07", "\u202e"))


def test_no_piece_of_a_credential_reaches_log_ledger_status_or_page(tmp_path, said, capsys, monkeypatch):
    monkeypatch.setattr(retry, "STORE_WAITS_S", (0.01,))  # the time between tries shows nothing here
    output = tmp_path / "out"
    uris = {
        "a": "s3://AKIAEXAMPLE:wJalrXU/SECRETPART@bucket/drives/a",
        "b": "http://user:PASSWORDB@127.0.0.1:9/x.mp4",
        "c": "http://127.0.0.1:9/x.mp4?sv=1&sig=SASSECRET",
        "d": "s3://AKIAEXAMPLE:PLAINSECRET@bucket/drives/a",
        "e": "https://me:hunter22/x@host/drive",
    }
    (tmp_path / "list.csv").write_text("drive_id,uri\n" + "".join(f"{name},{uri}\n" for name, uri in uris.items()))
    # as clients of stores report it: the URI as given, or the parts into which they split it
    bad = {name: UnreachableError(f"cannot list {uri}") for name, uri in uris.items()}
    bad["a"] = DriveError('Invalid bucket name "AKIAEXAMPLE:wJalrXU", key SECRETPART@bucket/drives/a')
    run = World(bad=bad).run(output, iter_drives(str(tmp_path / "list.csv")), Reporter(said), fleet={"max_attempts": 1})
    text = everything(run, output, said, capsys)
    assert len(run.rows) == 5 and "bucket/drives/a" in text and "127.0.0.1:9/x.mp4" in text
    assert [secret for secret in SECRETS if secret in text] == []
