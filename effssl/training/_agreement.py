"""Agreement of the processes of a run: on their configuration, on their images, and on errors."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from effssl.data._fingerprint import Fingerprint
from effssl.distributed import gather_objects, world_size
from effssl.hints import option
from effssl.shown import shown
from effssl.training._fields import names_where
from effssl.training.config import PretrainConfig

_MOST_NAMED = 8  # ranks in a message


@contextmanager
def together() -> Iterator[None]:
    """Let a block fail in every process if it fails in one; every process must enter it.

    Raises:
        ValueError: In the processes where the block did not fail; the message names one that did.
    """
    refusal = None
    try:
        yield
    except ConnectionError:  # there is nobody to tell
        raise
    except (ValueError, TypeError, OSError) as error:
        refusal = error
    failed = gather_objects(None if refusal is None else str(refusal))
    if refusal is not None:
        raise refusal
    for rank, reason in enumerate(failed):
        if reason is not None:
            raise ValueError(f"process {rank} of {world_size()}: {reason}")


def check_same_flags(config: PretrainConfig) -> None:
    """Check that all processes have the same configuration, but for fields that may differ.

    Raises:
        ValueError: In every process, if they have not; the message names fields, values and ranks.
    """
    free = names_where(config, "may_differ", True)
    mine = {name: value for name, value in config.values().items() if name not in free}
    every = gather_objects(mine)
    different = [name for name in mine if any(one.get(name) != mine[name] for one in every)]
    if different:
        named = "; ".join(
            f"{option(name)} {_by_rank([x.get(name) for x in every])}" for name in different
        )
        raise ValueError(
            f"the {world_size()} processes of this run have different flags: {named}: give the "
            "same to all"
        )


def check_same_images(config: PretrainConfig, images: Fingerprint) -> None:
    """Check that all processes have the same images.

    Raises:
        ValueError: In every process, if they have not; the message says how they differ and names
            data sets and ranks.
    """
    every = gather_objects((config.values()["dataset"], images))
    names, found = {name for name, _ in every}, [one for _, one in every]
    if any(found[0].differs(one) for one in found):
        reason = "in number" if len({one.images for one in found}) > 1 else "in names or sizes"
    elif images.names is None and len(names) > 1:
        reason = "for streams are told apart by their names"
    else:
        return
    raise ValueError(
        f"the {world_size()} processes of this run have different images, {reason}: "
        f"{option('dataset')} {_by_rank([f'{name} ({_about(one)})' for name, one in every])}: "
        "give the same to all"
    )


def _about(images: Fingerprint) -> str:
    """Return in words what tells images apart."""
    digest = images.content or images.names
    return f"{images.images:,} images" + ("" if digest is None else f", digest {digest[:8]}")


def _by_rank(values: list[object]) -> str:
    """Return in words which ranks have which value."""
    ranks: dict[str, list[int]] = {}
    for rank, value in enumerate(values):
        ranks.setdefault(shown(value), []).append(rank)
    return ", ".join(f"is {value} on {_process(these)}" for value, these in ranks.items())


def _process(ranks: list[int]) -> str:
    named = ", ".join(map(str, ranks[:_MOST_NAMED]))
    more = "" if len(ranks) <= _MOST_NAMED else f" and {len(ranks) - _MOST_NAMED} more"
    return f"process{'es' if len(ranks) > 1 else ''} {named}{more}"
