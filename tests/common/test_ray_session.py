"""SIGTERM while Ray's signal handler has replaced this program's; and clusters that do not answer."""

import os
import signal
import sys
import time

import pytest

from jobs.command import EXIT_INTERRUPTED, run_command
from pipeline.common import ray_session
from pipeline.common.ray_session import _check_answers, _own_sigterm
from pipeline.errors import ClusterError


def as_ray_does():
    """Replace the signal handler as ray.init does in the calling process (ray/_private/worker.py)."""
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(number))


def end_this_process():
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(5)


def test_sigterm_while_ray_starts_interrupts_the_run():
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt), _own_sigterm():
        as_ray_does()
        end_this_process()
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize("started", ["before Ray", "while Ray starts", "after Ray has started"])
def test_a_command_that_gets_sigterm_ends_with_exit_code_130(started, capsys):
    def action():
        if started == "before Ray":
            end_this_process()
        with _own_sigterm():
            as_ray_does()
            if started == "while Ray starts":
                end_this_process()
        end_this_process()

    before = signal.getsignal(signal.SIGTERM)
    assert run_command(action) == EXIT_INTERRUPTED
    assert "interrupted" in capsys.readouterr().err
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:1", "nowhere.invalid:6379", "127.0.0.1:999999999"])
def test_a_cluster_that_does_not_exist_gives_a_one_line_error_within_seconds(monkeypatch, address):
    monkeypatch.setattr(ray_session, "_ANSWERS_WITHIN_S", 1.0)
    begin = time.monotonic()
    with pytest.raises(ClusterError, match=r"cannot join the Ray cluster at .*check --address or RAY_ADDRESS"):
        _check_answers(address)
    assert time.monotonic() - begin < 10
