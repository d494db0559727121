"""A safetensors file, opened once: header, tensors and sha256 are of the same bytes.

The format: eight bytes with the length of the header, a JSON object with dtype, shape and place of
each tensor, and the tensors, which lie one after the other without gaps.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Container, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from effssl.foreign import open_regular, parse_json
from effssl.shown import shown

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
"""Kinds of numbers that are read, by their names in a header."""
_BYTES = {"F8_E4M3": 1, "F8_E5M2": 1, "U16": 2, "U32": 4, "U64": 8, "C64": 8}  # are only named
_BYTES |= {name: dtype.itemsize for name, dtype in DTYPES.items()}
_MOST_HEADER = 10_000_000
_MOST_SIDES = 16
_MOST_ELEMENTS = 1 << 40  # the sides of an empty tensor have bounds as well
_CHUNK = 1 << 22


@contextmanager
def open_tensors(path: Path) -> Iterator[TensorFile]:
    """Open a file of tensors and read its header.

    Raises:
        FileNotFoundError: If there is no file.
        ValueError: If it is truncated, not of this format, or not a regular file.
    """
    try:
        file = open_regular(path)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise FileNotFoundError(f"{path} is missing: the model folder is not whole") from error
    with file:
        yield TensorFile(path, file)


class TensorFile:
    """Tensors of an open file; `open_tensors` makes it.

    Attributes:
        path: Path that the file was opened by.
        entries: Name of each tensor, with its dtype, by the name in the header, and shape.
        metadata: Further texts in the header.
        size: Bytes of the file.
    """

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self.path, self._file = path, file
        self.size = os.fstat(file.fileno()).st_size
        self._hash = hashlib.sha256()
        try:
            self.entries = self._read_header()
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"{path} is truncated or not a safetensors file: {shown(str(error), 200)}"
            ) from error

    def read(self, names: Container[str]) -> dict[str, Tensor]:
        """Read the tensors of some names; it can be called once.

        Raises:
            ValueError: If the file ends early.
        """
        tensors = {}
        for name, (kind, shape) in self.entries.items():
            count = math.prod(shape) * _BYTES[kind]
            if name not in names:
                for first in range(0, count, _CHUNK):
                    self._take(min(_CHUNK, count - first))
                continue
            content = torch.empty(count, dtype=torch.uint8)
            self._fill(memoryview(content.numpy()))
            tensors[name] = content.view(DTYPES[kind]).view(shape)
        return tensors

    def description(self) -> dict[str, Any]:
        """Return bytes and sha256 of the file, once `read` has read it."""
        return {"bytes": self.size, "sha256": self._hash.hexdigest()}

    def _read_header(self) -> dict[str, tuple[str, tuple[int, ...]]]:
        length = int.from_bytes(self._take(8), "little")
        if not 2 <= length <= min(_MOST_HEADER, self.size - 8):
            raise ValueError(f"a header of {length:,} bytes in a file of {self.size:,}")
        header = parse_json(self._take(length))
        if not isinstance(header, dict):
            raise ValueError(f"the header is {shown(header)}")
        about = header.pop("__metadata__", {})
        if not isinstance(about, dict) or not all(isinstance(v, str) for v in about.values()):
            raise ValueError(f"__metadata__ is {shown(about)}")
        entries = [(_checked(name, entry), name) for name, entry in header.items()]
        end = 0
        for (start, stop, kind, shape), name in sorted(entries):
            if start != end or stop - start != math.prod(shape) * _BYTES[kind]:
                raise ValueError(f"{shown(name)} lies at {start:,} to {stop:,} after {end:,}")
            end = stop
        if end != self.size - 8 - length:
            raise ValueError(f"{self.size - 8 - length:,} bytes of tensors and not {end:,}")
        self.metadata: dict[str, str] = about
        return {name: (kind, shape) for (_, _, kind, shape), name in sorted(entries)}

    def _take(self, count: int) -> bytes:
        content = bytearray(count)
        self._fill(memoryview(content))
        return bytes(content)

    def _fill(self, target: memoryview) -> None:
        """Fill memory with the next bytes of the file, and add them to its sha256."""
        for first in range(0, len(target), _CHUNK):
            part = target[first : first + _CHUNK]
            if self._file.readinto(part) != len(part):
                raise ValueError(f"{self.path} is truncated")
            self._hash.update(part)


def _checked(name: str, entry: Any) -> tuple[int, int, str, tuple[int, ...]]:
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"{shown(name)} is {shown(entry)}")
    kind, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    numbers = [*shape, *offsets] if isinstance(shape, list) and isinstance(offsets, list) else [-1]
    whole = all(type(number) is int and number >= 0 for number in numbers)
    if not whole or len(offsets) != 2 or len(shape) > _MOST_SIDES:
        raise ValueError(f"{shown(name)} is {shown(entry)}")
    if math.prod(max(side, 1) for side in shape) > _MOST_ELEMENTS:
        raise ValueError(f"{shown(name)} is {shown(entry)}")
    if not isinstance(kind, str) or kind not in _BYTES:
        raise ValueError(f"{shown(name)} is of dtype {shown(kind)}")
    return offsets[0], offsets[1], kind, tuple(shape)
