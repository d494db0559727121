"""One model copied out of its folder, to be checked and sent whatever happens there meanwhile."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from effssl.foreign import MOST_JSON, file_within, open_regular
from effssl.hub._folder import CARD, MOST_CARD, PROBE, TRAINING
from effssl.hub._model_config import WEIGHT_FILES, read_config
from effssl.hub._renewal import identity, read_whole

_NAMES = ("config.json", *WEIGHT_FILES.values(), TRAINING, PROBE, CARD)
_MOST_PROBE = 1_000_000_000
_CHUNK = 1 << 24


@contextmanager
def snapshot(folder: Path, check: Callable[[Path], None]) -> Iterator[Path]:
    """Copy the files of a model to a temporary folder, all of one moment, and check them there.

    Links are followed within the folder, and to the files of the Hub's cache if it lies there.

    Args:
        folder: Model folder.
        check: Function that raises ValueError if the copy is not a whole model.

    Raises:
        FileNotFoundError: If there is no config.json.
        ValueError: If a file is a link to something else, or too large; or as ``check`` does.
        OSError: If there is no room for the copy.
    """
    with tempfile.TemporaryDirectory(prefix="effssl-push-") as temporary:
        tries = iter(range(1000))

        def take() -> Path:
            copy = Path(temporary) / str(next(tries)) / folder.name
            copy.mkdir(parents=True)
            with _named_after(folder, copy):
                taken = _copy(folder, copy)
                if taken != _identities(folder):
                    raise ValueError(f"{folder} was renewed while it was copied: try again")
                check(copy)
            return copy

        copy = read_whole(folder, take, _NAMES)
        with _named_after(folder, copy):
            yield copy


def _copy(folder: Path, copy: Path) -> dict[str, tuple[int, ...] | None]:
    """Copy the files that may be sent, and return what tells them from later ones."""
    before = _identities(folder)
    if not os.path.lexists(folder / "config.json"):
        raise FileNotFoundError(f"no config.json in {str(folder)!r}: not a model folder")
    _copy_file(folder, "config.json", copy, MOST_JSON)
    said = read_config(copy).files
    limits = {name: file["bytes"] for name, file in said.items()}
    limits |= {TRAINING: MOST_JSON, PROBE: _MOST_PROBE, CARD: MOST_CARD}
    for name, most in limits.items():
        if os.path.lexists(folder / name):
            _copy_file(folder, name, copy, most)
    return before


def _copy_file(folder: Path, name: str, copy: Path, most: int) -> None:
    path = folder / name
    try:
        source = open_regular(file_within(path, folder))
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{path} is missing: the model folder is not whole") from error
    with source, open(copy / name, "xb") as target:
        left = most
        while chunk := source.read(_CHUNK):
            left -= len(chunk)
            if left < 0:
                raise ValueError(f"{path} has more than the {most:,} bytes that it may have")
            try:
                target.write(chunk)
            except OSError as error:
                raise OSError(
                    f"cannot copy {path} to {copy.parents[1]}: {error.strerror}; set TMPDIR to a "
                    "folder with room for the model"
                ) from error


def _identities(folder: Path) -> dict[str, tuple[int, ...] | None]:
    return {name: identity(folder / name) for name in _NAMES}


@contextmanager
def _named_after(folder: Path, copy: Path) -> Iterator[None]:
    """Let errors about the copy name the folder."""
    try:
        yield
    except (ValueError, OSError) as error:
        text = re.sub(re.escape(str(copy)), lambda _: str(folder), str(error))
        if text == str(error):
            raise
        kind = type(error) if type(error) in (ValueError, FileNotFoundError) else ValueError
        raise kind(text) from error
