"""Run the experiments of one scale, or resume them, and collect their results in a table.

    python examples/reproduce/run.py --scale cpu               # hours on two cores
    python examples/reproduce/run.py --scale whole             # half an hour a seed on two cores
    python examples/reproduce/run.py --scale losses            # an hour and a half on two cores
    python examples/reproduce/run.py --scale gpu               # an hour and a half of an H100
    python examples/reproduce/run.py --scale paper --dry-run   # what the paper's settings would run

The table is model_cards/results.csv: one line a run, and for each seed one for raw pixels, random
weights and the same backbone trained with all labels; peer.py adds those of lightly. A
run with a line is not run again; a killed one resumes from its last checkpoint. Several copies of
the command share the runs: give each its own cores with ``OMP_NUM_THREADS=1 taskset -c 0``, or its
own GPU with ``CUDA_VISIBLE_DEVICES=0``. The gpu scale reads the folders that
``python examples/fashion_mnist_to_parquet.py fashion-mnist`` and the same with
``fashion-mnist-moved --moved`` write; whole reads the second.
"""

from __future__ import annotations

import csv
import dataclasses
import functools
import shlex
import shutil
import subprocess
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import timm
import torch
import tyro
from experiments import Scale, Study, plan
from filelock import FileLock, Timeout
from PIL import Image
from scales import SCALES, ScaleName
from torch import nn

import effssl
from effssl import cli
from effssl.atomic import replacing
from effssl.data import Source, load_source
from effssl.evaluation import (
    extract_features,
    extract_views,
    fewshot,
    finetune,
    knn,
    lidar,
    linear_probe,
    spectrum,
)
from effssl.evaluation.evaluate import ENCODERS, random_twin
from effssl.evaluation.knn import K
from effssl.hub._folder import read_training
from effssl.timm_backbone import BACKBONE_ARGS

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "model_cards" / "results.csv"
VIEWS = 10
"""Views of every test image, for LiDAR."""
SHOTS = (1, 10)
"""Labels a class of the few-shot accuracies, by logistic regression."""
KEY = ("scale", "dataset", "encoder", "model", "seed", "command")
_ORDER = (*ENCODERS, "supervised", "lightly")  # encoders of a data set in the table
COLUMNS = [
    "scale",
    "dataset",
    "encoder",
    "model",
    "weight",
    "form",
    "images",
    "epochs",
    "steps",
    "views_seen",
    "seed",
    "linear",
    *(f"{shots}-shot" for shots in SHOTS),
    "k-NN 1",
    "k-NN 5",
    "k-NN 20",
    "k-NN 200",
    "alpha",
    "rankme",
    "lidar",
    "minutes",
    "device",
    "torch",
    "timm",
    "effssl",
    "commit",
    "command",
]


def read_results(file: Path) -> list[dict[str, str]]:
    """Return the lines of the table; none if there is no table yet."""
    if not file.is_file():
        return []
    with open(file, newline="") as lines:
        return list(csv.DictReader(lines))


def add_results(rows: list[dict], file: Path) -> None:
    """Put lines in the table, in place of those of the same run."""
    with FileLock(f"{file}.lock"):
        table = {_key(row): row for row in [*read_results(file), *rows]}
        # in the same order, whichever copy of the command came first
        order = sorted(table, key=lambda key: (*key[:2], _ORDER.index(key[2]), *key[3:]))
        with replacing(file) as lines:
            writer = csv.DictWriter(lines, COLUMNS, restval="", lineterminator="\n")
            writer.writeheader()
            writer.writerows(table[key] for key in order)


def is_done(file: Path, run: dict) -> bool:
    """Tell whether the table has a line with a run's values of `KEY`."""
    return _key(run) in {_key(row) for row in read_results(file)}


def make_row(
    run: dict, make: Callable[[], dict], file: Path, lock: Path, *, wait: bool = False
) -> None:
    """Add the line of a run to the table, unless it is there or another copy is making it.

    Args:
        run: The run's values of `KEY`, and others that are known before it.
        make: Function that returns the rest of the line. If it raises FloatingPointError the line
            is left out.
        file: The table.
        lock: Lock file of the run.
        wait: Wait for another copy that is making the line.
    """
    lock.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(lock, timeout=-1 if wait else 0):
            if not is_done(file, run):
                add_results([make() | run], file)
    except Timeout:
        print(f"another copy of this command is running {run['command']}", flush=True)
    except FloatingPointError as error:
        print(f"left out: {error}", flush=True)


