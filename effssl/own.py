"""Code of one's own that a run takes by its name, such as ``package.module:function``.

A name is mere text until `import_own` is called, which happens only for what somebody typed on the
command line or wrote in Python. Names in files, which may come from anybody, are never imported.
This module does not import torch.
"""

from __future__ import annotations

import importlib
import inspect
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NewType

from effssl.hints import did_you_mean, option

OwnName = NewType("OwnName", str)
"""Type of a field that may name code of one's own."""
FORM = "package.module:name"
"""Form of such a name, for messages."""
_NAME = re.compile(r"[a-z_]\w*(\.\w+)*:[a-z_]\w*(\.\w+)*", re.ASCII | re.IGNORECASE)
_OBJECT = re.compile(r"object\([a-z_][\w.]*\)", re.ASCII | re.IGNORECASE)
_LONGEST = 200  # so that a card of a stranger's record stays short


class FromFile(str):
    """Name that was read from a file, so that it is not imported."""


def is_own(name: object) -> bool:
    """Return whether a text names code of one's own, or an object that was given in Python."""
    if not isinstance(name, str) or len(name) > _LONGEST:
        return False
    return bool(_NAME.fullmatch(name) or _OBJECT.fullmatch(name))


def is_object(name: str) -> bool:
    """Return whether a text stands for an object that cannot be imported."""
    return bool(_OBJECT.fullmatch(name))


def word_of(name: str) -> str:
    """Return the last word of a name of one's own in lower case: letters, digits and ``_``."""
    return re.sub(r"\W+", "_", re.split(r"[:.(]", name.rstrip(")"))[-1], flags=re.ASCII).lower()


def name_of(thing: object) -> str:
    """Return the name under which an object can be imported, else one that says what it was.

    Returns:
        ``module:name``, in which a script is the module that it would be imported as; or
        ``object(name)`` for a lambda, an inner function, a partial or an instance.
    """
    inner = getattr(thing, "func", thing)  # of a partial
    said = getattr(inner, "__qualname__", None) or type(inner).__qualname__
    module = getattr(thing, "__module__", None)
    found: Any = sys.modules.get(module) if isinstance(module, str) else None
    file = getattr(found, "__file__", None)
    for part in said.split("."):
        found = getattr(found, part, None)
    if module == "__main__" and file is not None:
        module = Path(file).stem
    name = f"{module}:{said}"
    if found is thing and found is not None and _NAME.fullmatch(name):
        return name
    word = re.sub(r"\W+", "_", said.rpartition(".")[2], flags=re.ASCII).strip("_")
    return f"object({word or 'unnamed'})"


def import_own(name: str, field: str) -> Any:
    """Import what a name stands for; modules in the current folder come first.

    The current folder is put in front of ``sys.path``, as ``python -m`` does.

    Args:
        name: ``package.module:name``.
        field: Field of the configuration that has it, for errors.

    Raises:
        ValueError: If the name comes from a file or stands for an object, the module is not there
            or fails, or it does not have the name. The message is one line.
    """
    said = f"{option(field)} {name}"
    if isinstance(name, FromFile):
        raise ValueError(
            f"{said} comes from a file and names code, which is not imported unless you name it "
            f"yourself: give {said}"
        )
    if is_object(name):
        raise ValueError(
            f"{said} was an object in Python, which has no name to import: give it to "
            "effssl.pretrain again"
        )
    if os.getcwd() not in (os.path.abspath(folder) for folder in sys.path):
        sys.path.insert(0, os.getcwd())
    module_name, _, words = name.partition(":")
    try:
        found = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise _failed(said, module_name, error) from error
        raise ValueError(_not_there(said, module_name, error.name)) from error
    except (Exception, SystemExit) as error:  # noqa: BLE001  it may raise anything
        raise _failed(said, module_name, error) from error
    for word in words.split("."):
        if not hasattr(found, word):
            public = [one for one in dir(found) if not one.startswith("_")]
            where = getattr(found, "__file__", None) or module_name
            raise ValueError(
                f"{said}: {where} has no {word!r}; {did_you_mean(word, public)}give {FORM}"
            )
        found = getattr(found, word)
    return found


def takes(function: Callable, name: str) -> bool:
    """Return whether a function has a parameter, or takes any."""
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):  # some built-in functions have none
        return False
    return name in parameters


def _failed(said: str, module: str, error: BaseException) -> ValueError:
    reason = " ".join(str(error).split()) or "no reason given"
    return ValueError(
        f"{said}: {module} fails when it is imported: {type(error).__name__}: {reason}"
    )


def _not_there(said: str, module: str, missing: str) -> str:
    if module.endswith(".py"):
        return f"{said}: a module is named without .py: {FORM}"
    names = [path.stem for path in Path().glob("*.py")]
    return (
        f"{said}: there is no module {missing!r} in {os.getcwd()} or among the installed ones; "
        f"{did_you_mean(missing, names)}give {FORM}"
    )
