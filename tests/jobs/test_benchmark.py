"""jobs.benchmark prints a table, and writes JSON for programs."""

import json

import pytest

from jobs.benchmark import main


def test_decoding_is_measured_with_machine_versions_and_commit(tmp_path, capsys):
    file = tmp_path / "decode.json"
    arguments = ["--what", "decode", "--decode.frames", "16", "--decode.width", "200", "--decode.height", "100"]
    assert main([*arguments, "--json", str(file)]) == 0
    out = capsys.readouterr().out
    said = json.loads(file.read_text())
    assert said["what"] == "decode"
    assert said["settings"]["frames"] == said["frames"] == 16
    assert said["frames_per_core_second"] == pytest.approx(16 / said["cpu_seconds"])
    assert said["network_size"] == [518, 252]
    assert said["machine"]["versions"]["torch"].startswith("2.")
    assert said["machine"]["commit"] in out
    assert "100 JPEG/s" in out
    assert main([*arguments, "--json", "-"]) == 0
    assert json.loads(capsys.readouterr().out)["frames"] == 16


def test_rendering_is_measured_with_one_and_with_four_rays_a_pixel(capsys):
    assert main(["--what", "rendering", "--rendering.frames", "4", "--json", "-"]) == 0
    said = json.loads(capsys.readouterr().out)
    coarse, fine = said["cpu_rays_1"], said["cpu_rays_4"]
    assert coarse["frames_per_second"] == pytest.approx(4 / coarse["cpu_seconds"])
    assert coarse["cpu_seconds"] < fine["cpu_seconds"]  # four times the rays


