"""``effssl pretrain``."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import tyro

from effssl.cli._model import check_names, is_main_process
from effssl.progress import Stage
from effssl.shown import plain
from effssl.training.config import PretrainConfig


@dataclasses.dataclass(frozen=True)
class Pretrain:
    """Pretrain a backbone on images without labels.

    Without --dataset it trains on 10,000 images that come with the package. With several GPUs:
    torchrun --standalone --nproc_per_node 8 -m effssl.cli pretrain ...
    """

    config: Annotated[PretrainConfig, tyro.conf.arg(name="")]
    file: Annotated[Path | None, tyro.conf.arg(name="config", metavar="FILE")] = None
    """config.json of an earlier run, whose flags are taken; flags given beside it win."""

    def run(self) -> None:
        """Train, and print the model folder."""
        check_names(None, self.config.dataset)
        with Stage("start"):  # to import torch takes seconds
            from effssl.training.loop import pretrain

        folder = pretrain(self.config)
        if is_main_process():
            from effssl.hub._folder import read_training

            name = plain(str(folder))
            labeled = "knn" in read_training(folder).get("history", {})
            data = "" if labeled else " --dataset path/to/labeled"
            print(f"model folder: {name}\nevaluate it:  effssl evaluate {name}{data}")
