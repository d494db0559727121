"""``effssl pretrain``."""

from __future__ import annotations

import dataclasses
from typing import Annotated

import tyro

from effssl.cli._model import is_main_process
from effssl.shown import plain
from effssl.training.config import PretrainConfig


@dataclasses.dataclass(frozen=True)
class Pretrain:
    """Pretrain a backbone on images without labels.

    Without --dataset it trains on 10,000 images that come with the package. For several processes
    give the same flags to examples/pretrain.py under accelerate launch or torchrun. --config
    runs/x/config.json takes the flags of an earlier run; flags given beside it win.
    """

    config: Annotated[PretrainConfig, tyro.conf.arg(name="")]

    def run(self) -> None:
        """Train, and print the model folder."""
        from effssl.training.loop import pretrain

        folder = pretrain(self.config)
        if is_main_process():
            name = plain(str(folder))
            print(f"model folder: {name}\nevaluate it:  effssl evaluate {name}")