def _key(row: dict) -> tuple[str, ...]:
    return tuple(str(row[name]) for name in KEY)


def key_of(scale: str, config: effssl.PretrainConfig, encoder: str = "pretrained") -> dict:
    """Return the values of `KEY` of a run, or of another encoder of its images."""
    is_run = encoder == "pretrained"
    return {
        "scale": scale,
        "dataset": config.dataset,
        "encoder": encoder,
        "model": config.name if is_run else config.backbone,
        "seed": config.seed,
        "command": command(config) if is_run else "",
    }


def command(config: effssl.PretrainConfig) -> str:
    """Return the command line that makes the run again."""
    return shlex.join(
        ["effssl", "pretrain", *config.flags(without=("output", "resume", "overwrite"))]
    )


def run_folder(runs: Path, scale: str, config: effssl.PretrainConfig) -> Path:
    """Return the run folder of a configuration."""
    digest = zlib.crc32(command(config).encode())
    return runs / scale / f"{config.name}-seed{config.seed}-{digest:08x}"


def device_of(config: effssl.PretrainConfig) -> torch.device:
    """Return the device of a run."""
    return torch.device("cuda" if torch.cuda.is_available() and not config.cpu else "cpu")


def labeled(config: effssl.PretrainConfig, split: str) -> Source:
    """Return a split of the images of a run, with their labels."""
    options = {"in_chans": config.in_chans, "image_column": config.image_column}
    return load_source(config.dataset, split, **options)


def measure(
    encoder: nn.Module,
    config: effssl.PretrainConfig,
    part: Scale,
    transform: Callable[[Image.Image], torch.Tensor],
) -> dict:
    """Return accuracy and spectrum of an encoder, with all training labels, tested once."""
    device = device_of(config)
    encoder = encoder.to(device)
    data = []
    for split in (part.train_split, part.test_split):
        source = labeled(config, split)
        data.append(extract_features(encoder, source, transform=transform).to(device))
        data.append(torch.tensor(source.labels(), device=device))
    votes = knn(*data, k=[k for k in K if k <= len(data[0])])
    of_test = spectrum(data[2]).record()
    few = fewshot(*data, shots=[n for n in SHOTS if n <= data[1].bincount().min()])
    return {
        "linear": round(linear_probe(*data, seed=config.seed).accuracy.top1, 2),
        **{f"{n}-shot": round(found.linear.top1, 2) for n, found in few.items()},
        **{f"k-NN {k}": round(accuracy.top1, 2) for k, accuracy in votes.items()},
        "alpha": of_test["alpha"],
        "rankme": of_test["rankme"],
    }


def lidar_of(model: nn.Module, config: effssl.PretrainConfig, part: Scale) -> float:
    """Return LiDAR of views of the test images, drawn as in training."""
    views = effssl.MultiView(config.view.over(config.preset), views=VIEWS, size=config.img_size)
    return round(lidar(extract_views(model, labeled(config, part.test_split), views)), 2)


def software() -> dict[str, str]:
    """Return versions and the commit, with a + if the package was changed since."""
    options = {"cwd": Path(effssl.__file__).parent, "capture_output": True, "text": True}
    try:
        commit = subprocess.run(["git", "log", "-1", "--format=%h", "--", "."], **options).stdout
        changed = subprocess.run(["git", "status", "--porcelain", "."], **options).stdout
    except FileNotFoundError:  # no git
        commit = changed = ""
    return {
        "torch": torch.__version__,
        "timm": timm.__version__,
        "effssl": effssl.__version__,
        "commit": commit.strip() + "+" * bool(changed),
    }


def pretrain(config: effssl.PretrainConfig, part: Scale) -> dict:
    """Pretrain, or resume, and measure the features after the last epoch."""
    folder, checkpoints = config.run_folder / "model", config.run_folder / "checkpoints"
    if checkpoints.is_dir() or not folder.is_dir():  # otherwise it was measured before
        effssl.pretrain(config)
    model, training = effssl.from_pretrained(folder), read_training(folder)
    measured = measure(model, config, part, effssl.create_transform(model))
    measured["lidar"] = lidar_of(model, config, part)
    shutil.rmtree(checkpoints, ignore_errors=True)
    return measured | {
        "weight": config.loss_weight or "auto",
        "form": config.multiview,
        "images": training["images"],
        "epochs": training["epoch"],
        "steps": training["step"],
        "views_seen": training["views_seen"],
        "minutes": training["minutes"],
        "device": training["hardware"],
    }


