"""Long waits are said, short ones are not; a listener hears them in the place of stderr."""

import time

import pytest

from pipeline.common import waits
from pipeline.common.sightings import Sightings


class Heard:
    def __init__(self):
        self.said = []

    def say(self, text):
        self.said.append(text)


@pytest.fixture
def heard(monkeypatch):
    monkeypatch.setattr(waits, "LONG_S", 0.1)
    monkeypatch.setattr(waits, "_LOOK_EVERY_S", 0.05)
    heard = Heard()
    waits.listen(heard.say)
    yield heard
    waits.leave(heard.say)


def test_a_long_wait_says_what_for_and_till_when(heard):
    waits.say_wait("something short", 0.05)
    waits.say_wait("the next try", 15.0)
    assert len(heard.said) == 1 and heard.said[0].startswith("waits for the next try, until ")


def test_a_call_that_takes_long_is_said_once_while_it_lasts(heard):
    with waits.long_call("the store", 60.0):
        time.sleep(0.6)
        assert len(heard.said) == 1 and "waits for the store since" in heard.said[0]
    with waits.long_call("the store", 60.0):
        pass
    time.sleep(0.2)
    assert len(heard.said) == 1


def test_without_a_listener_stderr_hears_it_with_control_characters_made_visible(capsys, monkeypatch):
    monkeypatch.setattr(waits, "_listeners", [])  # a reporter of another test in this process may live on
    waits.say_wait("\x1b[31mred", 11.0)
    assert "waits for \\x1b[31mred, until" in capsys.readouterr().err


def test_what_stays_the_same_grows_older_over_processes_and_what_changes_begins_anew(tmp_path):
    one, other = Sightings(tmp_path, "boot"), Sightings(tmp_path, "boot")
    assert one.unchanged_s("a", b"1") == 0.0
    time.sleep(0.05)
    assert other.unchanged_s("a", b"1") >= 0.05 and other.unchanged_s("b", b"1") == 0.0
    assert other.unchanged_s("a", b"2") == 0.0
    assert Sightings(tmp_path, "another start").unchanged_s("a", b"2") == 0.0
    one.forget("a")
    assert one.unchanged_s("a", b"2") == 0.0


@pytest.mark.parametrize("text", [b"", b"boot", b"\xff\xfe", b"boot x nan", b"9" * 10_000])
def test_a_sighting_that_is_damaged_is_a_first_look(tmp_path, text):
    one = Sightings(tmp_path, "boot")
    one.unchanged_s("a", b"1")
    next(tmp_path.iterdir()).write_bytes(text)
    assert one.unchanged_s("a", b"1") == 0.0
