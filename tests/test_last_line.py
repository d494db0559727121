"""The line that says what to do stands below the trace of a launcher."""

import os
import subprocess
import sys

WORKER = """
from effssl import cli

def interrupted():
    raise KeyboardInterrupt

cli.run(interrupted)
"""
LAUNCHER = f"""
import subprocess, sys
subprocess.run([sys.executable, "-c", {WORKER!r}])
print("Traceback of the launcher", file=sys.stderr)
"""
LINE = "effssl: interrupted; a run goes on with --resume"


def lines(**environment):
    started = subprocess.run(
        [sys.executable, "-c", LAUNCHER],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=200,
    )
    return started.stderr.splitlines()


def test_the_line_of_an_interrupted_run_comes_last_under_torchrun():
    assert lines(TORCHELASTIC_RUN_ID="1") == [LINE, "Traceback of the launcher", LINE]


def test_only_the_main_process_writes_it_and_only_under_torchrun():
    assert lines(TORCHELASTIC_RUN_ID="1", RANK="1") == ["Traceback of the launcher"]
    assert lines() == [LINE, "Traceback of the launcher"]