def untrained(config: effssl.PretrainConfig) -> effssl.SSLModel:
    """Return the model of a run before its first step."""
    args = {name: getattr(config, name) for name in BACKBONE_ARGS}
    model = effssl.create_model(config.backbone, **args)
    stats = config.view.over(config.preset).channel_stats
    model.set_input(config.img_size, *stats(config.in_chans))
    return model


def baselines(config: effssl.PretrainConfig, part: Scale) -> dict[str, dict]:
    """Measure raw pixels, the backbone before its first step, and trained with all labels."""
    model = untrained(config)
    pixels = effssl.create_transform(model, img_size=min(32, config.img_size))
    random, transform = random_twin(model, config.seed).eval(), effssl.create_transform(model)
    found = {
        "raw pixels": measure(nn.Flatten(), config, part, pixels),
        "random weights": measure(random, config, part, transform),
    }
    if part.supervised_epochs:
        found["supervised"] = supervised(random, config, part)
    return found


def supervised(net: nn.Module, config: effssl.PretrainConfig, part: Scale) -> dict:
    """Train a copy of a backbone with all labels, as `finetune` does, and return its accuracy."""
    splits = (labeled(config, split) for split in (part.train_split, part.test_split))
    epochs, started = part.supervised_epochs, time.perf_counter()
    accuracy = finetune(net, *splits, epochs=epochs, seed=config.seed, precision="fp32")
    minutes = round((time.perf_counter() - started) / 60, 2)
    return {"linear": round(accuracy.top1, 2), "epochs": epochs, "minutes": minutes}


def main(
    scale: ScaleName = "cpu",
    runs: Path = Path("runs/reproduce"),
    results: Path = RESULTS,
    dataset: tuple[str, ...] = (),
    study: tuple[Study, ...] = get_args(Study),
    seeds: tuple[int, ...] = (0, 1, 2),
    minutes: float | None = None,
    dry_run: bool = False,
) -> None:
    """Run the experiments that have no line in the table yet.

    Args:
        scale: cpu, whole (the moved images of all of Fashion-MNIST), losses (every loss at two
            widths), gpu, paper, or choice, whose runs on held-out images chose the settings of
            README.md's first command, and learning rate and weight of two widths.
        runs: Parent of the run folders; their models are kept.
        results: Path of the table.
        dataset: Data sets of the scale to run; all if none is given.
        study: Studies to run; experiments.py says what each asks.
        seeds: Seeds of weights, order and views.
        minutes: Time after which no further run starts.
        dry_run: Print the commands with their steps and views, and run nothing.
    """
    started, of = time.perf_counter(), software()
    known = [part.reference.dataset for part in SCALES[scale]]
    if unknown := set(dataset) - set(known):
        raise ValueError(
            f"--dataset {' '.join(sorted(unknown))}: the scale {scale} has {' and '.join(known)}"
        )
    parts = [part for part in SCALES[scale] if part.reference.dataset in (dataset or known)]
    todo = [(part, config) for part in parts for config in plan(part, study, seeds)]
    for part in () if dry_run else parts:
        for seed in seeds:
            config = dataclasses.replace(part.reference, seed=seed)
            with FileLock(f"{results}.baselines.lock"):
                if not is_done(results, key_of(scale, config, "raw pixels")):
                    found = baselines(config, part).items()
                    rows = [key_of(scale, config, name) | of | row for name, row in found]
                    add_results(rows, results)
    for i, (part, config) in enumerate(todo):
        steps = config.max_steps or config.epochs * (part.images // config.batch_size)
        views = steps * config.batch_size * config.views
        size = f"{steps:,} steps, {views:,} views"
        print(f"{i + 1}/{len(todo)}, {size}: {command(config)}", flush=True)
        if dry_run:
            continue
        if minutes is not None and time.perf_counter() - started > 60 * minutes:
            print(f"{minutes:g} minutes are over; the same command resumes here")
            return
        output = run_folder(runs, scale, config)
        config = dataclasses.replace(config, output=str(output), resume=True)
        run, lock = key_of(scale, config) | of, Path(f"{config.run_folder}.lock")
        make_row(run, functools.partial(pretrain, config, part), results, lock)


if __name__ == "__main__":
    cli.run(lambda: tyro.cli(main))
