"""Core-seconds of stages: what each frame costs is told apart from what each drive costs."""

import pytest

from pipeline.benchmark.core_seconds import CoreSeconds, beside_the_network


def test_what_a_drive_costs_whatever_its_length_is_not_counted_for_its_frames():
    runs = {frames: {"tracks": 6 + 0.06 * frames, "adjustment": 9 + 0.04 * frames} for frames in (801, 201)}
    runs[51] = {"tracks": 1.0, "adjustment": 0.5}  # a short drive starts fewer processes and asks fewer windows
    found = CoreSeconds.between(runs)
    assert found.of_frame == pytest.approx({"tracks": 0.06, "adjustment": 0.04})
    assert found.of_drive == pytest.approx({"tracks": 6, "adjustment": 9})
    assert found.of_refinement == pytest.approx(0.1)
    short = CoreSeconds.between({frames: runs[frames] for frames in (51, 201)})
    assert found.settled and not short.settled and short.of_refinement > 0.2


def test_one_run_has_no_share_that_is_known_to_be_fixed_and_none_has_no_figures():
    assert CoreSeconds.between({100: {"tracks": 8.0}}) == CoreSeconds({"tracks": 0.08}, {})
    assert CoreSeconds.between({}) == CoreSeconds({}, {})


def test_decoding_is_taken_off_what_the_tasks_beside_the_network_spend():
    own, others = {"forward": 90.0, "refine": 1.0, "join": 2.0}, {"forward": 16.0, "refine": 8.0}
    spent = beside_the_network(own, others, 200, 0.013)
    assert spent == pytest.approx(
        {"decoding": 2.6, "tracks": 13.4, "adjustment": 9.0, "joining": 2.0, "publishing": 0.0}
    )
