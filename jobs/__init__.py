"""Commands: a configuration, one call, a printed result. No algorithms here."""

import os

# Before torch loads its thread pool: a thread that waits gives its core away. Ranks share cores with the
# tasks that decode their frames; spinning threads made a run on a busy machine several times slower.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
