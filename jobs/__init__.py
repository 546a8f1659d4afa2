"""Commands: a configuration, one call, a printed result. No algorithms here."""

import os
import sys

# Where the locale says ASCII (LANG=C with Python's UTF-8 mode switched off) paths of the command line and of folders
# arrive as bytes that no store, manifest or page can hold. The same command begins again in UTF-8 mode.
if sys.argv[:1] == ["-m"] and sys.getfilesystemencoding() != "utf-8" and os.environ.get("PYTHONUTF8") != "1":
    os.execve(sys.executable, [os.fsencode(word) for word in sys.orig_argv], {**os.environ, "PYTHONUTF8": "1"})

try:
    os.getcwd()
except FileNotFoundError:  # Intel's MKL would end the process with a line about a library
    sys.exit("error: the current folder was deleted; change to one that is there")

# Before torch loads its thread pool: a thread that waits gives its core away. Ranks share cores with the
# tasks that decode their frames; spinning threads made a run on a busy machine several times slower.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
