"""A wait for the device notices that another process is gone, and hears signals meanwhile."""

import os
import signal
import time

import pytest
from forked import launch
from torch import distributed as dist

from effssl import liveness

liveness._LOOK_EVERY = 0.5

PATIENCE = 3.0


def wait_in_vain(lost_by: str) -> str:
    """Wait for work that never ends, while process 1 is lost."""
    dist.init_process_group("gloo")
    with liveness.heartbeat(every=0.1):
        time.sleep(0.5)
        if dist.get_rank() == 1:
            os.kill(os.getpid(), getattr(signal, lost_by))
        try:
            liveness.wait_with_others(lambda: False, PATIENCE)
        except ConnectionError as error:
            time.sleep(2)  # the store of process 0 must outlive the wait of the others
            return str(error)
    return "nobody was missed"


@pytest.mark.parametrize("lost_by", ["SIGKILL", "SIGSTOP"])
def test_a_lost_process_is_named_by_all_that_wait_for_the_device(tmp_path, lost_by):
    forks = launch(tmp_path, 3, wait_in_vain, lost_by)
    try:
        for rank in (0, 2):
            message = f"process {rank} of 3 lost the others; no sign of life from process: 1;"
            assert message in forks[rank].result()
    finally:
        forks[1].process.kill()


def wait_for_a_slow_one() -> None:
    dist.init_process_group("gloo")
    with liveness.heartbeat(every=0.1):
        end = time.monotonic() + PATIENCE + 1.5
        liveness.wait_with_others(lambda: time.monotonic() > end, PATIENCE)
        dist.barrier()


def test_processes_that_are_alive_are_waited_for_longer_than_that(tmp_path):
    for fork in launch(tmp_path, 2, wait_for_a_slow_one):
        assert fork.wait() == 0, fork.log()


def test_signals_are_heard_during_the_wait(monkeypatch):
    monkeypatch.setattr(liveness, "_beats", lambda: [0])
    heard = []
    earlier = signal.signal(signal.SIGALRM, lambda *_: heard.append(True))
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        liveness.wait_with_others(lambda: bool(heard), PATIENCE)
    finally:
        signal.signal(signal.SIGALRM, earlier)
    assert heard
