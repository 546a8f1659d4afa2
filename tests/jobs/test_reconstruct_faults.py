"""Real faults in runs over many drives: processes killed and stopped, drives damaged in ten ways, a network
that overflows, Ctrl-C, two runs."""

import io
import json
import os
import shutil
import signal
import subprocess
import time

import av
import pytest
import safetensors
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from pipeline.fleet.records.ledger import list_runs, read_run
from pipeline.fleet.schedule.drive_lifecycle import DriveLifecycle
from pipeline.fleet.schedule.group import Group
from pipeline.forward.events import Progress, RankUp
from tests.jobs.conftest import folder_of_images, image
from tests.jobs.runs import PLAIN, ROOT, command, environment, left_over, results, run, states

pytestmark = [pytest.mark.cluster, pytest.mark.slow]


def zero_bytes(drive):
    for path in list(drive.iterdir())[::2]:
        path.write_bytes(b"")


def cut_short(drive):
    for path in list(drive.iterdir())[::2]:
        path.write_bytes(path.read_bytes()[:150])


def other_sizes(drive):
    for number in range(1, 4):
        image(number, (60, 62)).save(drive / f"frame{number}.png")


def bombs(drive):
    data = io.BytesIO()
    Image.new("1", (30_000, 30_000)).save(data, "PNG")
    for number in range(3):
        (drive / f"frame{number}.png").write_bytes(data.getvalue())


def texts(drive):
    for path in drive.iterdir():
        path.write_text("no image")


def nothing(drive):
    shutil.rmtree(drive)
    drive.mkdir()


