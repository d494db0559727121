"""Features on disk, written batch by batch by one or more processes; a stop loses little."""

from __future__ import annotations

import json
import logging
import math
import os
import shutil
import time
import uuid
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from effssl.atomic import write_text
from effssl.data.sources import Source
from effssl.distributed import world_size
from effssl.evaluation._extraction import BatchFeatures
from effssl.evaluation._feature_output import (
    Columns,
    features_start,
    lay_out,
    write_dataset,
    write_parquet,
    write_safetensors,
)

logger = logging.getLogger(__name__)

ENDINGS = (".safetensors", ".parquet", "")
_SAVE_SECONDS = 5.0  # seconds of work that a kill may lose


class FeatureFile:
    """Output of an extraction, collected in a folder ``NAME.partial`` until it is complete.

    The folder holds the safetensors file with a row for every image, and for every process a file
    with the batches it has written and their broken images. Every process creates one of these
    objects, with the same arguments.

    Args:
        output: Path of the file, or of the folder of a ``datasets.Dataset``.
        source: Images, whose labels or columns are written too.
        width: Width of the features.
        batches: Number of batches.
        fingerprint: Digest of all that the features depend on; a partial output with another one
            is deleted.

    Use it in a ``with`` statement, and call `finish` after it.

    Raises:
        ValueError: If the output has an unknown ending.
        FileExistsError: If it exists, or the folder is a link.
    """

    def __init__(
        self, output: Path, source: Source, width: int, batches: int, fingerprint: str
    ) -> None:
        if output.suffix not in ENDINGS:
            raise ValueError(
                f"features cannot be written to {output.name!r}: end it in .safetensors or "
                ".parquet, or in nothing for a folder of datasets"
            )
        if output.exists():
            raise FileExistsError(f"{output} exists: choose another name, or delete it")
        self.output, self.source = output, source
        self.partial = output.with_name(f"{output.name}.partial")
        self.main = world_size() == 1 or dist.get_rank() == 0
        if self.main:
            self._prepare(width, fingerprint)
        _wait_for_all()
        self.batches, self.shape = batches, (len(source.dataset), width)
        self.path = self.partial / "features.safetensors"
        self.start = features_start(self.path)
        # what others put there is not written through; Windows has O_BINARY
        flags = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
        self.file = os.open(self.path, os.O_RDWR | flags)
        self.done = open(self.partial / f"done-{uuid.uuid4().hex}", "x")
        self.pending, self.saved = [], time.monotonic()

    def _prepare(self, width: int, fingerprint: str) -> None:
        if self.partial.is_symlink():
            raise FileExistsError(f"{self.partial} is a link, which is not followed: delete it")
        job = self.partial / "fingerprint"
        if job.is_file() and job.read_text() == fingerprint:
            logger.info("going on with %s", self.partial)
            return
        shutil.rmtree(self.partial, ignore_errors=True)
        self.partial.mkdir(parents=True)
        with open(self.partial / "features.safetensors", "wb") as file:
            _, end = lay_out(file, Columns.of(self.source), width)
            file.flush()
            if hasattr(os, "posix_fallocate"):  # fail now if the disk is full
                os.posix_fallocate(file.fileno(), 0, end)
        write_text(job, fingerprint)  # written last, as a sign that the rest is complete

    def progress(self) -> tuple[list[int], dict[int, str]]:
        """Return what is known of the batches, the same in every process.

        Returns:
            The numbers of the missing batches; and why each broken image of the others cannot be
            read, by its row.
        """
        done, broken = set(), {}
        for file in self.partial.glob("done-*"):
            # a line cut off by a kill has no end
            for line in file.read_text().split("\n")[:-1]:
                batch, messages = json.loads(line)
                done.add(batch)
                broken |= {int(row): message for row, message in messages.items()}
        _wait_for_all()  # before another process writes
        return [batch for batch in range(self.batches) if batch not in done], broken

    def write(self, rows: range, found: BatchFeatures) -> None:
        """Write the features of a batch to its rows; those of broken images are left out later."""
        if found.features is not None:
            whole = spread(found.features, [row for row in rows if row not in found.broken], rows)
            place = self.start + 4 * self.shape[1] * rows.start
            os.lseek(self.file, place, os.SEEK_SET)  # Windows has no pwrite
            os.write(self.file, whole.contiguous().numpy().tobytes())
        self.pending.append([found.number, found.broken])
        if time.monotonic() - self.saved > _SAVE_SECONDS:
            self._save()

    def __enter__(self) -> FeatureFile:
        return self

    def __exit__(self, *exception: object) -> None:
        """Close the files of this process, after an error too: what was written is kept."""
        try:
            self._save()
        finally:
            os.close(self.file)
            self.done.close()

    def _save(self) -> None:
        os.fsync(self.file)  # before the batches are recorded as done
        self.done.write("".join(f"{json.dumps(batch)}\n" for batch in self.pending))
        self.done.flush()
        self.pending, self.saved = [], time.monotonic()

    def finish(self, kept: Tensor) -> None:
        """Create the output once all processes have closed their files, and delete the folder.

        Args:
            kept: Rows of the readable images, (n,), rising.
        """
        _wait_for_all()
        if self.main:
            os.replace(self._write(kept.numpy()), self.output)
            shutil.rmtree(self.partial)
        _wait_for_all()

    def _write(self, kept: np.ndarray) -> Path:
        features = np.memmap(self.path, np.float32, "r", self.start, self.shape)
        path = self.partial / f"whole{self.output.suffix}"
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


def _wait_for_all() -> None:
    if world_size() > 1:
        dist.barrier()
