import io

from pipeline.common import progress, waits
from pipeline.common.progress import Reporter


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_without_a_terminal_a_stage_ends_with_a_plain_line(monkeypatch):
    out = io.StringIO()
    reporter = Reporter(out)
    for _ in range(3):
        reporter.advance("frames", 10, 30, "frames")
    lines = out.getvalue().splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("frames: 30/30 frames, ")


def test_a_slow_stage_shows_its_rate_and_the_time_left(monkeypatch):
    clock = iter(float(t) for t in range(0, 1000, 10))
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    out = io.StringIO()
    reporter = Reporter(out)
    reporter.advance("frames", 10, 40, "frames")
    reporter.advance("frames", 10, 40, "frames")
    assert out.getvalue().splitlines() == [
        "frames: 10/40 frames, 10.0 s, 1.0 frames/s, about 30 s left",
        "frames: 20/40 frames, 20.0 s, 1.0 frames/s, about 20 s left",
    ]


def test_a_stage_of_unknown_length_shows_no_time_left(monkeypatch):
    clock = iter(float(t) for t in range(0, 1000, 10))
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    out, terminal = io.StringIO(), Terminal()
    reporter = Reporter(out)
    for _ in range(2):
        reporter.advance("plan", 5, None, "drives")
    assert out.getvalue().splitlines() == [
        "plan: 5 drives, 10.0 s, 0.5 drives/s",
        "plan: 10 drives, 20.0 s, 0.5 drives/s",
    ]
    monkeypatch.undo()
    with Reporter(terminal) as bars:
        bars.advance("plan", 5, None, "drives")
    assert "5/?" in terminal.getvalue()


def test_a_finished_stage_can_begin_again():
    out = io.StringIO()
    reporter = Reporter(out)
    for _ in range(2):
        reporter.advance("render", 1, 1, "frames")
    assert out.getvalue().count("render: 1/1") == 2


def test_on_a_terminal_bars_are_shown_with_lines_above_them():
    out = Terminal()
    with Reporter(out) as reporter:
        reporter.advance("frames", 5, 10, "frames")
        reporter.say("a note [with brackets]")
        reporter.advance("frames", 5, 10, "frames")
    text = out.getvalue()
    assert "10/10" in text
    assert "a note [with brackets]" in text


def test_long_waits_are_told_to_the_reporter_inside_its_context_and_to_stderr_after_it(capsys):
    out = io.StringIO()
    with Reporter(out) as reporter:
        waits.say_wait("the store", 15.0)
    waits.say_wait("the lease", 15.0)
    assert reporter.stream is out and "waits for the store" in out.getvalue() and "lease" not in out.getvalue()
    assert "waits for the lease" in capsys.readouterr().err


def test_the_seconds_of_a_stage_are_summed_even_if_it_fails():
    reporter = Reporter(io.StringIO())
    with reporter.timed("join"):
        pass
    first = reporter.seconds["join"]
    try:
        with reporter.timed("join"):
            raise ValueError
    except ValueError:
        pass
    assert reporter.seconds["join"] > first
