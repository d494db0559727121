"""Episodes of few-shot classification: a few labeled images of every class, drawn many times."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from effssl.hints import option
from effssl.seeding import seeded_generator
from effssl.shown import plain

logger = logging.getLogger(__name__)

SHOTS = (1, 5, 10, 20)
EPISODES = 100
LEAST_EPISODES = 2  # one has no spread


def draw_episodes(labels: Tensor, most: int, episodes: int, seed: int) -> Tensor:
    """Draw images of every class, without repetition within an episode.

    The first n of them are the episode of n shots, so that more shots are the same images and
    some more.

    Args:
        labels: Classes of train, (N,), each with ``most`` images or more.
        most: Number of images a class.
        episodes: Number of episodes.
        seed: Seed of the draws, which depend on it and the labels alone.

    Returns:
        Rows of train, (episodes, classes, most), on the CPU.
    """
    labels = labels.cpu()
    generator = seeded_generator(seed, "episodes")
    of_class = [(labels == value).nonzero()[:, 0] for value in labels.unique()]
    return torch.stack(
        [
            torch.stack(
                [rows[torch.randperm(len(rows), generator=generator)[:most]] for rows in of_class]
            )
            for _ in range(episodes)
        ]
    )


def resolve_shots(
    shots: Sequence[int] | None, episodes: int, labels: Tensor, names: Mapping[int, str]
) -> list[int]:
    """Return the numbers of shots: as given, or those of `SHOTS` that all classes have images for.

    Args:
        shots: Numbers of labeled images a class, or None.
        episodes: Number of episodes.
        labels: Classes of train, (N,).
        names: Names of classes, for messages.

    Raises:
        ValueError: As `check_episodes`.
    """
    if shots is None:
        classes, counts = labels.unique(return_counts=True)
        least = int(counts.min())
        shots = [count for count in SHOTS if count <= least]
        if len(shots) < len(SHOTS):
            name = names[int(classes[counts.argmin()])]
            logger.warning(
                "few labels: more than %d a class are left out, since class %r of train has %d "
                "labeled images",
                shots[-1],
                plain(name, 80),
                least,
            )
    check_episodes(shots, episodes, labels, names)
    return list(dict.fromkeys(shots))


def check_episodes(
    shots: Sequence[int], episodes: int, labels: Tensor, names: Mapping[int, str] | None = None
) -> None:
    """Raise ValueError if a class has fewer images than shots, or there are too few episodes.

    Args:
        shots: Numbers of labeled images a class.
        episodes: Number of episodes.
        labels: Classes of train, (N,).
        names: Names of classes, for the error.
    """
    classes, counts = labels.unique(return_counts=True)
    least = int(counts.min())
    wrong = [count for count in shots if not 1 <= count <= least]
    if wrong or not shots:
        smallest = int(classes[counts.argmin()])
        name = plain((names or {}).get(smallest, str(smallest)), 80)
        raise ValueError(
            f"{option('shots')} must be 1 to {least}, the number of labeled images of class "
            f"{name!r} of train, which has the fewest, got {', '.join(map(str, wrong)) or 'none'}: "
            "take fewer shots, or label more images"
        )
    if episodes < LEAST_EPISODES:
        raise ValueError(
            f"{option('episodes')} must be {LEAST_EPISODES} or more, since one has no interval, "
            f"got {episodes}"
        )
