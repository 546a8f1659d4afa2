"""A plan is made from headers alone. It recognises results by their identity, and its estimates fit real figures."""

import dataclasses
import json
from types import SimpleNamespace

import pytest
import torch

from models import ModelConfig, Reconstructor
from models.tokens import middle_first
from pipeline.config import RunConfig
from pipeline.errors import DecodeError
from pipeline.fleet import dry_run as estimates
from pipeline.fleet.discover.drive_ref import DriveRef, RefusedDrive
from pipeline.fleet.dry_run import measured_rate, stored_rate, what_does_not_fit
from pipeline.fleet.plan.drive_plan import (
    Planner,
    drive_config,
    estimate,
    ranks_needed,
    selected,
    state_bytes_per_frame,
)
from pipeline.fleet.records.failure_records import Failure, Failures
from pipeline.fleet.schedule.group_size import GroupSize
from pipeline.tracked_drive import staged_track_bytes
from tests.fleet.standins import World, made_up_drive
from tests.networks import small_network


@pytest.mark.parametrize("name", ["city_tiny", "small"])
def test_the_estimated_bytes_of_a_waiting_chunk_equal_those_of_a_real_chunk(name):
    model = ModelConfig.city_tiny() if name == "city_tiny" else small_network(chunk_size=6, chunk_overlap=3)
    network = Reconstructor(model).eval()
    height, width, frames = 2 * model.patch_size, 4 * model.patch_size, 4
    with torch.inference_mode():
        tokens = network.encode(torch.rand(frames, 3, height, width))
        state = network.begin(tokens[middle_first(list(range(frames)))][None], (2, 4))
        most = 0
        for _ in model.segments:
            state = network.aggregator.run_segment(state, network.keep_projected)
            most = max(most, state.nbytes)
            state = network.aggregator.finish_segment(state, None, network.keep_projected)
    said = frames * state_bytes_per_frame(model, height, width, 4)
    assert most <= said <= 1.6 * most + frames * height * width * 3


def planner(tmp_path, **settings):
    world = World()
    config = RunConfig(output=str(tmp_path), input="made-up", **settings)
    return world, world.planner(config, str(tmp_path), Failures(str(tmp_path)))


def test_the_identity_of_a_drive_depends_on_listing_weights_settings_and_range(tmp_path):
    world, one = planner(tmp_path)
    ref = DriveRef("d", "in/d")
    first = one.plan(ref).identity
    assert first == planner(tmp_path, workers=3, limit=2, plan=True)[1].plan(ref).identity
    assert first != dataclasses.replace(one, weights_sha256="other").plan(ref).identity
    assert first != planner(tmp_path, chunk_size=7)[1].plan(ref).identity
    assert first != one.plan(dataclasses.replace(ref, start=2)).identity
    world.frames["d"] = 11
    assert first != one.plan(ref).identity


def test_range_and_rate_of_a_drive_list_override_those_of_the_run():
    config = drive_config(RunConfig(stride=3, start=1), DriveRef("d", "in/d", end=9, fps=2.0))
    assert (config.start, config.end, config.fps, config.stride) == (1, 9, 2.0, 1)


def test_only_and_retry_failed_select_by_name_tag_and_failure_record(tmp_path):
    refs = [DriveRef("north-1", "u", tags=("rain",)), DriveRef("south-1", "u"), RefusedDrive("north-2", "u", "why")]
    failures = Failures(str(tmp_path))
    failures.put(Failure("south-1", "failed", True, "why", "find", None, 1, None, "run", 0.0))

    def ids(**settings):
        return [ref.drive_id for ref in selected(refs, RunConfig(**settings), failures)]

    assert ids() == ["north-1", "south-1", "north-2"]
    assert ids(only="north*") == ["north-1", "north-2"] and ids(only="rain") == ["north-1"]
    assert ids(retry_failed=True) == ["south-1", "north-2"]  # discovery refuses it each time
    assert Failures(str(tmp_path)).get("south-1").reason == "why"
    failures.forget("south-1")
    assert Failures(str(tmp_path)).get("south-1") is None


