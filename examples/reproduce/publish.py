"""Evaluate a model of results.csv and write its card and figures.

    python examples/reproduce/publish.py --model first
    python examples/reproduce/publish.py --model packaged

Of the model of README.md's first command only the card goes to model_cards. The packaged model is
smaller and goes into the package, effssl/pretrained, with its weights. Other models are for
`effssl evaluate` and `effssl push`.
"""

from __future__ import annotations

import dataclasses
import runpy
import shutil
from pathlib import Path
from typing import Literal

import tyro
from run import RESULTS, run_folder
from scales import CPU, FIRST, MOVED_RESNET

import effssl
from effssl.data import load_source
from effssl.evaluation import evaluate, record
from effssl.hub._folder import add_evaluation
from effssl.hub._license import License
from effssl.hub.push import files_to_send, prepared

MODELS = {"first": (MOVED_RESNET, FIRST), "packaged": (CPU, CPU.run(views=4, loss="spectral"))}
"""Data and configuration of each model."""


def main(
    model: Literal["first", "packaged"] = "first",
    runs: Path = Path("runs/reproduce"),
    seeds: tuple[int, ...] = (0, 1, 2),
) -> None:
    """Evaluate every training of a model, and publish the one with the first seed.

    Args:
        model: The first command's, or the one in the package.
        runs: Folder of run.py's runs.
        seeds: Two or more of the seeds that it was trained with.
    """
    part, made = MODELS[model]
    trainings = [dataclasses.replace(made, seed=seed) for seed in seeds]
    train, test = (
        load_source(made.dataset, split, in_chans=made.in_chans)
        for split in (part.train_split, part.test_split)
    )
    folders = [run_folder(runs, "cpu", config) / "model" for config in trainings]
    evaluations = [
        evaluate(
            effssl.from_pretrained(folder),
            train,
            test,
            protocols=("knn", "linear", "fewshot", "spectrum"),
            seeds=(config.seed,),
            preset=config.preset,
            progress=True,
        )
        for folder, config in zip(folders, trainings, strict=True)
    ]
    found = record(
        evaluations,
        dataset=made.dataset,
        train_split=part.train_split,
        test_split=part.test_split,
        of="trainings",
        class_names=train.class_names or (),
    )
    probe = {"weight": evaluations[0].probe.weight, "bias": evaluations[0].probe.bias}
    add_evaluation(folders[0], found, probe)
    name, whole = f"{made.name}-{Path(made.dataset).name}", model == "packaged"
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
