"""Processes of tests, forked from one that has imported everything, since a start takes seconds.

They end without Python's own clean-up, so a few tests start real ones by the launchers.
"""

import contextlib
import multiprocessing
import os
import random
import resource
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path

import torch

_forks = multiprocessing.get_context("forkserver")
_forks.set_forkserver_preload(["effssl.cli", "effssl.training.loop", "pytest"])


def _main(function, args, log, result, environment, most_bytes):
    if most_bytes is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, most_bytes))
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.environ.update(environment)
    torch.set_num_threads(1)
    returned = function(*args)
    if returned is not None:
        torch.save(returned, result)


class Forked:
    """A function in a process of its own, with one thread.

    Args:
        log: File for its output and errors.
        function: Function of a module, not a lambda.
        environment: Further environment variables. The others are those of this process when the
            first fork began.
        most_bytes: Largest size of a file that it may write.
    """

    def __init__(
        self,
        log: Path,
        function: Callable,
        *args,
        environment: dict[str, str] | None = None,
        most_bytes: int | None = None,
    ) -> None:
        self._log, self._result = Path(log), Path(log).with_suffix(".result")
        args = function, args, str(log), str(self._result), environment or {}, most_bytes
        self.process = _forks.Process(target=_main, args=args)
        self.process.start()

    def alive(self) -> bool:
        return self.process.is_alive()

    def wait(self, timeout: float = 200) -> int:
        """Return the exit code, or the negative number of the signal that ended it."""
        self.process.join(timeout=timeout)
        assert not self.alive(), self.log()
        return self.process.exitcode

    def result(self):
        """Return what the function returned."""
        assert self.wait() == 0, self.log()
        return torch.load(self._result, weights_only=True) if self._result.exists() else None

    def log(self) -> str:
        return self._log.read_text()

    def send_signal(self, number: int) -> None:
        os.kill(self.process.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)
        assert self.wait() == -signal.SIGKILL, self.log()


def free_port(address: str = "127.0.0.1") -> int:
    """Return a free port, outside the range that the system gives to connections."""
    while True:
        port = random.SystemRandom().randrange(15_000, 32_000)
        with socket.socket() as listener, contextlib.suppress(OSError):
            listener.bind((address, port))
            return port


def launch(folder: Path, processes: int, function: Callable, *args) -> list[Forked]:
    """Start a function as torchrun would start a script, one process a rank; or one alone."""
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    shared |= {"WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(processes)}
    folder.mkdir(parents=True, exist_ok=True)
    if processes == 1:
        return [Forked(folder / "0.log", function, *args)]
    return [
        Forked(
            folder / f"{rank}.log",
            function,
            *args,
            environment=shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
        )
        for rank in range(processes)
    ]


def results(forks: list[Forked], timeout: float = 300) -> list:
    """Return each process's result; the first failure ends all and shows its log."""
    end = time.monotonic() + timeout
    try:
        while any(fork.alive() for fork in forks):
            failed = [fork for fork in forks if fork.process.exitcode]
            assert not failed, failed[0].log()
            assert time.monotonic() < end, forks[0].log()
            time.sleep(0.01)
    finally:
        for fork in forks:
            fork.process.kill()
    return [fork.result() for fork in forks]