def test_a_damaged_failure_record_is_ignored(tmp_path):
    failures = Failures(str(tmp_path))
    failures.put(Failure("d", "failed", True, "why", "find", None, 1, None, "run", 0.0))
    (tmp_path / "_failed" / "d.json").write_text("{")
    assert failures.get("d") is None


def test_more_chunks_need_more_ranks_and_a_drive_that_does_not_fit_is_reported():
    config = RunConfig().with_network_defaults(ModelConfig.city_tiny())
    long = made_up_drive(SimpleNamespace(input="in/d", drive_id="d"), frames=1200)
    costs = estimate(long, config, ModelConfig.city_tiny())
    assert costs.frames == 1200 and costs.chunks == 199 and costs.requests > 2400
    assert ranks_needed(costs, costs.state_bytes_chunk * 100) == 2
    assert ranks_needed(costs, costs.state_bytes_chunk - 1) > costs.chunks
    fits = GroupSize(1, 1, 0, True, costs.state_bytes)
    assert what_does_not_fit(costs, fits) is None
    small = dataclasses.replace(fits, rank_bytes=costs.state_bytes // 3)
    assert "--workers 4" in what_does_not_fit(costs, small)
    assert "one chunk waits" in what_does_not_fit(costs, dataclasses.replace(fits, rank_bytes=1000))


def test_pictures_for_tracks_take_room_in_staging_as_far_as_they_are_tracked():
    assert staged_track_bytes(224, 126) == 0, "too small to be tracked"
    assert staged_track_bytes(1226, 370) == pytest.approx(328_000, rel=0.05), "measured on the KITTI clip"
    assert staged_track_bytes(3840, 2160) == pytest.approx(staged_track_bytes(1280, 720), rel=0.01)


def test_frames_per_second_come_from_earlier_runs_or_else_from_stored_figures(tmp_path, monkeypatch):
    config = RunConfig(output=str(tmp_path), input="made-up")
    assert measured_rate(config, str(tmp_path)) is None
    World(frames={"d": 40}).run(tmp_path, ["d"])
    found = measured_rate(config, str(tmp_path))
    assert found.frames_per_s > 0 and "median of 1 drives" in found.source
    assert measured_rate(RunConfig(preset="vit_small"), str(tmp_path)) is None
    for shipped in json.loads(estimates.FIGURES.read_text()):
        assert shipped["frames_per_s"] > 0 and ModelConfig.preset(shipped["network"])
    # the network that comes with the project
    assert stored_rate(config, GroupSize(1, 1, 0, True, 10**9)).frames_per_s > 1
    figures = tmp_path / "figures.json"
    figures.write_text(
        json.dumps(
            [{"network": "city_tiny", "device": "cpu", "frames_per_s": 5.0, "measured": "then", "machine": "two cores"}]
        )
    )
    monkeypatch.setattr(estimates, "FIGURES", figures)
    size = GroupSize(1, 1, 0, True, 10**9)
    assert stored_rate(config, size).source == "then (two cores)"
    assert stored_rate(config, dataclasses.replace(size, gpus=1)) is None


def test_a_drive_that_cannot_be_read_counts_as_failed_before_only_for_the_same_reason(tmp_path):
    world, one = planner(tmp_path)
    world.bad = {"d": DecodeError("drive d: no readable image")}
    assert one.plan(DriveRef("d", "in/d")).todo == "bad"
    one.failures.put(Failure("d", "failed", True, "drive d: no readable image", "find", None, 0, None, "run", 0.0))
    assert one.plan(DriveRef("d", "in/d")).todo == "failed"
    world.bad = {"d": DecodeError("drive d: something else")}
    assert one.plan(DriveRef("d", "in/d")).todo == "bad"
    assert isinstance(one, Planner)
