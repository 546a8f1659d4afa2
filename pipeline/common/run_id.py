"""Names of runs: sortable by time, unique."""

from __future__ import annotations

import time
import uuid


def new_run_id() -> str:
    """A name for a run: names sort by time, to the millisecond."""
    now = time.time()
    return f"{time.strftime('%Y%m%dT%H%M%S', time.gmtime(now))}{int(now % 1 * 1000):03d}-{uuid.uuid4().hex[:6]}"
