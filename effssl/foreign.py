"""Files of others: regular ones only, read in bounds of size and depth, with types checked."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, BinaryIO, Union, get_args, get_origin

from effssl.shown import one_line, shown

MOST_JSON = 4_000_000
"""Largest size in bytes of a JSON file of a model folder."""
_DEPTH = 32
_MOST_DIGITS = 100
_WORDS = {str: "text", bool: "true or false", int: "a whole number", float: "a number"}
_WORDS |= {NoneType: "null", dict: "an object", list: "a list"}


def open_regular(path: Path) -> BinaryIO:
    """Open a file to read its bytes, without waiting for a pipe or reading a device.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is not a regular file.
    """
    # without O_NONBLOCK a pipe waits for a writer
    flags = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0)
    file = open(path, "rb", opener=lambda name, wanted: os.open(name, wanted | flags))
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise ValueError(f"{path} is not a regular file: replace or delete it")
    return file


def file_within(path: Path, folder: Path) -> Path:
    """Return the file that a path of a folder leads to, if links lead to nothing else.

    They may lead within the folder, and in the cache of the Hub to the files of the repository.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If a link leads out of the folder, or in a circle.
    """
    try:
        real, root = path.resolve(strict=True), folder.resolve(strict=True)
    except FileNotFoundError:
        raise
    except (OSError, RuntimeError) as error:
        raise ValueError(f"{path} leads nowhere: {error}") from error
    if real.is_relative_to(root):
        return real
    # a snapshot in the Hub's cache holds links to the blobs of its repository
    if root.parent.name == "snapshots" and real.parent == root.parents[1] / "blobs":
        return real
    raise ValueError(
        f"{path} is a link to something outside of the folder, which is not read: put a copy of "
        "the file in its place"
    )


def read_bytes(path: Path, most: int) -> bytes:
    """Read a file of at most so many bytes.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is larger, or not a regular file.
    """
    with open_regular(path) as file:
        content = file.read(most + 1)
        if len(content) > most:
            size = max(os.fstat(file.fileno()).st_size, len(content))
            raise ValueError(f"{path} has {size:,} bytes; {most:,} are read at most")
    return content


def read_text(path: Path, most: int) -> str:
    """Read a text file in UTF-8 of at most so many bytes.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is larger, not a regular file, or not UTF-8.
    """
    try:
        return read_bytes(path, most).decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8: {one_line(error)}") from error


def load_json(path: Path, most: int = MOST_JSON) -> Any:
    """Read a value from a JSON file in UTF-8.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is not a regular file, larger, or not JSON as `parse_json` reads it.
    """
    try:
        return parse_json(read_bytes(path, most).decode("utf-8"))
    except (_JsonError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not valid JSON: {one_line(error)}") from error


def read_json(path: Path, most: int = MOST_JSON) -> dict[str, Any]:
    """Read an object from a JSON file; see `load_json`.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: As `load_json` does, or if it holds something else.
    """
    found = load_json(path, most)
    if not isinstance(found, dict):
        raise ValueError(f"{path} holds {shown(found)}, and not an object")
    return found


def parse_json(text: str | bytes) -> Any:
    """Parse JSON.

    Raises:
        ValueError: If it is not JSON, nested too deep, names a key twice, or holds a whole number
            of more than 100 digits or text that is not Unicode.
    """
    try:
        found = json.loads(text, parse_int=_whole, object_pairs_hook=_once)
    except RecursionError as error:
        raise _JsonError("it is nested too deep") from error
    except ValueError as error:
        raise _JsonError(one_line(error, 300)) from error
    _check_depth(found)
    return found


def check_type(value: object, hint: Any, name: str) -> None:
    """Check the type of a value that was parsed.

    Args:
        value: Value to check.
        hint: Type: of JSON, a union, or ``dict[str, X]``, ``list[X]`` or Any. Whole numbers pass
            as ``float``, and true and false as nothing but ``bool``.
        name: Name of the value, for the error.

    Raises:
        ValueError: If it is of another type.
    """
    kinds = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    for kind in kinds:
        outer = get_origin(kind) or kind
        if outer is Any:
            return
        if outer is float and type(value) is int:
            return
        if isinstance(value, outer) and (outer is bool or not isinstance(value, bool)):
            break
    else:
        words = " or ".join(_WORDS[get_origin(kind) or kind] for kind in kinds)
        raise ValueError(f"{name} must be {words}, is {shown(value)}")
    if isinstance(value, Mapping) and get_args(kind):
        for key, item in value.items():
            check_type(item, get_args(kind)[1], f"{name}.{shown(key, 60)[1:-1]}")
    elif isinstance(value, list) and get_args(kind):
        for item in value:
            check_type(item, get_args(kind)[0], f"an item of {name}")


class _JsonError(ValueError):
    pass


def _whole(digits: str) -> int:
    if len(digits) > _MOST_DIGITS:  # it would be no float
        raise ValueError(f"{shown(digits, 40)} has more than {_MOST_DIGITS} digits")
    return int(digits)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"it names {shown(name)} twice")
        found[name] = value
    return found


def _check_depth(value: object) -> None:
    level = [value]
    for _ in range(_DEPTH):
        texts = [item for item in level if isinstance(item, str)]
        if any(not text.isascii() and "\ud800" <= max(text) and _is_torn(text) for text in texts):
            raise _JsonError("it holds text that is not Unicode")
        inner = [item for item in level if isinstance(item, dict | list)]
        level = [x for item in inner for x in (item.values() if isinstance(item, dict) else item)]
        level += [key for item in inner if isinstance(item, dict) for key in item]
        if not level:
            return
    raise _JsonError(f"it is nested more than {_DEPTH} deep")


def _is_torn(text: str) -> bool:
    return any("\ud800" <= character <= "\udfff" for character in text)
