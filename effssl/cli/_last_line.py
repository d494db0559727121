"""A line that stands below the trace of torchrun, which ends after its processes."""

from __future__ import annotations

import os
import subprocess
import sys

# a process of its own: this one must end before torchrun prints its trace
_WAIT_AND_WRITE = """
import os, sys, time
launcher, text = int(sys.argv[1]), sys.argv[2]
end = time.monotonic() + 60
while time.monotonic() < end:
    try:
        os.kill(launcher, 0)
    except OSError:
        break
    time.sleep(0.02)
os.write(2, text.encode())
"""


def write_below_launcher(text: str) -> None:
    """Write a line to stderr after torchrun, if that started this process, has ended."""
    if os.name != "posix" or "TORCHELASTIC_RUN_ID" not in os.environ:
        return
    before = "\n" if sys.stderr.isatty() else ""  # the shell has shown its prompt by then
    command = [sys.executable, "-I", "-S", "-c", _WAIT_AND_WRITE, str(os.getppid())]
    try:
        subprocess.Popen([*command, f"{before}{text}\n"], start_new_session=True)
    except OSError:  # the line was written above the trace too
        pass
