"""jobs.fuse --network: frames of two drives go through the network in one joint chunk, in a real group of ranks."""

import os
import shutil
import signal
import time

import numpy as np
import pytest

from jobs import status
from pipeline import storage
from pipeline.common.progress import Reporter
from pipeline.errors import CheckpointError
from pipeline.forward.events import Progress, RankUp
from pipeline.fuse import FuseConfig, joint_chunks, open_city, run_fuse
from pipeline.fuse.evidence import FEATURES, Evidence
from pipeline.fuse.plan import plan_of
from pipeline.fuse.published_drives import read_drive
from pipeline.fuse.search import candidates_of
from pipeline.network_settings import NetworkSettings
from pipeline.publish import open_drive
from tests.fuse.rendered_drives import GAUGES, Rendered, place_descriptors, publish

SETTINGS = {"similarity": 0.4, "tile": 20.0, "voxel": 0.2, "copc": False, "change": False, "network": True}
pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.usefixtures("one_ray")]


@pytest.fixture(scope="module")
def output(tmp_path_factory):
    """Two drives through one street, and one through another whose descriptors say that it is the same street."""
    out = tmp_path_factory.mktemp("network") / "out"
    street = Rendered(range(14)), Rendered(range(4, 18), aside=0.5), Rendered(range(46, 60))
    lie = (np.arange(0, 14, 2), place_descriptors(street[0].poses[::2]))
    for name, rendered, gauge in zip("abc", street, (*GAUGES, GAUGES[0]), strict=True):
        publish(out, out.parent / "images" / name, name, rendered, gauge, **({"places": lie} if name == "c" else {}))
    return out


def fused(output, **more):
    return run_fuse(FuseConfig(str(output), **(SETTINGS | more)), Reporter())


def test_two_drives_are_verified_in_joint_chunks_by_a_group_of_ranks_and_a_wrong_pair_is_rejected(
    output, tmp_path, capsys
):
    shutil.copytree(output, tmp_path / "out")
    config = FuseConfig(str(tmp_path / "out"), **SETTINGS)
    drives = [read_drive(open_drive(str(tmp_path / "out"), name)) for name in "abc"]
    plan = plan_of(config.output, config, drives, candidates_of(drives, config)[0])
    assert plan.joint == plan.compared > 2 and plan.joint_known == 0 and plan.joint_core_seconds > 0
    assert any("joint chunks" in line for line in plan.lines())

    result = fused(tmp_path / "out", model=NetworkSettings(workers=2))
    assert result.accepted >= 2
    links = open_city(str(tmp_path / "out")).links.to_pylist()
    right = [one for one in links if {one["first_drive"], one["second_drive"]} == {"a", "b"}]
    wrong = [one for one in links if "c" in (one["first_drive"], one["second_drive"])]
    assert wrong and not any(one["verified"] for one in wrong)
    assert all("features" in one["reason"] and "joint chunk" in one["reason"] for one in wrong)
    assert any(one["accepted"] and "joint chunk agree" in one["reason"] for one in right)
    assert not (tmp_path / "out" / "_city" / "_staging").exists()

    evidence = Evidence(str(tmp_path / "out"), drives)
    (kind,) = set(evidence.kinds) - {FEATURES}
    assert kind.startswith("network 1 ")
    again = fused(tmp_path / "out", images_from="/nowhere")  # every chunk is known: no picture is read, no group starts
    assert (again.links, again.accepted) == (result.links, result.accepted)
    assert plan_of(config.output, config, drives, candidates_of(drives, config)[0]).joint_known == plan.joint
    assert status.main(["--output", str(tmp_path / "out")]) == 0
    assert "finished" in capsys.readouterr().out


def test_weights_that_cannot_be_read_are_named_before_any_chunk_is_predicted(output, tmp_path):
    shutil.copytree(output, tmp_path / "out")
    (tmp_path / "weights.safetensors").write_bytes(b"no weights")
    with pytest.raises(CheckpointError, match=r"weights\.safetensors"):
        fused(tmp_path / "out", model=NetworkSettings(weights=str(tmp_path / "weights.safetensors")))
    assert not (tmp_path / "out" / "_city" / "000001").exists()


@pytest.mark.full
def test_a_killed_rank_only_delays_the_joint_chunks(output, tmp_path, monkeypatch):
    calm, out = tmp_path / "calm", tmp_path / "out"
    for place in (calm, out):
        shutil.copytree(output, place)
    expected = fused(calm, model=NetworkSettings(workers=2))
    pids, killed = {}, []
    run_forward = joint_chunks.run_forward

    def with_a_death(job, tasks, *, group, on_event):
        def told(event):
            if isinstance(event, RankUp):
                pids[event.rank] = event.pid
            if isinstance(event, Progress) and not killed:
                killed.append(pids[1])
                os.kill(pids[1], signal.SIGKILL)
            on_event(event)

        return run_forward(job, tasks, group=group, on_event=told)

    monkeypatch.setattr(joint_chunks, "run_forward", with_a_death)
    begun = time.monotonic()
    found = fused(out, model=NetworkSettings(workers=2))
    print(f"\na killed rank: {time.monotonic() - begun:.0f} s")
    assert killed and (found.links, found.accepted) == (expected.links, expected.accepted)
    rows = [open_city(str(place)).links.drop_columns(["chi2"]).to_pylist() for place in (calm, out)]
    assert [row["verified"] for row in rows[0]] == [row["verified"] for row in rows[1]]
    assert not [path for path in storage.list_below(str(out / "_city")) if path.startswith("_staging")]
