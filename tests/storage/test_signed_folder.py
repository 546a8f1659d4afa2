"""Only files that a folder's signature names are replaced or removed."""

import json

import pytest

from pipeline.errors import DriveError
from pipeline.storage import check_replaceable, read_signature, remove_signed, sign_folder


@pytest.fixture
def made(tmp_path):
    folder = tmp_path / "made"
    (folder / "sub").mkdir(parents=True)
    (folder / "a.txt").write_text("ours")
    (folder / "sub" / "b.txt").write_text("ours")
    sign_folder(folder, "signature.json", "export", {"drive_id": "d1"})
    return folder


def check(folder, kind="export"):
    check_replaceable(str(folder), "signature.json", kind)


def test_a_signed_folder_may_be_replaced(made):
    check(made)
    assert read_signature(str(made), "signature.json", "export")["files"] == ["a.txt", "sub/b.txt"]


def test_a_missing_folder_and_an_empty_folder_may_be_used(tmp_path):
    check(tmp_path / "nothing")
    (tmp_path / "empty" / "deep").mkdir(parents=True)
    check(tmp_path / "empty")


@pytest.mark.parametrize("path", ["mine.txt", "sub/mine.txt", "a/b/c/mine.txt"])
def test_a_folder_with_a_file_of_the_user_is_not_replaced(made, path):
    (made / path).parent.mkdir(parents=True, exist_ok=True)
    (made / path).write_text("mine")
    with pytest.raises(DriveError, match=r"mine\.txt"):
        check(made)
    remove_signed(str(made), "signature.json", "export")
    assert (made / path).read_text() == "mine" and not (made / "a.txt").exists()


SIGNATURES = {
    "none": None,
    "empty": "",
    "no json": "{",
    "list": "[]",
    "another program's": json.dumps({"files": []}),
    "another kind's": json.dumps({"made_by": "city-reconstruction", "kind": "site", "files": ["a.txt"]}),
    "files no list": json.dumps({"made_by": "city-reconstruction", "kind": "export", "files": "a.txt"}),
    "deep": "[" * 100_000,
}


@pytest.mark.parametrize("name", SIGNATURES)
def test_a_folder_without_a_signature_is_not_replaced(made, name):
    text = SIGNATURES[name]
    (made / "signature.json").unlink() if text is None else (made / "signature.json").write_text(text)
    with pytest.raises(DriveError, match="nothing in it is touched"):
        check(made)
    remove_signed(str(made), "signature.json", "export")
    assert (made / "a.txt").read_text() == "ours"


def test_a_signature_cannot_name_files_outside_its_folder(made, tmp_path):
    (tmp_path / "precious").write_text("mine")
    values = json.loads((made / "signature.json").read_text())
    values["files"] += ["../precious", str(tmp_path / "precious")]
    (made / "signature.json").write_text(json.dumps(values))
    remove_signed(str(made), "signature.json", "export")
    assert (tmp_path / "precious").read_text() == "mine"
