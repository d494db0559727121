"""``effssl recommend``."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Recommend:
    """Say what to pretrain with, for so many images and minutes, and why.

    Prints the command. A few steps on noise measure how fast this machine trains.
    """

    images: int
    """Number of unlabeled images."""
    image_size: int
    """Side of the images in pixels."""
    budget_minutes: float
    """Minutes of training on this machine."""
    in_chans: int = 3
    """Channels of the images."""
    cpu: bool = False
    """Train on the CPU even where there is a GPU."""

    def run(self) -> None:
        """Print the command and the reasons."""
        from effssl.recommendation import recommend

        print(recommend(**dataclasses.asdict(self)))
