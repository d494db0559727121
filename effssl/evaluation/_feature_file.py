"""Features on disk, written batch by batch by one or more processes; a stop loses little."""

from __future__ import annotations

import json
import logging
import math
import os
import shutil
import time
import uuid
from pathlib import Path

import numpy as np
import torch.distributed as dist
from torch import Tensor

from effssl.atomic import write_text
from effssl.data.sources import Source
from effssl.distributed import world_size

logger = logging.getLogger(__name__)

ENDINGS = (".safetensors", ".parquet", "")
_PARQUET_ROWS = 10_000  # rows in a row group
_SAVE_SECONDS = 5.0  # seconds of work that a kill may lose


class FeatureFile:
    """Output of an extraction, collected in a folder ``NAME.partial`` until it is complete.

    The folder holds the safetensors file, and for every process a file with the numbers of the
    batches it has written. Every process creates one of these objects, with the same arguments.

    Args:
        output: Path of the file, or of the folder of a ``datasets.Dataset``.
        source: Images, whose labels or columns are written too.
        width: Width of the features.
        batches: Number of batches.
        fingerprint: Digest of all that the features depend on; a partial output with another one
            is deleted.

    Raises:
        ValueError: If the output has an unknown ending.
        FileExistsError: If it exists.
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
        self.start = self.path.stat().st_size - 4 * math.prod(self.shape)  # they come last
        self.file = os.open(self.path, os.O_RDWR | getattr(os, "O_BINARY", 0))  # of Windows
        self.done = open(self.partial / f"done-{uuid.uuid4().hex}", "x")
        self.pending, self.saved = [], time.monotonic()

    def _prepare(self, width: int, fingerprint: str) -> None:
        job = self.partial / "fingerprint"
        if job.is_file() and job.read_text() == fingerprint:
            logger.info("going on with %s", self.partial)
            return
        shutil.rmtree(self.partial, ignore_errors=True)
        self.partial.mkdir(parents=True)
        rows = len(self.source.dataset)
        with open(self.partial / "features.safetensors", "wb") as file:
            file.write(_header(rows, width, labels=self._labels is not None))
            if self._labels is not None:
                file.write(self._labels.tobytes())
            end = file.tell() + 4 * rows * width
            file.truncate(end)
            file.flush()
            if hasattr(os, "posix_fallocate"):  # fail now if the disk is full
                os.posix_fallocate(file.fileno(), 0, end)
        write_text(job, fingerprint)  # written last, as a sign that the rest is complete

    @property
    def _labels(self) -> np.ndarray | None:
        if self.source.label_column is None:
            return None
        labels = self.source.dataset[self.source.label_column][:]
        whole = all(isinstance(label, int) for label in labels)
        return np.array(labels, np.int64) if whole else None

    def batches_left(self) -> list[int]:
        """Return the numbers of the missing batches, the same in every process."""
        done = set()
        for file in self.partial.glob("done-*"):
            # a line cut off by a kill has no end
            done |= {int(line) for line in file.read_text().split("\n")[:-1]}
        _wait_for_all()  # before another process writes
        return [batch for batch in range(self.batches) if batch not in done]

    def write(self, batch: int, rows: range, features: Tensor) -> None:
        """Write the features of a batch, (n, F), to their rows."""
        place = self.start + 4 * self.shape[1] * rows.start
        os.lseek(self.file, place, os.SEEK_SET)  # Windows has no pwrite
        os.write(self.file, features.contiguous().numpy().tobytes())
        self.pending.append(batch)
        if time.monotonic() - self.saved > _SAVE_SECONDS:
            self._save()

    def _save(self) -> None:
        os.fsync(self.file)  # before the batches are recorded as done
        self.done.write("".join(f"{batch}\n" for batch in self.pending))
        self.done.flush()
        self.pending, self.saved = [], time.monotonic()

    def finish(self) -> None:
        """Create the output once all processes are done, and delete the folder."""
        self._save()
        os.close(self.file)
        self.done.close()
        _wait_for_all()
        if self.main:
            made = self.path
            if self.output.suffix == ".parquet":
                made = self._write_parquet()
            elif self.output.suffix == "":
                made = self._write_dataset()
            os.replace(made, self.output)
            shutil.rmtree(self.partial)
        _wait_for_all()

    def _features(self) -> np.ndarray:
        return np.memmap(self.path, np.float32, "r", self.start, self.shape)

    def _write_parquet(self) -> Path:
        import pyarrow
        from pyarrow import parquet

        path = self.partial / "features.parquet"
        features, width, labels = self._features(), self.shape[1], self._labels
        names = {"features": pyarrow.list_(pyarrow.float32(), width)}
        if labels is not None:
            names["labels"] = pyarrow.int64()
        with parquet.ParquetWriter(path, pyarrow.schema(names)) as writer:
            for first in range(0, len(features), _PARQUET_ROWS):
                rows = slice(first, first + _PARQUET_ROWS)
                flat = pyarrow.array(features[rows].reshape(-1))
                columns = [pyarrow.FixedSizeListArray.from_arrays(flat, width)]
                columns += [] if labels is None else [pyarrow.array(labels[rows])]
                writer.write_table(pyarrow.table(columns, schema=pyarrow.schema(names)))
        return path

    def _write_dataset(self) -> Path:
        import pyarrow
        from datasets import (
            Dataset,
            DatasetInfo,
            Features,
            Image,
            List,
            Value,
            concatenate_datasets,
        )

        path = self.partial / "dataset"
        kind = Features({"features": List(Value("float32"), length=self.shape[1])})
        flat = pyarrow.array(self._features().reshape(-1))  # no copy, here and below
        column = pyarrow.FixedSizeListArray.from_arrays(flat, type=kind.arrow_schema.types[0])
        table = pyarrow.table([column], schema=kind.arrow_schema)
        features = Dataset(table, info=DatasetInfo(features=kind))
        plain = self.source.dataset.with_format(None)
        if isinstance(plain.features[self.source.image_column], Image):
            plain = plain.cast_column(self.source.image_column, Image())
        concatenate_datasets([plain, features], axis=1).save_to_disk(path)
        return path


def _header(rows: int, width: int, *, labels: bool) -> bytes:
    """Return the header of a safetensors file of labels, if any, and features."""
    end = 8 * rows if labels else 0
    header = {
        "features": {
            "dtype": "F32",
            "shape": [rows, width],
            "data_offsets": [end, end + 4 * rows * width],
        }
    }
    if labels:
        header["labels"] = {"dtype": "I64", "shape": [rows], "data_offsets": [0, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # align the tensors to 8 bytes
    return len(text).to_bytes(8, "little") + text


def _wait_for_all() -> None:
    if world_size() > 1:
        dist.barrier()
