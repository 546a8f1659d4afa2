"""Files that this program did not make are never replaced or removed; results of two drives are never confused."""

import json
import os
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs import export, realign, report, verify
from pipeline.leases import Leases
from pipeline.publish import open_drive
from tests.jobs.conftest import folder_of_images, image
from tests.jobs.runs import PLAIN, run, states

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("one_ray")]


def contents(folder):
    """Every file below a folder with its bytes."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def settings(weights):
    return ("--weights", weights, *PLAIN, "--publish.confidence-share", 0)


# -- two drives of one name ----------------------------------------------------------------------------------


def test_a_second_drive_of_the_same_name_is_refused_and_the_advice_works(tmp_path, settings, capsys):
    for name, count in (("A", 8), ("B", 9)):
        folder_of_images(tmp_path / name / "images", count)
    out = ("--output", tmp_path / "out")
    assert run("--input", tmp_path / "A/images", *out, *settings) == 0
    before = contents(tmp_path / "out" / "images")
    assert run("--input", tmp_path / "B/images", *out, *settings) == 1
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert str(tmp_path / "A/images") in said and str(tmp_path / "B/images") in said
    assert "--drive-id B__images" in said and "--overwrite" in said
    assert contents(tmp_path / "out" / "images") == before
    assert run("--input", tmp_path / "B/images", *out, *settings, "--drive-id", "B__images") == 0
    assert run("--input", tmp_path / "A/images", *out, *settings) == 0  # the first result still exists
    assert "nothing to do" in capsys.readouterr().out
    assert run("--input", tmp_path / "B/images", *out, *settings, "--overwrite") == 0
    assert open_drive(str(tmp_path / "out"), "images").manifest.counts.frames == 9


def test_drives_whose_files_have_equal_sizes_are_distinguished(tmp_path, settings, capsys):
    for name, shift in (("A", 0), ("B", 5)):
        (tmp_path / name / "images").mkdir(parents=True)
        for number in range(8):
            image(number + shift).save(tmp_path / name / "images" / f"{number:06d}.bmp")
    out = ("--output", tmp_path / "out")
    assert run("--input", tmp_path / "A/images", *out, *settings) == 0
    assert run("--input", tmp_path / "B/images", *out, *settings) == 1
    assert "another drive of this name" in capsys.readouterr().err
    shutil.move(tmp_path / "A", tmp_path / "C")  # a drive that moved is the same drive
    assert run("--input", tmp_path / "C/images", *out, *settings) == 0
    assert "nothing to do" in capsys.readouterr().out


def test_of_many_drives_one_with_a_name_in_use_fails_each_time_and_the_others_are_done(tmp_path, settings, capsys):
    folder_of_images(tmp_path / "A" / "d1", 8)
    folder_of_images(tmp_path / "B" / "d1", 9)
    folder_of_images(tmp_path / "B" / "d2", 8)
    out = ("--output", tmp_path / "out")
    assert run("--input", tmp_path / "A", *out, *settings) == 0
    before = contents(tmp_path / "out" / "d1")
    for second in ("published", "skipped"):
        assert run("--input", tmp_path / "B", *out, *settings) == 1
        assert states(tmp_path / "out") == {"d1": "failed", "d2": second}
        assert "another --output" in capsys.readouterr().out
    assert contents(tmp_path / "out" / "d1") == before
    assert run("--input", tmp_path / "A", *out, *settings) == 0
    assert states(tmp_path / "out") == {"d1": "skipped"}


# -- files of the user ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("many", [False, True])
@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("name", ["poses.parquet", "points/part-00000.parquet", "manifest.json"])
def test_a_users_files_in_the_place_of_a_result_are_kept(tmp_path, settings, capsys, many, overwrite, name):
    folder_of_images(tmp_path / "in" / "d1", 8)
    own = tmp_path / "out" / "d1" / name
    own.parent.mkdir(parents=True)
    if name == "manifest.json":
        own.write_text('{"camera": "mine"}')
    else:
        pq.write_table(pa.table({"x": np.arange(3)}), own)
    before = contents(tmp_path / "out" / "d1")
    where = tmp_path / "in" if many else tmp_path / "in" / "d1"
    more = ("--overwrite",) if overwrite else ()
    assert run("--input", where, "--output", tmp_path / "out", *settings, *more) == 1
    said = capsys.readouterr()
    assert name in said.out + said.err and "did not make" in said.out + said.err
    assert contents(tmp_path / "out" / "d1") == before


def test_a_drive_published_into_its_own_folder_keeps_its_images(tmp_path, settings):
    folder_of_images(tmp_path / "data" / "d1", 8)
    (tmp_path / "data" / "d1" / "points").mkdir()
    (tmp_path / "data" / "d1" / "points" / "survey.csv").write_text("mine")
    before = contents(tmp_path / "data" / "d1")
    for more in ((), ("--overwrite",)):
        assert run("--input", tmp_path / "data" / "d1", "--output", tmp_path / "data", *settings, *more) == 0
        after = contents(tmp_path / "data" / "d1")
        assert {name: after[name] for name in before} == before


def test_a_users_files_among_staged_files_are_kept(tmp_path, settings):
    folder_of_images(tmp_path / "d1", 8)
    mine = {"notes.txt": b"1", "mine/chunk-00000.safetensors": b"2", "chunk-00000.safetensors": b"3", "writable": b"4"}
    for name, data in mine.items():
        path = tmp_path / "out" / "_staging" / "d1" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    assert run("--input", tmp_path / "d1", "--output", tmp_path / "out", *settings) == 0
    assert contents(tmp_path / "out" / "_staging" / "d1") == mine


@pytest.fixture(scope="module")
def made(tmp_path_factory, weights, one_ray):
    """A drive and its result with kept predictions, made once for all tests."""
    place = tmp_path_factory.mktemp("made")
    folder_of_images(place / "in" / "d1", 8)
    words = ("--weights", weights, *PLAIN, "--publish.confidence-share", 0, "--keep-predictions")
    assert run("--input", place / "in" / "d1", "--output", place / "out", *words) == 0
    return place


@pytest.fixture
def published(made, tmp_path):
    """A copy of the result that a test may damage."""
    for name in ("in", "out"):
        shutil.copytree(made / name, tmp_path / name)
    return tmp_path / "out"


@pytest.mark.parametrize("place", ["drives/d1/000000.png", "index.html", "entries/d1.json", "photo.jpg"])
def test_a_site_is_not_written_over_a_users_folder(published, tmp_path, capsys, place):
    mine = tmp_path / "data" / place
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    for more in (("--drive", "d1"), (), ("--every",)):
        assert report.main(["--output", str(published), "--site", str(tmp_path / "data"), *more]) == 1
        assert "nothing in it is touched" in capsys.readouterr().err
    assert contents(tmp_path / "data") == {place: b"mine"}


def test_in_a_site_of_this_program_a_report_is_replaced_and_a_users_files_are_kept(published, tmp_path, capsys):
    site = tmp_path / "site"
    arguments = ["--output", str(published), "--site", str(site), "--drive", "d1", "--images", "3", "--points", "100"]
    assert report.main(arguments) == 0
    assert report.main(arguments) == 0
    mine = site / "drives" / "d1" / "mine.txt"
    mine.write_text("mine")
    before = contents(site / "drives")
    assert report.main(arguments) == 1
    assert "mine.txt" in capsys.readouterr().err
    assert contents(site / "drives") == before
    assert not list(site.glob("drives/.*"))


def test_an_export_is_replaced_but_not_where_it_contains_a_users_files(published, tmp_path, capsys):
    to = tmp_path / "to"
    arguments = ["--output", str(published), "--drive", "d1", "--format", "tum", "--to", str(to)]
    assert export.main(arguments) == 0
    assert export.main(arguments) == 1
    assert "--overwrite replaces it" in capsys.readouterr().err
    assert export.main([*arguments, "--overwrite"]) == 0
    (to / "trained").mkdir()
    (to / "trained" / "model.pt").write_text("mine")
    assert export.main([*arguments, "--overwrite"]) == 1
    assert "trained/model.pt" in capsys.readouterr().err
    assert (to / "trained" / "model.pt").read_text() == "mine" and (to / "trajectory.txt").exists()


# -- damaged results, and advice that works -------------------------------------------------------------------


@pytest.mark.parametrize("name", ["poses.parquet", "points/part-00000.parquet"])
@pytest.mark.parametrize("many", [False, True])
def test_a_result_with_missing_files_is_made_again(published, tmp_path, settings, capsys, name, many):
    (published / "d1" / name).unlink()
    where = tmp_path / "in" if many else tmp_path / "in" / "d1"
    assert run("--input", where, "--output", published, *settings) == 0
    assert f"{name} is gone" in capsys.readouterr().err
    assert (published / "d1" / name).exists()
    assert verify.main(["--output", str(published)]) == 0


@pytest.mark.parametrize("many", [False, True])
def test_the_advice_in_the_error_for_an_incomplete_manifest_works(published, tmp_path, settings, capsys, many):
    path = published / "d1" / "manifest.json"
    path.write_bytes(path.read_bytes()[:500])
    where = ("--input", tmp_path / "in" if many else tmp_path / "in" / "d1")
    assert run(*where, "--output", published, *settings) == 1
    said = capsys.readouterr()
    assert "--overwrite makes it again" in said.out + said.err
    assert (
        export.main(["--output", str(published), "--drive", "d1", "--format", "tum", "--to", str(tmp_path / "x")]) == 1
    )
    assert "--overwrite makes it again" in capsys.readouterr().err
    assert run(*where, "--output", published, *settings, "--overwrite", *(("--only", "d1") if many else ())) == 0
    assert verify.main(["--output", str(published)]) == 0


@pytest.mark.parametrize("name", ["poses.parquet", "points/part-00000.parquet"])
def test_the_export_of_a_damaged_file_names_the_file_and_how_to_repair_it(published, tmp_path, settings, capsys, name):
    path = published / "d1" / name
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 4
    path.write_bytes(data)
    arguments = ["--output", str(published), "--drive", "d1", "--format", "ply", "tum", "--to", str(tmp_path / "to")]
    assert export.main(arguments) == 1
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert name in said and "--overwrite" in said and "cannot write" not in said
    assert not (tmp_path / "to").exists()
    assert run("--input", tmp_path / "in" / "d1", "--output", published, *settings, "--overwrite") == 0
    assert export.main(arguments) == 0


def test_kept_predictions_with_a_flipped_bit_are_not_joined(published, tmp_path, settings, capsys):
    before = contents(published / "d1")
    chunk = next((published / "_staging" / "d1").glob("*/chunk-00000.safetensors"))
    note = published / "_staging" / "d1" / "staged.json"
    for path in (chunk, note):
        data = path.read_bytes()
        flipped = bytearray(data)
        flipped[-len(data) // 3] ^= 1
        path.write_bytes(flipped)
        assert realign.main(["--output", str(published), "--drive", "d1"]) == 1
        said = capsys.readouterr().err.strip().splitlines()[-1]
        assert path.name in said and "--overwrite" in said
        path.write_bytes(data)
    assert contents(published / "d1") == before
    assert realign.main(["--output", str(published), "--drive", "d1"]) == 0


def test_predictions_staged_under_another_drives_name_do_not_replace_it(published, tmp_path, settings, capsys):
    folder_of_images(tmp_path / "in" / "d2", 9)
    assert run("--input", tmp_path / "in" / "d2", "--output", published, *settings) == 0
    shutil.copytree(published / "_staging" / "d1", published / "_staging" / "d2")
    before = contents(published / "d1"), contents(published / "d2")
    assert realign.main(["--output", str(published), "--drive", "d2"]) == 1
    assert "it is of drive 'd1'" in capsys.readouterr().err
    assert (contents(published / "d1"), contents(published / "d2")) == before


def test_a_realign_of_a_drive_that_another_run_holds_is_refused_at_once(published, capsys):
    before = contents(published / "d1")
    with Leases(str(published), "another-run", 60) as leases:
        leases.take("d1")
        assert realign.main(["--output", str(published), "--drive", "d1"]) == 1
        assert "another-run" in capsys.readouterr().err
    assert contents(published / "d1") == before
    assert realign.main(["--output", str(published), "--drive", "d1"]) == 0
    assert not list((published / "_leases").glob("*")) if (published / "_leases").exists() else True


# -- names and URIs inside a result ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["../../../ESC", "/tmp/results-escape/ABS", "d2", "", 7, None])
def test_a_result_whose_manifest_has_another_drive_id_is_refused_by_every_command(published, tmp_path, capsys, name):
    path = published / "d1" / "manifest.json"
    values = json.loads(path.read_text())
    values.pop("checksum")
    path.write_text(json.dumps({**values, "drive_id": name}))
    before = {p for p in tmp_path.rglob("*") if "site" not in p.parts and "to" not in p.parts}
    output = ["--output", str(published)]
    assert (
        report.main([*output, "--site", str(tmp_path / "a" / "b" / "site")]) == 0
    )  # the index page lists the drive as unreadable
    index = json.loads((tmp_path / "a" / "b" / "site" / "drives.json").read_text())["drives"]
    assert [(entry["id"], entry["verdict"]) for entry in index] == [("d1", "unreadable")]
    assert report.main([*output, "--drive", "d1", "--site", str(tmp_path / "site2")]) == 1
    assert export.main([*output, "--drive", "d1", "--format", "tum", "--to", str(tmp_path / "to")]) == 1
    assert verify.main(output) == 1
    assert not os.path.exists("/tmp/results-escape")
    found = {p for p in tmp_path.rglob("*") if "site" not in p.parts and "to" not in p.parts}
    assert {p for p in found - before if p.name not in ("a", "b")} == set()


@pytest.mark.parametrize(
    "uri", ["{tmp}/id_rsa", "file://{tmp}/id_rsa", "{tmp}/in/d1/../../id_rsa", "http://127.0.0.1:9/x"]
)
def test_frame_uris_outside_the_input_of_a_result_are_not_read(published, tmp_path, capsys, uri):
    (tmp_path / "id_rsa").write_text("TOP SECRET KEY")
    rewrite_uris(published, lambda old: [uri.format(tmp=tmp_path), *old[1:]])
    arguments = ["--output", str(published), "--drive", "d1", "--format", "tum", "--to", str(tmp_path / "to")]
    assert export.main([*arguments, "--images"]) == 1
    assert "--images-from" in capsys.readouterr().err
    site = tmp_path / "site"
    assert report.main(["--output", str(published), "--drive", "d1", "--site", str(site), "--points", "100"]) == 0
    assert b"TOP SECRET" not in b"".join(contents(site).values())
    assert not (site / "drives" / "d1" / "frames" / "000000.jpg").exists()
    assert export.main([*arguments, "--images-from", str(tmp_path / "in" / "d1")]) in (0, 1)
    assert b"TOP SECRET" not in b"".join(contents(tmp_path / "to").values() if (tmp_path / "to").exists() else ())


def test_images_that_moved_are_found_with_images_from(published, tmp_path):
    shutil.move(tmp_path / "in" / "d1", tmp_path / "elsewhere")
    arguments = ["--output", str(published), "--drive", "d1", "--format", "tum", "--to", str(tmp_path / "to")]
    assert export.main([*arguments, "--images-from", str(tmp_path / "elsewhere")]) == 0
    assert len(list((tmp_path / "to" / "images").iterdir())) == 8


def rewrite_uris(output, change):
    """Replace frame URIs in a result and correct every hash, as an attacker would."""
    import hashlib

    path = output / "d1" / "poses.parquet"
    table = pq.read_table(path)
    at = table.schema.get_field_index("uri")
    table = table.set_column(at, table.schema.field("uri"), pa.array(change(table["uri"].to_pylist())))
    pq.write_table(table, path)
    values = json.loads((output / "d1" / "manifest.json").read_text())
    values.pop("checksum")
    for file in values["files"]:
        if file["path"] == "poses.parquet":
            data = path.read_bytes()
            file |= {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    (output / "d1" / "manifest.json").write_text(json.dumps(values))
