"""Features on disk, written batch by batch by one or more processes; a stop loses little."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import shutil
import time
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from effssl.atomic import write_text
from effssl.data.sources import Source
from effssl.distributed import gather_objects, world_size
from effssl.evaluation._extraction import BatchFeatures
from effssl.evaluation._feature_output import (
    Columns,
    features_start,
    is_laid_out,
    lay_out,
    write_dataset,
    write_parquet,
    write_safetensors,
)
from effssl.evaluation._partial_folder import (
    batches_done,
    clear,
    discard,
    discard_others,
    give_name,
    hold,
    partial_folder,
)
from effssl.foreign import read_text
from effssl.hints import option

logger = logging.getLogger(__name__)

ENDINGS = (".safetensors", ".parquet", "")
_SAVE_SECONDS = 5.0  # seconds of work that a kill may lose


class FeatureFile:
    """Output of an extraction, collected in a folder ``NAME.DIGITS.partial`` until it is complete.

    The folder holds the safetensors file with a row for every image, and for every process a file
    with the batches it has written and their broken images. The digits are those of the
    fingerprint. While the extraction lives no other one writes to the folder. Every process
    creates one of these objects, with the same arguments.

    Args:
        output: Path of the file, or of the folder of a ``datasets.Dataset``.
        source: Images, whose labels or columns are written too.
        width: Width of the features.
        batches: Number of batches.
        fingerprint: Digest of all that the features depend on, which counts on rank 0. What a
            killed extraction with another one has left is deleted.

    Use it in a ``with`` statement, and call `finish` after it.

    Raises:
        ValueError: If the output has an unknown ending.
        FileExistsError: If it exists, another extraction writes it, or the folder is a link.
        OSError: If the folder cannot be written.
    """

    def __init__(
        self, output: Path, source: Source, width: int, batches: int, fingerprint: str
    ) -> None:
        if output.suffix not in ENDINGS:
            raise ValueError(
                f"features cannot be written to {output.name!r}: end it in .safetensors or "
                ".parquet, or in nothing for a folder of datasets"
            )
        _check_free(output)
        self.output, self.source = output, source
        fingerprint = gather_objects(fingerprint)[0]
        self.partial = partial_folder(output, fingerprint)
        self.held = contextlib.ExitStack()  # closed when others may write to the folder
        self.batches, self.shape = batches, (len(source.dataset), width)
        self.path = self.partial / "features.safetensors"
        _on_first_rank(lambda: self._prepare(width, fingerprint))
        try:
            self.start = features_start(self.path)
            # what others put there is not written through; Windows has O_BINARY
            flags = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
            self.file = os.open(self.path, os.O_RDWR | flags)
            self.done = open(self.partial / f"done-{uuid.uuid4().hex}", "x")
        except BaseException:
            self.held.close()
            raise
        self.pending, self.saved = [], time.monotonic()

    def _prepare(self, width: int, fingerprint: str) -> None:
        self.held = hold(self.partial, self.output)
        try:
            _check_free(self.output)  # another extraction may just have made it
            discard_others(self.partial, self.output)
            job = self.partial / "fingerprint"
            if _holds(job, fingerprint) and is_laid_out(self.path):
                logger.info("going on with %s", self.partial)
                return
            clear(self.partial)
            with open(self.path, "xb") as file:
                _, end = lay_out(file, Columns.of(self.source), width)
                file.flush()
                if hasattr(os, "posix_fallocate"):  # fail now if the disk is full
                    os.posix_fallocate(file.fileno(), 0, end)
            write_text(job, fingerprint)  # written last, as a sign that the rest is complete
        except BaseException:
            self.held.close()
            raise

    def progress(self) -> tuple[list[int], dict[int, str]]:
        """Return what is known of the batches, the same in every process.

        Returns:
            The numbers of the missing batches; and why each broken image of the others cannot be
            read, by its row.
        """
        missing, broken = self._recorded()
        _wait_for_all()  # before another process writes
        return missing, broken

    def _recorded(self) -> tuple[list[int], dict[int, str]]:
        done, broken = set(), {}
        for file in self.partial.glob("done-*"):
            for batch, messages in batches_done(file):
                done.add(batch)
                broken |= messages
        return [batch for batch in range(self.batches) if batch not in done], broken

    def write(self, rows: range, found: BatchFeatures) -> None:
        """Write the features of a batch to its rows; those of broken images are left out later."""
        if found.features is not None:
            whole = spread(found.features, [row for row in rows if row not in found.broken], rows)
            place = self.start + 4 * self.shape[1] * rows.start
            os.lseek(self.file, place, os.SEEK_SET)  # Windows has no pwrite
            left = memoryview(whole.contiguous().numpy().tobytes())
            while left:  # a system writes no more than 2 GiB at a time
                left = left[os.write(self.file, left) :]
        self.pending.append([found.number, found.broken])
        if time.monotonic() - self.saved > _SAVE_SECONDS:
            self._save()

    def __enter__(self) -> FeatureFile:
        return self

    def __exit__(self, kind: type | None, *exception: object) -> None:
        """Close the files of this process, after an error too: what was written is kept."""
        saved = False
        try:
            self._save()
            saved = True
        finally:
            os.close(self.file)
            self.done.close()
            if kind is not None or not saved:
                self.held.close()

    def _save(self) -> None:
        os.fsync(self.file)  # before the batches are recorded as done
        self._check_there()
        self.done.write("".join(f"{json.dumps(batch)}\n" for batch in self.pending))
        self.done.flush()
        self.pending, self.saved = [], time.monotonic()

    def finish(self, kept: Tensor) -> None:
        """Create the output once all processes have closed their files, and delete the folder.

        Args:
            kept: Rows of the readable images, (n,), rising.

        Raises:
            FileExistsError: If something has the name of the output by now.
            OSError: If a batch is not recorded as written, or the output cannot be written.
        """
        _wait_for_all()
        try:
            _on_first_rank(lambda: self._finish(kept.numpy()))
        finally:
            self.held.close()

    def _finish(self, kept: np.ndarray) -> None:
        missing, _ = self._recorded()
        if missing:
            raise OSError(
                f"{len(missing):,} of {self.batches:,} batches are not recorded in {self.partial}, "
                "which something else has changed: give the same command again"
            )
        give_name(self._write(kept), self.output, self.partial)
        discard(self.partial, self.held)

    def _check_there(self) -> None:
        try:
            there = os.path.samestat(os.fstat(self.file), os.lstat(self.path))
        except FileNotFoundError:
            there = False
        if not there:
            raise OSError(
                f"{self.path} was deleted or replaced by something else while features were "
                "written to it: give the same command again"
            )

    def _write(self, kept: np.ndarray) -> Path:
        features = np.memmap(self.path, np.float32, "r", self.start, self.shape)
        path = self.partial / f"whole{self.output.suffix}"
        if self.output.suffix == "" and path.exists():  # of an earlier try
            shutil.rmtree(path)
        if self.output.suffix == "":
            write_dataset(path, self.source, features, Columns.of(self.source), kept)
        elif self.output.suffix == ".parquet":
            write_parquet(path, features, Columns.of(self.source), kept)
        elif len(kept) < len(features):
            write_safetensors(path, features, Columns.of(self.source), kept)
        else:
            return self.path  # it is that file already
        return path


def spread(features: Tensor, places: Sequence[int] | Tensor, among: Sequence[int]) -> Tensor:
    """Return features with a row of NaN for each image that has none.

    Args:
        features: (..., n, F).
        places: What each of the n rows is the features of, rising.
        among: The places of all N images, an interval.

    Returns:
        (..., N, F).
    """
    if len(places) == len(among):
        return features
    whole = features.new_full((*features.shape[:-2], len(among), features.shape[-1]), math.nan)
    whole[..., torch.as_tensor(places) - among[0], :] = features
    return whole


def _holds(file: Path, text: str) -> bool:
    try:
        return read_text(file, len(text)) == text
    except (FileNotFoundError, ValueError):
        return False


def _check_free(output: Path) -> None:
    if os.path.lexists(output):
        raise FileExistsError(f"{output} exists: give another {option('output')}, or delete it")


def _on_first_rank(action: Callable[[], None]) -> None:
    """Run a function on rank 0, and raise its error on every process."""
    error = None
    if world_size() == 1 or dist.get_rank() == 0:
        try:
            action()
        except (OSError, ValueError) as raised:
            error = raised
    told = gather_objects(error)[0]
    if told is not None:
        raise error or told


def _wait_for_all() -> None:
    if world_size() > 1:
        dist.barrier()
