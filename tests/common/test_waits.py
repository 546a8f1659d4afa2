"""A long wait is reported, a short one is not; a listener gets the report in place of stderr."""

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


def test_the_report_of_a_long_wait_says_what_for_and_until_when(heard):
    waits.say_wait("something short", 0.05)
    waits.say_wait("the next try", 15.0)
    assert len(heard.said) == 1 and heard.said[0].startswith("waits for the next try, until ")


def test_a_call_that_takes_long_is_reported_once_while_it_runs(heard):
    with waits.long_call("the store", 60.0):
        begun = time.monotonic()
        while not heard.said and time.monotonic() - begun < 30:
            time.sleep(0.05)
        time.sleep(0.2)  # it looks every 0.05 s, and does not say it twice
        assert len(heard.said) == 1 and "waits for the store since" in heard.said[0]
    with waits.long_call("the store", 60.0):
        pass
    time.sleep(0.2)
    assert len(heard.said) == 1


def test_without_a_listener_the_report_goes_to_stderr_with_visible_control_characters(capsys):
    waits.say_wait("\x1b[31mred", 11.0)
    assert "waits for \\x1b[31mred, until" in capsys.readouterr().err


def test_the_age_of_an_unchanged_text_counts_on_in_other_processes_and_begins_again_after_a_change(tmp_path):
    one, other = Sightings(tmp_path, "boot"), Sightings(tmp_path, "boot")
    assert one.unchanged_s("a", b"1") == 0.0
    time.sleep(0.05)
    assert other.unchanged_s("a", b"1") >= 0.05 and other.unchanged_s("b", b"1") == 0.0
    assert other.unchanged_s("a", b"2") == 0.0
    assert Sightings(tmp_path, "another start").unchanged_s("a", b"2") == 0.0
    one.forget("a")
    assert one.unchanged_s("a", b"2") == 0.0


@pytest.mark.parametrize("text", [b"", b"boot", b"\xff\xfe", b"boot x nan", b"9" * 10_000])
def test_a_damaged_record_of_a_sighting_counts_as_a_first_sighting(tmp_path, text):
    one = Sightings(tmp_path, "boot")
    one.unchanged_s("a", b"1")
    next(tmp_path.iterdir()).write_bytes(text)
    assert one.unchanged_s("a", b"1") == 0.0