@pytest.mark.slow
def test_accuracy_of_the_network_is_measured_with_and_without_its_memory(tmp_path, capsys):
    arguments = [
        "--what",
        "accuracy",
        "--accuracy.drives",
        "1",
        "--accuracy.frames",
        "24",
        "--accuracy.turns",
        "0",
        "--accuracy.first-seed",
        "50",
        "--accuracy.cache",
        str(tmp_path),
        "--json",
        "-",
    ]
    assert main([*arguments, "--accuracy.ablation"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert [drive["seed"] for drive in said["drives"]] == [50]
    assert said["chunk"] == 12 and said["chunks_a_drive"] == 3
    errors = {scope: said["summary"][scope]["ate_percent_median"] for scope in ("full", "without GCS", "without GCM")}
    assert len(set(errors.values())) == 3  # the memory, or its sum, is really left out
    assert all(error < 10 for error in errors.values())  # an untrained network has 30 or more
    assert said["summary"]["full"]["turns"] == 0 and said["summary"]["full"]["turn_error_median"] is None
    assert said["drives"][0]["scores"]["full"]["abs_rel"] < 0.3
    assert len(list(tmp_path.iterdir())) == 1
    assert main(arguments) == 0  # the second time from the cache
    again = json.loads(capsys.readouterr().out)
    assert list(again["summary"]) == ["full"] and again["summary"]["full"] == said["summary"]["full"]


def test_only_drives_with_enough_turns_are_measured(capsys):
    assert (
        main(
            [
                "--what",
                "accuracy",
                "--accuracy.drives",
                "1",
                "--accuracy.frames",
                "2",
                "--accuracy.turns",
                "1",
                "--accuracy.first-seed",
                "99998",
            ]
        )
        == 1
    )
    assert "0 of 1 drives of 2 frames from seed 99998 on have 1 turns" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("wrong", [["--what", "weather"], ["--what", "decode", "--decode.frames", "0"]])
def test_a_setting_that_cannot_be_measured_is_a_usage_error_that_names_it(wrong, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(wrong)
    assert stopped.value.code == 2
    assert wrong[-2].strip("-") in capsys.readouterr().err


@pytest.mark.slow
def test_the_network_is_compared_with_its_plain_twin_and_the_published_schedule(tmp_path, capsys):
    file = tmp_path / "network.json"
    small = ["preset", "city_tiny", "frames", "9", "height", "32", "width", "64", "chunk-size", "4", "overlap", "2"]
    options = [f"--network.{v}" if i % 2 == 0 else v for i, v in enumerate(small)]
    assert main(["--what", "network", *options, "--network.allreduce", "2", "--json", str(file)]) == 0
    said = json.loads(file.read_text())
    assert said["speedup_vs_release_like"] > 0
    assert said["pose_relative_difference"] < 1e-5
    assert said["state_bytes_per_chunk"] < said["state_bytes_per_chunk_release_like"]
    assert said["peak_memory_bytes"] >= 0
    assert set(said["allreduce_seconds"]) == {"2"}
    assert "2.5 x on 2 cores" in capsys.readouterr().out


@pytest.mark.full  # the compiler takes a minute
def test_compiled_blocks_are_compared_with_the_others(tmp_path):
    file = tmp_path / "network.json"
    small = ["preset", "city_tiny", "frames", "9", "height", "32", "width", "64", "chunk-size", "4", "overlap", "2"]
    options = [f"--network.{v}" if i % 2 == 0 else v for i, v in enumerate(small)]
    assert main(["--what", "network", *options, "--network.compiled", "--json", str(file)]) == 0
    assert json.loads(file.read_text())["speedup_of_compiled_blocks"] > 0


def test_the_store_keeps_its_budgets_and_its_speed_is_measured(tmp_path, capsys):
    file = tmp_path / "store.json"
    small = ["--store.chunk-bytes", "4000", "--store.chunks", "10", "--store.scratch-folder", str(tmp_path)]
    assert main(["--what", "store", *small, "--json", str(file)]) == 0
    said = json.loads(file.read_text())
    assert said["all_in_memory"]["bytes_to_disk"] == 0
    assert said["nearly_all_on_disk"]["bytes_to_disk"] > said["half_on_disk"]["bytes_to_disk"] > 0
    assert said["nearly_all_on_disk"]["peak_host_bytes"] <= said["nearly_all_on_disk"]["host_budget_bytes"]
    assert "MISSED" not in capsys.readouterr().out


@pytest.mark.slow
def test_publishing_and_whole_drives_are_measured_and_drawn_from_stored_figures(tmp_path, capsys):
    file, picture = tmp_path / "found.json", tmp_path / "found.png"
    small = ["--publish.points", "30000", "--publish.height", "50", "--publish.width", "60", "--json", str(file)]
    assert main(["--what", "publish", *small]) == 0
    assert json.loads(file.read_text())["points"] == 30000
    small = ["--drive.lengths", "12", "--drive.width", "112", "--drive.height", "56", "--drive.chunk-size", "6"]
    assert main(["--what", "drive", *small, "--drive.overlap", "3", "--json", str(file)]) == 0
    drives = json.loads(file.read_text())["drives"]
    assert [d["frames"] for d in drives] == [12]
    assert all(d["points"] > 0 and {"forward", "join", "publish"} <= d["seconds"].keys() for d in drives)
    assert all(0 < d["cpu_seconds"]["forward"] < d["total_cpu_seconds"] for d in drives)
    assert all(d["peak_family_bytes"] > d["peak_resident_bytes"] > 10**8 for d in drives)
    known = ["--drive.measured", str(file), "--figure", str(picture)]
    # the stored figures are drawn, not measured again
    assert main(["--what", "drive", *small, "--drive.overlap", "3", *known]) == 0
    assert picture.read_bytes()[:4] == b"\x89PNG"
    assert main(["--what", "drive", *small, "--drive.overlap", "2", *known]) == 1
    assert "was measured with other settings: overlap" in capsys.readouterr().err


def test_the_back_end_is_measured_on_scenarios_against_the_published_figures(shared, tmp_path, capsys):
    places = ["--backend.scenarios", f"{shared}/scenarios"]
    places += ["--backend.trajectory", f"{shared}/data/trajectories/KITTI_00_gt.txt"]
    few = ["--backend.limit", "240", "--backend.seeds", "0", "--backend.noisy-seeds", "1", "--backend.false-loops", "2"]
    file = tmp_path / "backend.json"
    assert main(["--what", "backend", *places, *few, "--json", str(file)]) == 0
    said = json.loads(file.read_text())
    assert [(one["seed"], one["noise"], one["chunks"]) for one in said["cases"]] == [(0, 1.0, 7), (1, 2.0, 7)]
    assert all(0 < one["chain_ate"] < 1 and one["false"]["2"]["accepted"] == 0 for one in said["cases"])
    assert said["memory"]["many"]["points"] == 64 * said["memory"]["few"]["points"]
    few, many = said["memory"]["few"], said["memory"]["many"]
    assert many["peak_bytes"] - few["peak_bytes"] < 6 * many["chunk_bytes"]
    assert "seed 1, noise 2, 2 wrong loops" in capsys.readouterr().out


def test_without_scenarios_the_back_end_is_not_measured_and_the_error_says_why(tmp_path, capsys):
    assert main(["--what", "backend", "--backend.scenarios", str(tmp_path)]) == 1
    assert "chunked_drive.py does not exist" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.cluster
@pytest.mark.usefixtures("one_ray")
def test_stops_and_revisits_are_measured_on_rendered_drives(tmp_path, capsys):
    size = ["--streets.drives", "1", "--streets.frames", "48", "--streets.stops", "1"]
    arguments = ["--what", "streets", *size, "--streets.shortest-s", "2", "--streets.longest-s", "2"]
    assert main([*arguments, "--json", str(tmp_path / "streets.json")]) == 0
    drive = json.loads((tmp_path / "streets.json").read_text())["drives"][0]
    assert drive["stopping"]["waited"] == 20
    assert drive["stopping"]["still"] >= 18 + drive["moving"]["still"]
    assert drive["stopping"]["chunks"] <= drive["moving"]["chunks"] + 1
    assert drive["moving"]["ate"] < 0.1 * drive["moving"]["path"]
    assert drive["no-turns"]["frames"] == drive["moving"]["frames"]
    table = capsys.readouterr().out
    assert "standing frames left out" in table and "ATE with --no-turns" in table
