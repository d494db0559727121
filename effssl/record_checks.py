"""Checks of what training.json and metrics.jsonl hold, which may come from anybody."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from effssl.foreign import check_type

_LARGEST = 1e100  # charts stand no more
_STEEPEST = 60  # of an exponent, so that powers of ranks are floats
_MOST_RANK = 100_000
_MOST_OPTIONS, _MOST_VALUES = 100, 1000  # of views; a card shows all of them
_Number = float | None
_CONFIG: dict[str, Any] = {
    **dict.fromkeys(("backbone", "loss", "preset", "optimizer", "lr_scaling"), str),
    **dict.fromkeys(("dataset", "image_column", "init"), str | None),
    "background": str,
    **dict.fromkeys(("projector_dim", "views", "batch_size", "img_size", "seed"), int),
    **dict.fromkeys(("lr", "weight_decay", "warmup_epochs"), float),
    **dict.fromkeys(("local_views", "local_size"), int),
    **dict.fromkeys(("pretrained", "local_pairs"), bool),
    "ema": float | None,
    "local_scale": list[float],
    "view": dict[str, list[float] | float | bool],
}
_SPECTRUM: dict[str, Any] = {
    **dict.fromkeys(("images", "width", "views", "viewed_images"), int),
    **dict.fromkeys(("alpha", "rankme", "effective_rank", "std"), _Number),
    **dict.fromkeys(("lidar", "alignment", "uniformity"), _Number),
    "rank": list[int],
    "eigenvalue": list[_Number],
    "alpha_fit": dict[str, float] | None,
    "preset": str,
}
_NEEDED = ("images", "width", "rank", "eigenvalue", "alpha")
_FIT = ("first", "last", "scale", "r2")


def check_config(config: Mapping[str, Any]) -> None:
    """Check the values of a configuration that a card shows, where they are given.

    Raises:
        ValueError: If one is of another type.
    """
    for name, hint in _CONFIG.items():
        if name in config:
            check_type(config[name], hint, f"{name} of config")
            _check_size(config[name], f"{name} of config")
    view = config.get("view", {})
    if len(view) > _MOST_OPTIONS:
        raise ValueError(f"view of config must have {_MOST_OPTIONS} options at most")
    if any(isinstance(one, list) and len(one) > _MOST_VALUES for one in view.values()):
        raise ValueError(f"an option in view of config must have {_MOST_VALUES} values at most")


def check_history(history: Mapping[str, list] | None) -> None:
    """Check columns of metrics: numbers, as many in each, with epoch and loss.

    Raises:
        ValueError: If they are not.
    """
    check_type(history, dict[str, list[_Number]] | None, "history")
    if not history:
        return
    if len({len(column) for column in history.values()}) > 1:
        raise ValueError("the columns of history must be of one length")
    for name in ("epoch", "loss"):
        if name not in history:
            raise ValueError(f"history lacks {name}")
    for name, column in history.items():
        _check_size(column, f"{name[:80]!a} of history")


def check_table(table: Mapping[str, Mapping[str, list[float]]], name: str) -> None:
    """Check percentages by encoder and protocol.

    Raises:
        ValueError: If one is not finite.
    """
    for row in table.values():
        for values in row.values():
            _check_size(values, f"a value of {name}")


def check_errors(errors: Mapping[str, Mapping[str, float]], majority: float | None) -> None:
    """Check standard errors by baseline and protocol, and the accuracy of the majority class.

    Raises:
        ValueError: If one is not finite.
    """
    _check_size([list(row.values()) for row in errors.values()], "a value of paired_errors")
    _check_size(majority, "majority")


def check_episodes(
    episodes: Mapping[str, int],
    errors: Mapping[str, Mapping[str, float]],
    paired: Mapping[str, Mapping[str, float]],
) -> None:
    """Check numbers of draws by protocol, and the standard errors over them.

    Raises:
        ValueError: If there are fewer than two draws, an error is below 0 or not finite, or its
            protocol has no number of draws.
    """
    for name, count in episodes.items():
        _check_size(count, f"{name[:80]!a} of episodes")
        if count < 2:
            raise ValueError(f"{name[:80]!a} of episodes must be 2 or more, is {count}")
    for of, table in {"episode_errors": errors, "paired_episode_errors": paired}.items():
        for row in table.values():
            _check_size(list(row.values()), f"a value of {of}")
            if any(error < 0 for error in row.values()):
                raise ValueError(f"a value of {of} is below 0")
            for name in row:
                if name not in episodes:
                    raise ValueError(f"episodes lacks {name[:80]!a} of {of}")


def check_spectrum(
    spectrum: Mapping[str, Any], name: str = "spectrum", *, whole: bool = False
) -> None:
    """Check label-free measures by ``features`` and ``projections``.

    Args:
        spectrum: The measures.
        name: Name of them, for the error.
        whole: Whether all must be there that a curve and its fit need.

    Raises:
        ValueError: If a value is missing, of another type or not finite.
    """
    check_type(spectrum, dict[str, dict | None], name)
    for of, found in spectrum.items():
        where = f"{of[:80]!a} of {name}"
        for key, value in (found or {}).items():
            check_type(value, _SPECTRUM.get(key, Any), f"{key[:80]!a} in {where}")
            _check_size(value, f"{key[:80]!a} in {where}")
        if found and whole:
            _check_curve(found, where)


def check_metrics(line: Any, name: str) -> None:
    """Check a line of metrics: an object of a step and numbers, with a spectrum in some.

    Raises:
        ValueError: If it is not.
    """
    check_type(line, dict[str, Any], name)
    check_type(line.get("step"), int, f"step of {name}")
    check_type(line.get("epoch"), float, f"epoch of {name}")
    for key, value in line.items():
        if key == "spectrum":
            check_spectrum(value, f"spectrum of {name}", whole=True)
        else:
            check_type(value, _Number, f"{key[:80]!a} of {name}")
            _check_size(value, f"{key[:80]!a} of {name}")


def _check_curve(found: Mapping[str, Any], where: str) -> None:
    needed = (*_NEEDED, *(("views", "preset") if "viewed_images" in found else ()))
    for key in needed:
        if key not in found:
            raise ValueError(f"{where} lacks {key}")
    ranks, fit, alpha = found["rank"], found.get("alpha_fit"), found["alpha"]
    if len(ranks) != len(found["eigenvalue"]):
        raise ValueError(f"rank and eigenvalue in {where} must be of one length")
    if not all(1 <= rank <= _MOST_RANK for rank in ranks):
        raise ValueError(f"a rank in {where} must be from 1 to {_MOST_RANK:,}")
    if alpha is not None and not abs(alpha) < _STEEPEST:
        raise ValueError(f"alpha in {where} must be below {_STEEPEST}, is {alpha:g}")
    for key in _FIT if fit else ():
        if key not in fit:
            raise ValueError(f"alpha_fit in {where} lacks {key}")
    if fit and not all(1 <= fit[key] <= _MOST_RANK for key in ("first", "last")):
        raise ValueError(f"first and last of alpha_fit in {where} must be from 1 to {_MOST_RANK:,}")
    if fit and alpha is None:
        raise ValueError(f"{where} has alpha_fit without alpha")


def _check_size(value: Any, name: str) -> None:
    """Check that all numbers in a value are finite and such that one can compute with them."""
    if isinstance(value, list):
        for item in value:
            _check_size(item, name)
    elif isinstance(value, dict):
        _check_size(list(value.values()), name)
    elif isinstance(value, int | float) and not abs(value) < _LARGEST:  # NaN too
        raise ValueError(f"{name} must be a finite number, is {value!r}")
