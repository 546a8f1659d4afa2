"""The commands. Each one reads its settings, makes one call and prints the result. No algorithms here."""

import os
import sys

# Where the locale is ASCII (LANG=C with Python's UTF-8 mode off), non-ASCII paths become strings with surrogates, which
# no store, manifest or page can encode. So the same command is started again in UTF-8 mode.
if sys.argv[:1] == ["-m"] and sys.getfilesystemencoding() != "utf-8" and os.environ.get("PYTHONUTF8") != "1":
    os.execve(sys.executable, [os.fsencode(word) for word in sys.orig_argv], {**os.environ, "PYTHONUTF8": "1"})

try:
    os.getcwd()
except FileNotFoundError:  # otherwise Intel's MKL ends the process with a message about a library
    sys.exit("error: the current folder was deleted; change to one that exists")

# Set before torch loads its thread pool: a waiting thread then sleeps instead of spinning. Ranks share cores with the
# tasks that decode their frames; spinning threads made a run on a busy machine several times slower.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
