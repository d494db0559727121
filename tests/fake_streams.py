"""Streams and events of a simulated GPU, which check that work on them is in order.

Every stream counts its kernels. What a stream has waited for is the count of each other stream that
it, or the host before it, has seen; memory that another stream wrote after that is not there yet.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor
from torch._subclasses.fake_tensor import unset_fake_temporarily

if TYPE_CHECKING:
    from fake_cuda import FakeCuda


class FakeStream:
    """Stand in for `torch.cuda.Stream`."""

    def __init__(self, gpu: FakeCuda, device=None, priority: int = 0) -> None:
        self.gpu, self.now = gpu, 0
        self.saw: dict[FakeStream, int] = {}

    def is_seen_by(self, saw: dict[FakeStream, int]) -> None:
        """Let another one know of all that was asked of this stream until now."""
        _merge(saw, {**self.saw, self: self.now})

    def wait_stream(self, stream: FakeStream) -> None:
        stream.is_seen_by(self.saw)

    def wait_event(self, event: FakeEvent) -> None:
        _merge(self.saw, event.saw)

    def record_event(self, event: FakeEvent | None = None) -> FakeEvent:
        event = event or FakeEvent(self.gpu)
        event.record(self)
        return event

    def query(self) -> bool:
        return True

    def synchronize(self) -> None:
        self.gpu.waits_for("synchronize", self)


class FakeEvent:
    """In place of `torch.cuda.Event`."""

    def __init__(self, gpu: FakeCuda, enable_timing=False, blocking=False, interprocess=False):
        self.gpu = gpu
        self.saw: dict[FakeStream, int] = {}

    def record(self, stream: FakeStream | None = None) -> None:
        self.saw = {}
        (stream or self.gpu.stream).is_seen_by(self.saw)

    def wait(self, stream: FakeStream | None = None) -> None:
        (stream or self.gpu.stream).wait_event(self)

    def query(self) -> bool:
        _merge(self.gpu.host_saw, self.saw)
        return True

    def synchronize(self) -> None:
        self.gpu.waits_for("synchronize", self)

    def is_seen_by(self, saw: dict[FakeStream, int]) -> None:
        _merge(saw, self.saw)

    def elapsed_time(self, other: FakeEvent) -> float:
        return 1.0


class Held:
    """Memory on the device: by which streams it was made, written and read.

    Args:
        stream: Stream in whose order it was allocated, and goes back when it is freed.

    Attributes:
        writer_name: Operation that wrote it last.
        values: Its values, if they came from the host and nothing changed them.
        recorded: Streams of which `Tensor.record_stream` told.
    """

    def __init__(self, stream: FakeStream) -> None:
        self.stream = self.writer = stream
        self.written = stream.now
        self.writer_name = ""
        self.values: Tensor | None = None
        self.recorded: set[FakeStream] = set()
        self.used: dict[FakeStream, tuple[int, str]] = {}

    def is_read(self, gpu: FakeCuda, place: str) -> None:
        """Note a kernel that reads it.

        Raises:
            RuntimeError: If another stream wrote it and the current one has not waited for that.
        """
        if not _saw(gpu, gpu.stream, self.writer, self.written):
            raise RuntimeError(f"{place} uses what another stream may not have written yet")
        self.used[gpu.stream] = (gpu.stream.now, place)

    def is_written(self, gpu: FakeCuda, place: str, values: Tensor | None) -> None:
        """Note a kernel that writes it, and the values if they come from a CPU tensor."""
        self.is_read(gpu, place)
        with unset_fake_temporarily():
            self.values = None if values is None else values.clone()
        self.writer, self.written = gpu.stream, gpu.stream.now

    def dangers(self, gpu: FakeCuda) -> list[str]:
        """Describe uses on other streams that may outlast its release to its own stream."""
        return [
            f"{place} may still run on another stream when its memory is given away"
            for stream, (time, place) in self.used.items()
            if stream not in self.recorded and not _saw(gpu, self.stream, stream, time)
        ]


def _saw(gpu: FakeCuda, stream: FakeStream, other: FakeStream, time: int) -> bool:
    known = max(stream.saw.get(other, 0), gpu.host_saw.get(other, 0))
    return stream is other or known >= time


def _merge(saw: dict[FakeStream, int], more: dict[FakeStream, int]) -> None:
    for stream, time in more.items():
        saw[stream] = max(saw.get(stream, 0), time)
