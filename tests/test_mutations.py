"""Every small file that the program reads, damaged at random: a typed error that names the file, or a correct result.

Never a traceback of another kind, ten seconds, a write outside the root, 500 MB. Seeded: number N of a kind is always
the same damage. A tenth of it in CI, all of it marked full.
"""

import contextlib
import hashlib
import json
import random
from dataclasses import asdict, replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from models import Reconstructor
from models.checkpoint import save_checkpoint
from pipeline.config import RunConfig
from pipeline.errors import PipelineError
from pipeline.fleet.discover.drive_list import read_drive_list
from pipeline.fleet.records.failure_records import FAILED_FOLDER, Failure, Failures
from pipeline.fleet.records.ledger import DriveRow, RunInfo, read_run
from pipeline.fleet.status.run_report import render_run_report
from pipeline.fleet.status.summary import status_text
from pipeline.forward.loop_chunks import LoopChunk
from pipeline.forward.network import NetworkSpec, _config_of
from pipeline.forward.staging import read_chunk, write_chunk
from pipeline.leases import LEASES_FOLDER, Leases
from pipeline.publish import PublishConfig, open_drive, publish_drive
from pipeline.publish.existing_result import look_at
from pipeline.publish.verify import verify_drive
from pipeline.report.drive_view import DriveView
from pipeline.settings_file import read_settings
from pipeline.staged_drive import StagedDrive, read_staged_drive, write_staged_drive
from pipeline.storage import StoredFile
from tests.forward.test_staging import made_up
from tests.mutators import damaged_bytes, damaged_json, damaged_lines, damaged_table, survives
from tests.networks import small_network
from tests.publish.drives import Loop, small_drive

FEW, MANY = 50, 500
TABLES = ("poses", "chunks", "loops", "cameras", "points/part-00000")
LISTS = ("drives.csv", "drives.jsonl", "drives.json", "drives.parquet")
# errors of readers; models/ and settings do not know the pipeline's error classes and raise ValueError with one line
TYPED: tuple[type[BaseException], ...] = (PipelineError,)

every_kind = pytest.mark.parametrize(
    "numbers",
    [pytest.param(range(FEW), id="few"), pytest.param(range(FEW, MANY), id="many", marks=pytest.mark.full)],
)


def damage(path, data, numbers, read, root, *, how=(damaged_bytes,), named=None, allowed=TYPED):
    """Damage the file with each number and read it; assert that the reader reacted correctly each time."""
    read()  # the undamaged file is read first; this also imports everything that reading needs
    faults = {}
    for number in numbers:
        chance = random.Random(f"{path.name}-{number}")
        path.write_bytes(chance.choice(how)(data, chance))
        fault = survives(read, root, allowed, named or path.name)
        if fault is not None:
            faults[number] = fault
    path.write_bytes(data)
    assert not faults, f"{len(faults)} of {len(numbers)}: {dict(list(faults.items())[:12])}"


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """One drive of 12 frames, with revisits, a bad frame and shards of points."""
    root = tmp_path_factory.mktemp("output")
    loops = [
        Loop(range(2), range(8, 10), 0.9, 0.1, True, None),
        Loop(range(1, 3), range(9, 11), 0.8, None, False, "far"),
    ]
    drive = small_drive(12, bad=[3], left_out=[7], loops=loops)
    options = PublishConfig(shard_rows=300, row_group_rows=100)
    publish_drive(str(root), drive.facts, drive.chunks, drive.joined, options, drive.run)
    return root


def read_result(root):
    """Everything that commands do with a result, done once."""
    verify_drive(str(root), "drive-1")
    look_at(str(root), "drive-1")
    drive = open_drive(str(root), "drive-1", check_hashes=True)
    view = DriveView.of(drive)
    assert len(view.poses) == drive.manifest.counts.frames
    _ = view.path, view.up, view.ground, view.step, view.length, view.stretches, view.confidence, view.loops, view.chunk
    _ = drive.cameras, drive.lens, drive.masks, drive.undistorted_view(), drive.typical, drive.manifest.turn
    drive.points(box=((-5, -5, -5), (5, 5, 5)), far=3.0)
    assert drive.points(voxel=0.5).num_rows <= drive.manifest.counts.points
    for uri in drive.cameras.uris[:2]:
        with contextlib.suppress(PipelineError):
            drive.frame_source.locate(uri)


@every_kind
def test_a_damaged_manifest_is_named_or_read_correctly(published, numbers):
    path = published / "drive-1" / "manifest.json"
    data = path.read_bytes()
    read = lambda: read_result(published)  # noqa: E731
    damage(path, data, numbers, read, published, how=(damaged_bytes, damaged_json, damaged_json), named="drive-1")


