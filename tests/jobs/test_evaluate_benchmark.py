"""jobs.evaluate --benchmark reconstructs and scores a data set: variants, failures, results that exist already."""

import json
from pathlib import Path

import pytest

from jobs.evaluate import main
from pipeline.publish import open_drive
from tests.evaluation import layouts

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("one_ray")]


def evaluate(benchmark, data, output, weights, *more):
    arguments = ["--benchmark", benchmark, "--data", data, "--output", output, "--run.weights", weights]
    return main([*map(str, arguments), "--run.threads", "1", *map(str, more)])


def scores(output, benchmark):
    return json.loads((output / benchmark / "scores.json").read_text())


def published_at(output, benchmark, variant, drive):
    return open_drive(str(output / benchmark / variant), drive).manifest.published_at


def test_a_benchmark_is_scored_by_variant_and_only_failed_sequences_run_again(weights, tmp_path, capsys):
    data, output = tmp_path / "data", tmp_path / "out"
    layouts.virtual_kitti(data)
    layouts.virtual_kitti(data, scene="Scene02")
    frames = data / "Scene02/clone/frames/rgb/Camera_0"
    whole = {path: path.read_bytes() for path in frames.iterdir()}
    for path in list(whole)[2:]:
        path.write_bytes(b"no image")
    assert evaluate("virtual-kitti", data, output, weights, "--ablate", "gcs,loops") == 1
    said = capsys.readouterr()
    assert "3 of 6 runs failed" in said.err and "Scene01/clone (gcs): ATE" in said.err
    for words in (
        "without GCS",
        "without loops",
        "Scal3R (published)",
        "0.85",
        "0.40",
        "mean of 1/2",
        "seed: 0",
        "failed: Scene02",
        "command: python -m jobs.evaluate --benchmark",
        "commit: ",
    ):
        assert words in said.out, words
    first = scores(output, "virtual-kitti")
    good = [score for score in first["scores"] if not score["failed"]]
    assert [(s["sequence"][:7], s["variant"]) for s in good] == [("Scene01", v) for v in ("full", "gcs", "loops")]
    for score in good:
        assert score["frames"] == score["compared"] == 12 and score["ate"] > 0 and score["rte"] is None
        assert score["chamfer"] > 0 and 0 <= score["f1"] <= 1 and score["clouds"]["threshold"] == 1.0
        assert score["frames_per_s"] == pytest.approx(12 / score["seconds"]) and score["peak_memory"] > 5e7
    full, gcs = (good[place]["ate"] for place in (0, 1))
    assert full != gcs  # the memory had another scope
    made = output / "virtual-kitti"
    manifests = [open_drive(str(made / v), "Scene01-clone").manifest for v in ("full", "gcs", "loops")]
    assert [m.config["memory_scope"] for m in manifests] == ["drive", "chunk", "drive"]
    assert [m.config["loops"] for m in manifests] == [True, True, False]

    for path, content in whole.items():
        path.write_bytes(content)
    assert evaluate("virtual-kitti", data, output, weights, "--ablate", "gcs,loops", "--json", "-") == 0
    second = json.loads(capsys.readouterr().out)
    assert [s for s in second["scores"] if s["sequence"] == "Scene01/clone"] == good  # unchanged in time and content
    assert len(second["scores"]) == 6 and not any(s["failed"] for s in second["scores"])
    assert published_at(output, "virtual-kitti", "full", "Scene01-clone") == manifests[0].published_at

    # a lost score is made again without a new reconstruction; with other settings all is made again
    note = output / "virtual-kitti/full/_scores/Scene01-clone.json"
    note.unlink()
    assert evaluate("virtual-kitti", data, output, weights, "--sequences", "Scene01/clone", "--json", "-") == 0
    (again,) = json.loads(capsys.readouterr().out)["scores"]
    assert again == good[0] | {"peak_memory": None, "seconds": None, "frames_per_s": None}
    other = ("--sequences", "Scene01/clone", "--run.chunk-size", "5", "--run.overlap", "2", "--json", "-")
    assert evaluate("virtual-kitti", data, output, weights, *other) == 0
    (changed,) = json.loads(capsys.readouterr().out)["scores"]
    assert changed["peak_memory"] and changed["ate"] != again["ate"]


def test_fisheye_frames_are_rectified_once_and_scored_against_the_scan(weights, tmp_path, capsys):
    data, output = tmp_path / "data", tmp_path / "out"
    layouts.oxford_spires(data)
    assert evaluate("oxford-spires", data, output, weights, "--ablate", "gcm", "--run.no-loops", "--json", "-") == 0
    full, gcm = json.loads(capsys.readouterr().out)["scores"]
    assert full["clouds"]["true"] == gcm["clouds"]["true"] < 2000  # the thinned scan without the part far from the walk
    assert full["clouds"]["threshold"] == 4.0 and full["compared"] == 12 and full["ate"] != gcm["ate"]
    name = "2024-03-12-keble-college-02"
    folder = output / "oxford-spires" / "_frames" / name
    assert len(list(folder.glob("*.png"))) == 12 and (folder / "rectified.json").exists()
    uris = open_drive(str(output / "oxford-spires" / "full"), name).poses["uri"].to_pylist()
    assert all(str(folder) in uri for uri in uris)


@pytest.mark.slow
def test_the_real_clip_is_scored_as_a_kitti_sequence(weights, shared, tmp_path, capsys):
    root: Path = shared / "data" / "kitti"
    arguments = ("--sequences", "90", "--run.no-loops", "--json", "-")
    assert evaluate("kitti", root, tmp_path, weights, *arguments) == 0
    (score,) = json.loads(capsys.readouterr().out)["scores"]
    assert score["frames"] == 51 and score["chamfer"] is None and score["kitti_translation"] is None  # 60 m
    assert 0 < score["ate"] < 40 and 0 < score["ate_percent"] < 70


@pytest.mark.parametrize(
    "more, said",
    [
        (("--pred", "x"), "leave out --pred"),
        (("--ablate", "gcs,head"), "not 'head'"),
        (("--ablate", "full"), "not 'full'"),
        (("--run.output", "x"), "leave out --run.input and the like"),
        (("--sequences", "Scene99/clone"), "no sequence Scene99/clone"),
    ],
)
def test_options_that_do_not_fit_together_are_refused_with_the_reason(weights, tmp_path, capsys, more, said):
    layouts.virtual_kitti(tmp_path)
    assert evaluate("virtual-kitti", tmp_path, tmp_path / "out", weights, *more) == 1
    error = capsys.readouterr().err
    assert said in error and error.startswith("error: ") and error.count("\n") == 1


def test_options_of_both_modes_together_are_refused(tmp_path, capsys):
    assert main(["--pred", "a", "--truth", "b", "--data", "c"]) == 1
    assert main(["--benchmark", "kitti", "--data", "c"]) == 1
    assert main([]) == 1
    both, half, none = capsys.readouterr().err.splitlines()
    assert "belong to a --benchmark" in both and "needs --data and --output" in half and "--pred and --truth" in none
