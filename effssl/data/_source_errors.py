"""Errors of reading a data set, in one line that names it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from tarfile import TarError

from effssl.data._splits import MissingSplit
from effssl.hints import nearest
from effssl.shown import one_line

_OBJECT = "of type "  # begins the name of what is no path


def name_of(dataset: object) -> str:
    """Return a data set's name for messages."""
    if isinstance(dataset, str | os.PathLike):
        return repr(os.fspath(dataset))
    return f"{_OBJECT}{type(dataset).__name__}"


@contextmanager
def named_errors(named: str, split: str) -> Iterator[None]:
    """Raise errors of ``datasets`` as ours, in one line that names the data set."""
    from datasets.data_files import EmptyDatasetError
    from datasets.exceptions import (
        DataFilesNotFoundError,
        DatasetGenerationError,
        DatasetNotFoundError,
    )

    from effssl.data._cache_errors import cache_error

    try:
        yield
    except DatasetNotFoundError as error:
        near = nearest(named[1:-1])
        raise FileNotFoundError(
            f"no data set {named}: no such file or folder here{near}, and the Hub says: "
            f"{one_line(error)}"
        ) from error
    except ConnectionError as error:
        raise FileNotFoundError(
            f"no data set {named}: no such file or folder here{nearest(named[1:-1])}, and the Hub "
            "cannot be reached"
        ) from error
    except (DataFilesNotFoundError, EmptyDatasetError) as error:
        raise FileNotFoundError(
            f"no images or parquet files in {named}: {one_line(error)}"
        ) from error
    except MissingSplit as error:
        raise MissingSplit(error.split, error.there, named) from error
    except (ValueError, TarError) as error:
        raise ValueError(f"data set {named}, split {split!r}: {one_line(error)}") from error
    except OSError as error:
        if (of_cache := cache_error(error, named)) is None:
            raise
        raise of_cache from error
    except DatasetGenerationError as error:  # its own text says nothing
        if (of_cache := cache_error(error.__cause__, named)) is not None:
            raise of_cache from error
        raise ValueError(
            f"data set {named}, split {split!r}: {one_line(error.__cause__ or error)}"
        ) from error
    except IndexError as error:  # datasets raises it for a save_to_disk folder without rows
        raise ValueError(f"data set {named}, split {split!r}, is empty") from error
    except MemoryError:
        raise
    except Exception as error:  # of the parsers that datasets uses
        if isinstance(error, TypeError) and named.startswith(_OBJECT):  # it is no data set
            raise
        if (of_cache := cache_error(error, named)) is not None:
            raise of_cache from error
        why = f"{type(error).__name__}: {one_line(error, 500)}"
        raise ValueError(f"data set {named}, split {split!r}, cannot be read: {why}") from error
