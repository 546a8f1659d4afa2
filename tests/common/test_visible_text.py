"""Texts from outside are shown with their control characters visible, and otherwise as they are."""

import io

from pipeline.common.progress import Reporter
from pipeline.common.visible_text import visible


def test_escape_sequences_line_breaks_and_reordering_marks_are_written_out():
    assert visible("\x1b]0;X\x07a\nb\u202e\udcdf") == "\\x1b]0;X\\x07a\\x0ab\\u202e\\udcdf"


def test_letters_of_any_language_stay():
    assert visible("Straße 東京 é 👍🏽") == "Straße 東京 é 👍🏽"


def test_what_a_job_says_holds_no_escape_sequence():
    stream = io.StringIO()
    Reporter(stream).say("drive \x1b[2Jx:\nnext line")
    assert stream.getvalue() == "drive \\x1b[2Jx:\nnext line\n"
