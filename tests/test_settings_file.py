"""Settings are read from a TOML file with every section; an error in the file is reported in one line."""

import pytest

from pipeline.config import RunConfig
from pipeline.settings_file import read_settings, settings_from_dict


def test_a_settings_file_may_contain_every_section(tmp_path):
    path = tmp_path / "run.toml"
    path.write_text(
        'chunk_size = 20\nprecision = "bfloat16"\noverwrite = true\nfps = 2\n'
        "[publish]\nvoxel_size = 0.1\nwith_points = false\n[backend]\n"
    )
    config = read_settings(path)
    assert (config.chunk_size, config.precision, config.overwrite, config.fps) == (20, "bfloat16", True, 2)
    assert config.publish.voxel_size == 0.1
    assert config.publish.with_points is False


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("chunksize = 20", "unknown key 'chunksize'; did you mean 'chunk_size'"),
        ("[publish]\nvoxel = 1", r"\[publish\]: unknown key 'voxel'"),
        ("voxel_size = 1", r"unknown key 'voxel_size'; did you mean 'voxel_size' in section \[publish\]"),
        ("[publish]\nlease_s = 30", r"did you mean 'lease_s' in section \[fleet\]"),
        ("[pubish]\nvoxel_size = 1", "did you mean 'publish'"),
        ("xyz = 1", "did you mean '"),
        ("[backend]\nrounds = 7", "rounds cannot be set any more, it is always 5; got 7"),
        ('chunk_size = "20"', "chunk_size should be a whole number"),
        ("overwrite = 1", "overwrite should be true or false"),
        ("output = 3", "output should be a text"),
        ("stride = true", "stride should be a whole number"),
        ("stride = 1.5", "stride should be a whole number"),
        ("workers = 0", "--workers"),
        ("this is no toml", "settings file"),
        ('precision = "float16"', "precision should be one of 'auto', 'float32', 'bfloat16'"),
        ('device = "cuda"', "device should be one of"),
        ("loop = 5", r"loop is a section, \[loop\]"),
        ("rotate = 45", "rotate should be one of 0, 90, 180, 270"),
        ("chunk_size = 20\nchunk-size = 30", "given twice"),
        ("[fleet]\nfinishing = 1.5", r"\[fleet\]: finishing should be a whole number"),
    ],
)
def test_a_settings_file_with_a_mistake_is_refused(tmp_path, text, message):
    path = tmp_path / "run.toml"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        read_settings(path)


def test_a_missing_settings_file_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"none\.toml"):
        read_settings(tmp_path / "none.toml")


def test_keys_may_be_written_as_in_python_or_as_on_the_command_line(tmp_path):
    path = tmp_path / "run.toml"
    path.write_text("chunk-size = 20\n[publish]\nvoxel-size = 1\n")
    config = read_settings(path)
    assert config.chunk_size == 20
    assert config.publish.voxel_size == 1.0 and isinstance(config.publish.voxel_size, float)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_a_byte_order_mark_is_accepted(tmp_path, encoding):
    path = tmp_path / "run.toml"
    path.write_bytes('output = "Stra\u00dfe"\r\n'.encode(encoding))
    assert read_settings(path).output == "Stra\u00dfe"


@pytest.mark.parametrize("data", ['output = "Stra\u00dfe"'.encode("latin-1"), "stride = 2".encode("utf-16")])
def test_the_error_for_another_encoding_says_so(tmp_path, data):
    path = tmp_path / "run.toml"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"run\.toml: expected UTF-8"):
        read_settings(path)


def test_a_huge_or_nested_file_is_refused(tmp_path):
    path = tmp_path / "run.toml"
    path.write_bytes(b"#" * (2 << 20))
    with pytest.raises(ValueError, match="at most"):
        read_settings(path)
    path.write_text("stride = " + "[" * 100_000)
    with pytest.raises(ValueError, match=r"run\.toml"):
        read_settings(path)


def test_settings_stored_in_a_result_are_checked_too():
    assert settings_from_dict({"chunk_size": 12}) == RunConfig(chunk_size=12)
    with pytest.raises(ValueError, match="chunk_size should be a whole number"):
        settings_from_dict({"chunk_size": "12"})
    with pytest.raises(ValueError, match="stored settings"):
        settings_from_dict({"publish": [1]})