@every_kind
@pytest.mark.parametrize("table", TABLES)
def test_a_damaged_table_is_named_or_read_correctly(published, table, numbers):
    """Size, hash and number of rows in the manifest are corrected, as the writer of the table would do."""
    path, manifest = published / "drive-1" / f"{table}.parquet", published / "drive-1" / "manifest.json"
    data, said = path.read_bytes(), json.loads(manifest.read_text())
    said.pop("checksum")
    whole = manifest.read_bytes()

    def read():
        text = json.loads(json.dumps(said))
        entry = next(file for file in text["files"] if file["path"] == f"{table}.parquet")
        entry |= {"size": path.stat().st_size, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
        manifest.write_text(json.dumps(text))
        read_result(published)

    def rewritten(data, chance):
        sink = pa.BufferOutputStream()
        pq.write_table(damaged_table(pq.read_table(pa.BufferReader(data)), chance), sink)
        return sink.getvalue().to_pybytes()

    try:
        damage(path, data, numbers, read, published, how=(damaged_bytes, rewritten), named=path.name)
    finally:
        manifest.write_bytes(whole)


@every_kind
def test_a_damaged_note_of_staged_predictions_is_named(tmp_path, numbers):
    listing = [StoredFile(f"/in/{n}.png", f"{n}.png", 1000 + n, f"etag{n}") for n in range(12)]
    facts = replace(small_drive(12).facts, listing=listing)
    loops = (LoopChunk(1, 9, 0.9, (0, 1, 2, 8, 9, 10)),)
    staged = StagedDrive(facts, "20260101T000000-01234567", 5, loops, tuple(range(12)), "b" * 64, True)
    write_staged_drive(str(tmp_path), staged, RunConfig())
    path = tmp_path / "_staging" / "drive-1" / "staged.json"

    def read():
        got, config = read_staged_drive(str(tmp_path), "drive-1")
        assert got.facts.frame_count == len(got.facts.frame_uris) and isinstance(config, RunConfig)

    damage(path, path.read_bytes(), numbers, read, tmp_path, how=(damaged_bytes, damaged_json, damaged_json))


@every_kind
def test_a_damaged_staged_chunk_is_named(tmp_path, numbers):
    write_chunk(str(tmp_path), 3, made_up())
    path = tmp_path / "chunk-00003.safetensors"
    damage(
        path, path.read_bytes(), numbers, lambda: read_chunk(str(tmp_path), 3), tmp_path, how=(damaged_bytes, in_header)
    )


@every_kind
def test_a_damaged_lease_is_waited_for_no_longer_than_a_lease(tmp_path, numbers, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = tmp_path / LEASES_FOLDER
    folder.mkdir()
    data = Leases(str(tmp_path), "another", 30.0).take("drive-1").text

    def read():
        leases = Leases(str(tmp_path), "this run", 30.0)
        taken = leases.take("drive-1")
        assert getattr(taken, "left_s", 0.0) <= 3600 + 10 and (not hasattr(taken, "said") or len(taken.said) < 2000)

    damage(folder / "drive-1.json", data, numbers, read, tmp_path, how=(damaged_bytes, damaged_json, damaged_json))


@every_kind
def test_a_damaged_failure_record_is_ignored_or_read_correctly(tmp_path, numbers):
    folder = tmp_path / FAILED_FOLDER
    folder.mkdir()
    failure = Failure("drive-1", "failed", True, "no frames", "find", 3, 1, "a" * 64, "run-1", 1.5)
    data = json.dumps(asdict(failure)).encode()
    (folder / "drive-1.json").write_bytes(data)

    def read():
        got = Failures(str(tmp_path)).get("drive-1")
        assert got is None or got.concerns("a" * 64) in (True, False)

    damage(folder / "drive-1.json", data, numbers, read, tmp_path, how=(damaged_bytes, damaged_json, damaged_json))


@every_kind
@pytest.mark.parametrize("name", ["run.json", "rows-000000000-000000000.jsonl"])
def test_a_damaged_ledger_is_named_or_shown(tmp_path, name, numbers):
    folder = tmp_path / "_runs" / "20260101T000000-run"
    folder.mkdir(parents=True)
    info = RunInfo("20260101T000000-run", "in", "finished", 1.0, 5.0, 6.0, "here", 7, ("a",), {"x": 1}, listed=True)
    rows = [
        DriveRow(
            f"d{n}", f"in/d{n}", ("t",), state, 1, "a reason", "find", 3, 9, 2, 1, 99, 5, {"find": 0.5}, ended_at=4.0
        )
        for n, state in enumerate(("published", "failed", "quarantined", "skipped"))
    ]
    (folder / "run.json").write_text(json.dumps(asdict(info)))
    (folder / "rows-000000000-000000000.jsonl").write_text("\n".join(json.dumps(asdict(row)) for row in rows))

    def read():
        run = read_run(str(tmp_path))
        assert status_text(run, 20, 7.0) and render_run_report(run)

    how = (damaged_bytes, damaged_json if name == "run.json" else damaged_lines, damaged_bytes)
    data = (folder / name).read_bytes()
    damage(folder / name, data, numbers, read, tmp_path, how=how, named="20260101T000000-run")


def in_header(data, chance):
    """A safetensors file whose header, which is JSON, has other values."""
    length = int.from_bytes(data[:8], "little")
    header = damaged_json(data[8 : 8 + length].rstrip(), chance)
    said = chance.choice((len(header), len(header), len(header), 2**63, 10**9, 0))
    return said.to_bytes(8, "little") + header + data[8 + length :]


@every_kind
def test_a_damaged_checkpoint_is_named_or_opened(tmp_path, numbers):
    small = small_network(
        embed_dim=16,
        image_size=28,
        memory_layers=(1,),
        dense_features=8,
        dense_channels=(8, 8, 8, 8),
        chunk_size=6,
        chunk_overlap=3,
    )
    torch.manual_seed(0)
    path = tmp_path / "net.safetensors"
    save_checkpoint(Reconstructor(small), path)

    def read():
        _config_of.cache_clear()
        NetworkSpec(None, str(path)).check()
        NetworkSpec(None, str(path)).config()

    damage(path, path.read_bytes(), numbers, read, tmp_path, how=(damaged_bytes, in_header))


SETTINGS = """
chunk_size = 12
overlap = 4
precision = "float32"
device = "cpu"
max_bad_share = 0.25
[loop]
[publish]
voxel_size = 0.1
with_points = true
[backend]
"""


@every_kind
def test_a_damaged_settings_file_is_named_or_read_correctly(tmp_path, numbers):
    path = tmp_path / "settings.toml"
    path.write_text(SETTINGS)
    read = lambda: read_settings(path)  # noqa: E731
    how = (damaged_bytes, damaged_lines, damaged_lines)
    damage(path, SETTINGS.encode(), numbers, read, tmp_path, how=how, allowed=(*TYPED, ValueError))


@every_kind
@pytest.mark.parametrize("name", LISTS)
def test_the_error_for_a_damaged_drive_list_names_the_file_or_the_row(tmp_path, name, numbers):
    rows = [
        {"drive_id": f"d{n}", "uri": f"in/d{n}", "start": n, "end": n + 9, "fps": 2.5, "tags": "a;b"} for n in range(6)
    ]
    path, sink = tmp_path / name, pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(rows), sink)
    texts = {
        "drives.csv": "\n".join(",".join(map(str, row)) for row in [rows[0].keys(), *(row.values() for row in rows)]),
        "drives.jsonl": "\n".join(map(json.dumps, rows)),
        "drives.json": json.dumps({"drives": rows}),
    }
    data = texts[name].encode() if name in texts else sink.getvalue().to_pybytes()
    path.write_bytes(data)

    def rewritten(data, chance):
        sink = pa.BufferOutputStream()
        pq.write_table(damaged_table(pq.read_table(pa.BufferReader(data)), chance), sink)
        return sink.getvalue().to_pybytes()

    def read():
        for one in read_drive_list(str(path)):
            assert "\x1b" not in getattr(one, "reason", "")

    other = {"drives.json": damaged_json, "drives.parquet": rewritten}.get(name, damaged_lines)
    damage(path, data, numbers, read, tmp_path, how=(damaged_bytes, other, other))


def test_a_write_outside_the_root_is_noticed(tmp_path):
    """A test of the check itself: it finds a write that it must find."""
    (tmp_path / "root").mkdir()
    outside = tmp_path / "outside"
    assert "wrote outside" in str(survives(lambda: outside.write_text("x"), tmp_path / "root", TYPED, ""))
    assert "wrote outside" in str(survives(outside.unlink, tmp_path / "root", TYPED, ""))
    assert survives(lambda: (tmp_path / "root" / "a").write_text("x"), tmp_path / "root", TYPED, "") is None
    assert "KeyError" in str(survives(lambda: {}["a"], tmp_path, TYPED, ""))
