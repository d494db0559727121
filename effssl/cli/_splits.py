"""The splits that ``effssl evaluate`` fits to and measures on."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from effssl.cli._model import is_main_process

if TYPE_CHECKING:
    from effssl.data import Source

    Load = Callable[..., Source]

TEST_SHARE = 0.2
_TESTS = ("test", "validation")


def open_splits(
    load: Load,
    train_split: str,
    test_split: str | None,
    test_share: float | None,
    *,
    labeled: bool,
) -> tuple[Source | None, Source]:
    """Open the images to fit to and those to measure on, and print which these are if not given.

    Measured on are those of ``test_split``, or a share of every class of train if ``test_share`` is
    given; else the split test if it has labels, else validation, else a share of train.

    Args:
        load: `load_source` from a split, with options.
        train_split: Split to fit to.
        test_split: Split to measure on, or None.
        test_share: Share of train to measure on, or None.
        labeled: Whether labels are needed.

    Returns:
        Images of train, None if no labels are needed, and of test.

    Raises:
        ValueError: If a split is missing, both a split and a share are given, or train cannot be
            split by class.
    """
    if test_share is not None and (test_split is not None or not labeled):
        other = "--test-split" if labeled else "--protocols spectrum, which needs no labels"
        raise ValueError(f"--test-share does not go with {other}: leave one out")
    if not labeled:
        if test_split is None:
            return None, _unlabeled(load)
        return None, _named(load, test_split, "--test-split")
    train = _named(load, train_split, "--train-split")
    if train.label_column is None:
        raise ValueError(
            f"the images of split {train.split} have no labels: give labeled ones with --dataset, "
            f"or measure without labels by --protocols spectrum --test-split {train.split}"
        )
    load = partial(load, value_range=train.value_range)  # not found anew if it is auto
    if test_split is not None:
        return train, _named(load, test_split, "--test-split")
    if test_share is None and (test := _labeled_test(load, train)) is not None:
        return train, test
    share = TEST_SHARE if test_share is None else test_share
    if test_share is None:
        _say(
            f"no split test or validation with labels: measured on {100 * share:g} % of every "
            f"class of {train.split} and fitted to the rest (--test-share {share:g})"
        )
    return train.train_test_split(share)


def _labeled_test(load: Load, train: Source) -> Source | None:
    """Return the split test or validation, the first that has labels and is none of train."""
    from effssl.data._splits import MissingSplit, names_of

    missed = []
    for name in _TESTS:
        try:
            found = load(name)
        except MissingSplit:
            missed.append(f"no split {name}")
            continue
        if found.split in names_of(train.split):
            missed.append(f"{found.split} is fitted to")
        elif found.label_column is None or max(found.labels()) < 0:
            missed.append(f"split {found.split} has no labels")
        else:
            if missed:
                _say(f"{missed[0]}: measured on {found.split}")
            return found
    return None


def _unlabeled(load: Load) -> Source:
    from effssl.data._splits import MissingSplit

    for name in _TESTS:
        try:
            found = load(name)
        except MissingSplit:
            continue
        if name != _TESTS[0]:
            _say(f"no split {_TESTS[0]}: measured on {found.split}")
        return found
    found = _named(load, "train", "--test-split")
    _say(f"no split {' or '.join(_TESTS)}: measured on {found.split}")
    return found


def _named(load: Load, split: str, flag: str) -> Source:
    """Open a split that a flag names.

    Raises:
        ValueError: If there is none of that name.
    """
    from effssl.data._splits import MissingSplit

    try:
        return load(split)
    except MissingSplit as error:
        raise MissingSplit(error.split, error.there, error.dataset, flag) from error


def _say(line: str) -> None:
    from effssl.shown import plain

    if is_main_process():
        print(plain(line), flush=True)
