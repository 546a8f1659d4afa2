"""Prints the progress of a run over many drives, one line every few seconds."""

from __future__ import annotations

import threading
import time

from pipeline.common.progress import Reporter
from pipeline.fleet.records.ledger import Ledger

_LINE_EVERY_S = 5.0


class FleetProgress:
    """Prints a line when drives end. Safe across threads."""

    def __init__(self, ledger: Ledger, reporter: Reporter) -> None:
        self._ledger, self._reporter = ledger, reporter
        self._begun = time.monotonic()
        self._said = 0.0
        self._lock = threading.Lock()

    def say(self) -> None:
        """Print a line, unless the last one is less than 5 s old; the last drive always gets one."""
        now = time.monotonic()
        with self._lock:
            counts = self._ledger.counts()
            left = counts["queued"] + counts["running"] + counts["staged"]
            if left and now - self._said < _LINE_EVERY_S:
                return
            self._said = now
        total = sum(counts.values())
        parts = [f"{counts[state]} {state}" for state in counts if counts[state]]
        done = counts["published"] + counts["failed"] + counts["quarantined"]
        more = "" if self._ledger.info.listed else " (still listing)"
        line = f"drives: {total - left}/{total}{more}; {', '.join(parts)}"
        if left and done:
            line += f"; about {(now - self._begun) / done * left / 60:.0f} min left"
        self._reporter.say(line)