def truncated_video(drive):
    shutil.rmtree(drive)
    with av.open(str(drive.parent / "whole.mp4"), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height = 120, 62
        for number in range(6):
            for packet in stream.encode(av.VideoFrame.from_image(image(number))):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    data = (drive.parent / "whole.mp4").read_bytes()
    (drive.parent / "whole.mp4").unlink()
    drive.write_bytes(data[: len(data) // 2])  # cut off before its index, which is at the end


# kind of damage -> how the drive is damaged, what the reported reason contains
TEN_WAYS = {
    "zero-bytes": (zero_bytes, "3 of 6 frames are bad"),
    "cut-short": (cut_short, "3 of 6 frames are bad"),
    "other-sizes": (other_sizes, "3 of 6 frames are bad"),
    "bombs": (bombs, "3 of 6 frames are bad"),
    "texts": (texts, "readable image"),
    "nothing": (nothing, "no frames"),
    "truncated.mp4": (truncated_video, "truncated.mp4"),
    "gone": (shutil.rmtree, "gone"),
    "out-of-range": (lambda drive: None, "starts at frame 50"),
    "../climbs": (lambda drive: None, "../climbs"),
}


def fleet_of(folder, good, bad):
    """Drive lists of all and of the good drives, and the expected reasons of the bad ones (ten kinds in turn)."""
    rows, reasons = [], {}
    for number in range(good):
        drive = folder_of_images(folder / f"good-{number:03d}", 4 + number % 3)
        rows.append({"drive_id": drive.name, "uri": str(drive)})
    for number in range(bad):
        way = list(TEN_WAYS)[number % 10]
        spoil, reason = TEN_WAYS[way]
        place = folder_of_images(folder / f"{number}-{way.replace('../', '')}", 6)
        spoil(place)
        drive_id = f"../climbs-{number}" if way.startswith("..") else f"bad-{number}"
        row = {"drive_id": drive_id, "uri": str(place)}
        if way == "out-of-range":
            row |= {"start": 50, "end": 60}
        rows.append(row)
        reasons[drive_id] = reason
    manifest = folder / "drives.jsonl"
    # bad drives are distributed among the good ones
    rows.sort(key=lambda row: row["uri"][::-1])
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    only_good = folder / "good.jsonl"
    only_good.write_text("".join(json.dumps(row) + "\n" for row in rows if row["drive_id"].startswith("good")))
    return manifest, only_good, reasons


def bad_among_good(tmp_path, weights, good, bad):
    """Run all drives, and the good ones alone; the good results must be equal to the byte."""
    manifest, only_good, reasons = fleet_of(tmp_path / "in", good, bad)
    out, calm = tmp_path / "out", tmp_path / "calm"
    begun = time.monotonic()
    assert run("--input", manifest, "--output", out, "--weights", weights, *PLAIN) == 1
    spent = time.monotonic() - begun
    rows = read_run(str(out)).rows
    failed = {drive_id: row for drive_id, row in rows.items() if row.state == "failed"}
    assert len(failed) == bad and sum(row.state == "published" for row in rows.values()) == good
    for drive_id, expected in reasons.items():
        assert expected in failed[drive_id].reason, (drive_id, failed[drive_id].reason)
        assert failed[drive_id].stage
    assert run("--input", only_good, "--output", calm, "--weights", weights, *PLAIN) == 0
    assert results(out) == results(calm) and len(results(out)) == good
    assert not left_over(out) and not list(out.rglob("*.tmp"))
    assert not list(tmp_path.glob("climbs*")) and not list((tmp_path / "in").glob("_*"))
    print(f"\n{good + bad} drives, {bad} bad in ten ways, {good} equal to the byte, {spent:.0f} s")


@pytest.mark.usefixtures("one_ray")
def test_ten_kinds_of_damage_are_named_and_the_good_drives_are_equal_to_the_byte(tmp_path, weights):
    bad_among_good(tmp_path, weights, good=3, bad=10)


def with_changes(weights, path, change):
    """A copy of a weights file in which the first layer of the encoder is changed."""
    with safetensors.safe_open(weights, "pt") as file:
        metadata = file.metadata()
    tensors = load_file(weights)
    name = next(name for name in tensors if name.endswith("patch_embed.proj.weight"))
    tensors[name] = change(tensors[name])
    save_file(tensors, path, metadata)
    return path


def alternating(tensor):
    """1 or -1 by channel, so that the mean that a layer norm subtracts is zero."""
    sign = 1 - 2 * (torch.arange(len(tensor), dtype=tensor.dtype) % 2)
    return sign.reshape(-1, 1, 1, 1).expand_as(tensor).contiguous()


@pytest.mark.usefixtures("one_ray")
def test_a_network_that_overflows_on_white_frames_fails_that_drive_and_no_other(tmp_path, weights, capsys):
    fleet, out = tmp_path / "fleet", tmp_path / "out"
    for name in ("a", "c"):
        folder_of_images(fleet / name, 8)
    (fleet / "white").mkdir()
    for number in range(8):
        image = Image.new("RGB", (120, 62), "white")
        image.paste((235, 235, 235), (0, 0, 8, 8))  # a picture of one colour would be flagged as a bad frame
        image.save(fleet / "white" / f"frame{number}.png")
    # a patch of noise sums to about 170, a white one to 1434: there the squares of a layer norm overflow float32
    hot = with_changes(weights, tmp_path / "hot.safetensors", lambda tensor: 2.5e15 * alternating(tensor))
    assert run("--input", fleet, "--output", out, "--weights", hot, *PLAIN) == 1
    assert states(out) == {"a": "published", "c": "published", "white": "failed"}
    row = read_run(str(out)).rows["white"]
    assert "is not finite at frame" in row.reason and row.stage.startswith("forward") and row.frame is not None
    assert sorted(results(out)) == ["a", "c"] and not left_over(out)

    nan = with_changes(weights, tmp_path / "nan.safetensors", lambda tensor: tensor * float("nan"))
    assert run("--input", fleet, "--output", tmp_path / "none", "--weights", nan, *PLAIN) == 1
    assert "not finite numbers: " in capsys.readouterr().err and not results(tmp_path / "none")
    assert run("--input", fleet / "white", "--output", out, "--drive-id", "white", "--weights", weights, *PLAIN) == 0
    assert "white" in results(out)  # with other weights no --retry-failed is needed


@pytest.mark.full
@pytest.mark.timeout(5400)
@pytest.mark.usefixtures("one_ray")
def test_of_two_hundred_drives_the_twenty_damaged_ones_are_reported_and_the_others_published(tmp_path, weights):
    good = int(os.environ.get("CITY_FAULT_DRIVES", "180"))  # a slow machine uses fewer
    bad_among_good(tmp_path, weights, good, bad=max(10, good // 9))


@pytest.mark.full
@pytest.mark.timeout(1800)
@pytest.mark.usefixtures("one_ray")
def test_a_killed_rank_and_a_stopped_rank_cost_their_drive_one_try_each(tmp_path, weights, monkeypatch):
    fleet, out, calm = tmp_path / "fleet", tmp_path / "out", tmp_path / "calm"
    for name, count in (("a", 90), ("b", 80), ("c", 10)):
        (fleet / name).mkdir(parents=True)
        for number in range(count):
            image(number % 40).save(fleet / name / f"frame{number}.png")
    # longer than ranks on a busy machine wait for each other; otherwise a try would be lost
    barrier = ("--fleet.barrier-timeout-s", 40)
    arguments = ("--input", fleet, "--weights", weights, "--workers", 2, *PLAIN, *barrier)
    assert run(*arguments, "--output", calm) == 0
    pids, at, again, story = {}, {}, {}, []
    phase, on_event = DriveLifecycle.phase, Group._on_event
    signals = {"a": signal.SIGKILL, "b": signal.SIGSTOP}

    def told(group, event):
        if isinstance(event, RankUp):
            pids[event.rank] = event.pid  # the group that runs now; processes of the last group may still exist
        if not isinstance(event, Progress):
            story.append(f"{time.monotonic():.1f} {event}"[:200])
        on_event(group, event)

    def with_faults(book, drive_id, name):
        phase(book, drive_id, name)
        if drive_id in signals and drive_id not in at:
            at[drive_id] = time.monotonic()
            story.append(f"{at[drive_id]:.1f} {signals[drive_id].name} to {pids[1]} in {name} of {drive_id}")
            os.kill(pids[1], signals[drive_id])
        elif drive_id in at and drive_id not in again and book.ledger.row(drive_id).attempts == 2:
            again[drive_id] = time.monotonic()

    monkeypatch.setattr(Group, "_on_event", told)
    monkeypatch.setattr(DriveLifecycle, "phase", with_faults)
    assert run(*arguments, "--output", out) == 0
    rows = read_run(str(out)).rows
    assert set(states(out).values()) == {"published"}
    assert {name: row.attempts for name, row in rows.items()} == {"a": 2, "b": 2, "c": 1}, "\n".join(story)
    assert results(out) == results(calm)
    assert not left_over(out)
    for name in at:
        print(f"\n{signals[name].name}: back at the drive after {again[name] - at[name]:.0f} s")


def start(*arguments, **options):
    options |= {"stderr": subprocess.PIPE, "text": True, "start_new_session": True}
    return subprocess.Popen(command(*arguments), cwd=ROOT, env=environment(), **options)


@pytest.mark.full
def test_ctrl_c_keeps_finished_drives_and_the_same_command_does_the_others(tmp_path, weights):
    fleet, out = tmp_path / "fleet", tmp_path / "out"
    for number in range(6):
        folder_of_images(fleet / f"d{number}", 9)
    arguments = ("--input", fleet, "--output", out, "--weights", weights, *PLAIN)
    # a background shell ignores the signal, and so do its children
    heard = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.default_int_handler)}
    job = start(*arguments, stdout=subprocess.PIPE, **heard)
    while not list(out.glob("*/manifest.json")):
        assert job.poll() is None, job.communicate()
        time.sleep(0.05)
    os.killpg(job.pid, signal.SIGINT)  # as a terminal sends it
    said = "".join(job.communicate(timeout=120))
    assert job.returncode == 130 and "Traceback" not in said, said
    assert "the same command goes on with what is left" in said
    done = {path.parent.name: path.read_bytes() for path in out.glob("*/manifest.json")}
    assert 0 < len(done) < 6 and read_run(str(out)).info.state == "interrupted"
    assert run(*arguments) == 0
    now = {path.parent.name: path.read_bytes() for path in out.glob("*/manifest.json")}
    assert len(now) == 6 and done.items() <= now.items() and not left_over(out)


@pytest.mark.full
@pytest.mark.timeout(900)
def test_after_a_killed_driver_two_runs_at_once_do_every_drive_once(tmp_path, weights):
    fleet, out = tmp_path / "fleet", tmp_path / "out"
    names = [f"d{number}" for number in range(5)]
    for name in names:
        folder_of_images(fleet / name, 8)
    settings = ("--fleet.wave-drives", 1, "--fleet.lease-s", 20)
    arguments = ("--input", fleet, "--output", out, "--weights", weights, *PLAIN, *settings)
    first = start(*arguments)
    while not list(out.glob("*/manifest.json")):
        assert first.poll() is None, first.communicate()
        time.sleep(0.05)
    os.killpg(first.pid, 9)
    first.wait()
    done = {path.parent.name for path in out.glob("*/manifest.json")}
    before = {name: (out / name / "manifest.json").read_bytes() for name in done}
    assert read_run(str(out)).info.state in ("running", "lost") and len(done) < len(names)
    begun = time.monotonic()
    both = [start(*arguments), start(*arguments)]
    for job in both:
        _, said = job.communicate(timeout=800)
        assert job.returncode == 0, said[-2000:]
    print(f"\ndriver killed: the same command was through with the rest after {time.monotonic() - begun:.0f} s")
    assert sorted(path.parent.name for path in out.glob("*/manifest.json")) == names
    assert all((out / name / "manifest.json").read_bytes() == text for name, text in before.items())
    runs = [read_run(str(out), run_id) for run_id in list_runs(str(out))[1:]]
    published = [row.drive_id for state in runs for row in state.in_state("published")]
    # each drive is done by one of the two runs,
    assert len(set(published)) == len(published) and not set(published) & done
    assert len(set(names) - set(published) - done) <= 1  # or by a task of the killed run that was still running
    assert not left_over(out) and not list(out.rglob("_version-*"))
