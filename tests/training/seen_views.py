"""Record the views that each process of a run trains on.

    torchrun --standalone --nproc_per_node 3 tests/training/seen_views.py DATA FOLDER

Trains twice, from maps and from a stream, and writes the views of every step to
FOLDER/{map,stream}_{rank}.safetensors.
"""

import os
import sys
from pathlib import Path

from accelerate import Accelerator
from safetensors.torch import save_file

from effssl import MultiView, PretrainConfig, pretrain

CONFIG = {
    "backbone": "test_resnet",
    "img_size": 32,
    "preset": "cifar",
    "projector_dim": 16,
    "views": 2,
    "batch_size": 22,
    "epochs": 2,
    "precision": "fp32",
    "cpu": True,
}


def main(data: str, folder: Path) -> None:
    apply = MultiView.apply
    # which destroys the process group that the second training needs
    end_training, Accelerator.end_training = Accelerator.end_training, lambda self: None
    for name in ("map", "stream"):
        seen = []

        def record(*arguments, seen=seen):
            seen.append(apply(*arguments))
            return seen[-1]

        MultiView.apply = record
        output = str(folder / name)
        pretrain(PretrainConfig(dataset=data, streaming=name == "stream", output=output, **CONFIG))
        steps = {str(step): views.contiguous() for step, views in enumerate(seen)}
        save_file(steps, folder / f"{name}_{os.environ.get('RANK', '0')}.safetensors")
    end_training(Accelerator())


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
