"""Texts from outside are shown unchanged, except that control characters are written out visibly."""

import io
import re
from pathlib import Path

from pipeline.common.progress import Reporter
from pipeline.common.visible_text import show, visible, visible_values


def test_escape_sequences_line_breaks_and_reordering_marks_are_written_out():
    assert visible("\x1b]0;X\x07a\nb\u202e\udcdf") == "\\x1b]0;X\\x07a\\x0ab\\u202e\\udcdf"


def test_letters_of_any_language_are_not_changed():
    assert visible("Straße 東京 é 👍🏽") == "Straße 東京 é 👍🏽"


def test_the_output_of_a_job_contains_no_escape_sequence():
    stream = io.StringIO()
    Reporter(stream).say("drive \x1b[2Jx:\nnext line")
    assert stream.getvalue() == "drive \\x1b[2Jx:\nnext line\n"


def test_printed_lines_and_values_of_a_page_contain_no_control_characters(capsys):
    show("one\x1b[2J\ntwo\u202e")
    assert capsys.readouterr().out == "one\\x1b[2J\ntwo\\u202e\n"
    values = {"a\x07": ["\x1b", 1, None, ("\ud800", 2.5)]}
    assert visible_values(values) == {"a\\x07": ["\\x1b", 1, None, ["\\ud800", 2.5]]}


def test_commands_print_texts_from_outside_only_through_show():
    """print() is allowed for fixed words and for texts whose control characters are written out already."""
    jobs = Path(__file__).resolve().parents[2] / "jobs"
    allowed = re.compile(r"print\((?:f?\"error: |\"interrupted|without_secrets\(visible|\"\\033\[H|\"this machine)")
    lines = [line.strip() for file in jobs.glob("*.py") for line in file.read_text().splitlines()]
    assert [line for line in lines if re.search(r"(?<![\w.])print\(", line) and not allowed.search(line)] == []
