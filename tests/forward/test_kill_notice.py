"""A process that is killed leaves advice on standard error; a process that ends otherwise leaves none."""

import subprocess
import sys
import textwrap

import pytest

from pipeline.forward.budgets import MemoryBudgets, killed_here

ADVICE = killed_here(MemoryBudgets(host=2 * 10**9))


def said_by(ending: str) -> str:
    """Standard error of a process that ends in this way inside `KillNotice`."""
    code = f"""
        import os, signal, sys
        sys.path[:0] = {sys.path!r}
        from pipeline.forward.kill_notice import KillNotice
        with KillNotice({ADVICE!r}):
            {ending}
    """
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=120
    ).stderr


def test_a_killed_process_names_the_budget_to_change():
    assert said_by("os.kill(os.getpid(), signal.SIGKILL)") == ADVICE + "\n"
    assert "lower --host-memory (now 2GB)" in ADVICE and "--scratch" in ADVICE
    assert "half of what was free" in killed_here(MemoryBudgets())


THREAD = "import threading; threading.Thread(target=lambda: KillNotice('killed').__enter__(), daemon=True).start()"


def test_a_thread_that_is_left_when_a_run_is_stopped_prints_no_notice():
    assert said_by(f"{THREAD}; import time; time.sleep(1)") == ""


@pytest.mark.parametrize("ending", ["pass", "sys.exit(3)"])
def test_a_process_that_ends_by_itself_prints_no_notice(ending):
    assert said_by(ending) == ""
