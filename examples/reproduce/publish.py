"""Evaluate the model of a scale and write its card and figures.

    python examples/reproduce/publish.py --scale readme
    python examples/reproduce/publish.py --scale cpu

The model of the cpu scale is small and goes into the package, effssl/pretrained, with its weights.
For the model of README.md only the card goes to model_cards. Models of other scales are for
`effssl evaluate` and `effssl push`.
"""

from __future__ import annotations

import dataclasses
import runpy
import shutil
from pathlib import Path
from typing import Literal

import tyro
from experiments import SCALES
from run import RESULTS, run_folder

import effssl
from effssl.data import load_source
from effssl.evaluation import evaluate, record
from effssl.hub._folder import add_evaluation
from effssl.hub._license import License
from effssl.hub.push import files_to_send, prepared


def main(
    scale: Literal["readme", "cpu"] = "cpu",
    runs: Path = Path("runs/reproduce"),
    seeds: tuple[int, ...] = (0, 1, 2),
) -> None:
    """Evaluate every training of a model, and publish the one with the first seed.

    Args:
        scale: readme: the model of README.md; cpu: the model of 4 views and the spectral loss.
        runs: Folder of run.py's runs.
        seeds: Two or more of the seeds that it was trained with.
    """
    (part,) = SCALES[scale]
    model = part.reference if scale == "readme" else part.run(views=4, loss="spectral")
    trainings = [dataclasses.replace(model, seed=seed) for seed in seeds]
    train, test = (
        load_source(model.dataset, split, in_chans=model.in_chans)
        for split in ("train", part.test_split)
    )
    folders = [run_folder(runs, scale, config) / "model" for config in trainings]
    evaluations = [
        evaluate(
            effssl.from_pretrained(folder),
            train,
            test,
            seeds=(config.seed,),
            preset=config.preset,
            progress=True,
        )
        for folder, config in zip(folders, trainings, strict=True)
    ]
    found = record(
        evaluations,
        dataset=model.dataset,
        train_split="train",
        test_split=part.test_split,
        of="trainings",
        class_names=train.class_names or (),
    )
    probe = {"weight": evaluations[0].probe.weight, "bias": evaluations[0].probe.bias}
    add_evaluation(folders[0], found, probe)
    name = model.name if scale == "readme" else f"{model.name}-{Path(model.dataset).name}"
    whole = scale == "cpu"
    target = (Path(effssl.__file__).parent / "pretrained" if whole else RESULTS.parent) / name
    with prepared(folders[0], f"org/{name}", License("apache-2.0")) as copy:
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir(parents=True)
        for file, content in files_to_send(copy).items():
            if whole or not file.endswith(".safetensors"):
                is_content = isinstance(content, bytes)
                (target / file).write_bytes(content if is_content else content.read_bytes())
    runpy.run_path(str(RESULTS.parent / "write_cards.py"), run_name="__main__")


if __name__ == "__main__":
    tyro.cli(main)
