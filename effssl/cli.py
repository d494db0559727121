"""Pretrain an image backbone without labels, and measure its features."""

from __future__ import annotations

import argparse
import dataclasses
import logging
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Literal

import tyro

from effssl.training.config import Preset, PretrainConfig

Precision = Literal["auto", "fp32", "bf16", "fp16"]  # of evaluation, whose module imports torch


def pretrain(config: Annotated[PretrainConfig, tyro.conf.arg(name="")]) -> None:
    """Pretrain a backbone on images without labels.

    Without --dataset it trains on 10,000 images that come with the package. For several processes
    give the same flags to examples/pretrain.py under accelerate launch or torchrun. With --config
    runs/x/config.json the flags are those of an earlier run, but for the ones given beside it.
    """
    from effssl.training.loop import pretrain

    folder = pretrain(config)
    if _is_main_process():
        print(f"model folder: {folder}\nevaluate it:  effssl evaluate {folder}")


def evaluate(
    model: Annotated[str, tyro.conf.Positional],
    dataset: str | None = None,
    protocol: tuple[Literal["knn", "linear", "finetune", "spectrum"], ...] = (
        "knn",
        "linear",
        "spectrum",
    ),
    train_split: str = "train",
    test_split: str = "test",
    image_column: str | None = None,
    label_column: str | None = None,
    seeds: tuple[int, ...] = (0, 1, 2),
    k: tuple[int, ...] | None = None,
    temperature: float = 0.07,
    labels: tuple[float, ...] = (1.0, 0.1, 0.01),
    epochs: int | None = None,
    lr: float = 1e-3,
    layer_decay: float | None = None,
    precision: Precision = "auto",
    per_class: bool = False,
    json: Path | None = None,
    workers: int | None = None,
    revision: str | None = None,
    cpu: bool = False,
) -> None:
    """Measure features, with labels beside raw pixels and random weights by the same protocols.

    knn and linear are of frozen features; finetune trains all weights, for minutes, and takes the
    first seed only; spectrum needs no labels: with it alone, --test-split names the images. Of a
    folder here the result is noted in its training.json, from where it comes into the card and the
    report. With several GPUs: torchrun --nproc_per_node 8 -m effssl.cli evaluate ...

    Args:
        model: Model folder, run folder, repository owner/name on the Hub, or name in the package.
        dataset: Labelled images, as for pretrain; what the model was trained on if None.
        protocol: One or more.
        train_split: Split that is voted with and fitted to.
        test_split: Split that everything is measured on.
        image_column: Column with the images; found by its type if None.
        label_column: Column with integer classes; found by type and name if None.
        seeds: Of the random weights, the held-out part of train, and fine-tuning.
        k: Neighbours that vote; of 1, 5, 20, 200 those that train has if None.
        temperature: T of the vote's weights exp(cosine / T).
        labels: Shares of the labels of train, for finetune.
        epochs: Of finetune; 3 / sqrt(share) if None.
        lr: Of finetune, after warm-up.
        layer_decay: Of finetune: factor of the learning rate from each layer to the one below.
        precision: Of the backbone; auto: bf16 by autocast on a GPU that has it, else fp32.
        per_class: Print the accuracy of every class too.
        json: File to write all numbers to, with accuracy by class and confusion matrices.
        workers: Processes that decode images; if None one for each core up to 8, none on a CPU.
        revision: Branch, tag or commit of the repository.
        cpu: Compute on the CPU even where there is a GPU.
    """
    from effssl.data import load_source
    from effssl.data.sources import is_public
    from effssl.evaluation import evaluate, record
    from effssl.evaluation._tables import accuracy_table, class_table, details, spectrum_table
    from effssl.hub._folder import add_evaluation, write_json

    if json is not None and not json.parent.is_dir():
        raise ValueError(f"no folder {json.parent} for the file {json.name}")
    folder, encoder, trained = _load(model, revision, cpu)
    if dataset is None:
        dataset, image_column = _images_of(model, trained), image_column or trained["image_column"]
    channels = encoder.backbone.pretrained_cfg["input_size"][0]
    options = {"in_chans": channels, "image_column": image_column, "label_column": label_column}
    unlabelled = protocol == ("spectrum",)
    train = None if unlabelled else load_source(dataset, train_split, **options)
    test = load_source(dataset, test_split, **options)
    found = evaluate(
        *(encoder, train, test),
        protocols=protocol,
        seeds=seeds,
        k=k,
        temperature=temperature,
        shares=labels,
        epochs=epochs,
        lr=lr,
        layer_decay=layer_decay,
        preset=trained.get("preset", "imagenet"),
        precision=precision,
        workers=workers,
        progress=True,
    )
    if not _is_main_process():
        return
    noted = record(
        [found],
        dataset=dataset if is_public(dataset) else None,
        train_split=None if unlabelled else train_split,
        test_split=test_split,
    )
    print(f"\n{len(test.dataset):,} images of {dataset}, {test_split}")
    if found.accuracy:
        print(accuracy_table(noted))
    if found.spectrum:
        print(spectrum_table(noted))
    if per_class and found.accuracy:
        print(class_table(found, test))
    if json is not None:
        write_json(noted | details(found, test), json)
    if model.startswith("local-dir:") or Path(model).is_dir():  # no download is written to
        probe = found.probe and {"weight": found.probe.weight, "bias": found.probe.bias}
        add_evaluation(folder, noted, probe)
    print(
        f"\nimport effssl\n"
        f"model = effssl.from_pretrained({_quoted(model, revision)})\n"
        f"transform = effssl.create_transform(model)\n"
        f"features = model(transform(image)[None])  # (1, {encoder.num_features})"
    )


def features(
    model: Annotated[str, tyro.conf.Positional],
    output: Path,
    dataset: str | None = None,
    split: str = "train",
    image_column: str | None = None,
    label_column: str | None = None,
    augmentations: int = 0,
    preset: Preset | None = None,
    project: bool = False,
    batch_size: int = 256,
    precision: Precision = "fp32",
    workers: int | None = None,
    seed: int = 0,
    revision: str | None = None,
    cpu: bool = False,
) -> None:
    """Write the features of every image of a data set, in order, to a file.

    A killed extraction goes on where it was when the same command is given again. With several
    GPUs: torchrun --nproc_per_node 8 -m effssl.cli features ...

    Args:
        model: Model folder, run folder, repository owner/name on the Hub, or name in the package.
        output: x.safetensors or x.parquet, with features and labels; or a folder for
            datasets.load_from_disk, with the images too.
        dataset: Images, as for pretrain; what the model was trained on if None.
        split: Split of the data set.
        image_column: Column with the images; found by its type if None.
        label_column: Column with integer classes; found by type and name if None.
        augmentations: Average over so many random views of each image; 0: the image itself.
        preset: What the views look like; that of the pretraining if None.
        project: Projections instead of features.
        batch_size: Images a forward pass.
        precision: fp32 gives the features of timm to the bit; bf16 and fp16, by autocast, are
            several times faster on a GPU; auto is bf16 there if the GPU has it, else fp32.
        workers: Processes that decode images; if None one for each core up to 8, none on a CPU.
        seed: Of the views.
        revision: Branch, tag or commit of the repository.
        cpu: Compute on the CPU even where there is a GPU.
    """
    from effssl.data import load_source
    from effssl.evaluation import extract_features
    from effssl.views import MultiView

    _, encoder, trained = _load(model, revision, cpu)
    if dataset is None:
        dataset, image_column = _images_of(model, trained), image_column or trained["image_column"]
    channels, size = encoder.backbone.pretrained_cfg["input_size"][:2]
    options = {"in_chans": channels, "image_column": image_column, "label_column": label_column}
    views = None
    if augmentations:
        preset = preset or trained.get("preset", "imagenet")
        views = MultiView(preset, views=augmentations, size=size)
    extract_features(
        encoder,
        load_source(dataset, split, **options),
        output=output,
        views=views,
        project=project,
        batch_size=batch_size,
        precision=precision,
        workers=workers,
        seed=seed,
        progress=True,
    )
    if _is_main_process():
        print(output)


def report(
    run: Annotated[Path, tyro.conf.Positional],
    output: Path | None = None,
    dataset: str | None = None,
    images: int = 2000,
) -> None:
    """Write a page about a run, finished or not, to open in a browser: report.html in its folder.

    Configuration, losses, speed, k-NN and spectra over time, images with their views, nearest
    neighbours, a map of the features, evaluations, warnings. The file needs no network.

    Args:
        run: Run folder.
        output: File to write; report.html in the run folder if None.
        dataset: Where the images are now; where the run had them if None.
        images: Images that are embedded for neighbours and map.
    """
    from effssl.report import write_report

    print(write_report(run, output, dataset=dataset, images=images))


def _load(model: str, revision: str | None, cpu: bool):
    """A model folder, its model on the device to compute on, and the configuration of its run."""
    from effssl.data.sources import is_public
    from effssl.distributed import join
    from effssl.hub._folder import read_training
    from effssl.hub.pull import find_model, from_pretrained

    folder = find_model(model, revision)
    encoder = from_pretrained(folder).to(join(cpu=cpu))
    # the run knows where images of this machine are, what is published does not
    run = folder.parent / "config.json"
    if folder.name == "model" and run.is_file():
        return folder, encoder, dataclasses.asdict(PretrainConfig.load(run))
    trained = dict.fromkeys(("dataset", "image_column")) | read_training(folder).get("config", {})
    # it may come from anybody, and is not to name files here
    if not isinstance(trained["dataset"], str) or not is_public(trained["dataset"]):
        trained["dataset"] = None
    return folder, encoder, trained


def _images_of(model: str, trained: dict) -> str:
    if trained["dataset"] is None:
        raise ValueError(f"{model} does not name public images: give --dataset")
    return trained["dataset"]


def views(
    dataset: str = "fashion-mnist-sample",
    preset: Preset = "imagenet",
    out: Path = Path("views.png"),
    views: int = 4,
    img_size: int = 224,
    in_chans: int = 3,
    images: int = 8,
    split: str = "train",
    image_column: str | None = None,
    seed: int = 0,
) -> None:
    """Draw a few images and their views, to see what a preset does to them before training.

    Args:
        dataset: What to draw from, as for pretrain.
        preset: What views look like, as for pretrain.
        out: Picture to write; its name's ending says the format.
        views: Views per image.
        img_size: Side of a view in pixels.
        in_chans: Channels of the images.
        images: Images to draw, spread evenly over the data set.
        split: Split of the data set.
        image_column: Column with the images; found by its type if None.
        seed: Of the views.
    """
    import torch

    from effssl.data import BrokenImage, load_source
    from effssl.data._loader import DecodedImages, decode_size
    from effssl.seeding import seeded_generator
    from effssl.views import MultiView
    from effssl.views._picture import draw_views

    multi_view = MultiView(preset, views=views, size=img_size)
    if images < 1:
        raise ValueError(f"images must be 1 or more; got {images}")
    source = load_source(dataset, split, in_chans=in_chans, image_column=image_column)
    rows = range(0, source.num_images, max(1, source.num_images // images))[:images]
    decoded = DecodedImages(source, decode_size(img_size)).__getitems__(list(rows))
    for broken in (image for image in decoded if isinstance(image, BrokenImage)):
        print(f"skipped a broken image: {broken}", file=sys.stderr)
    if all(isinstance(image, BrokenImage) for image in decoded):
        raise ValueError(f"none of the {len(decoded)} images looked at can be read")
    shown = [image for image in decoded if isinstance(image, torch.Tensor)]
    draw_views(shown, multi_view, seeded_generator(seed, "views")).save(out)
    print(f"{len(shown)} images with {views} views each: {out}")


def push(
    model: Annotated[Path, tyro.conf.Positional],
    repo_id: Annotated[str, tyro.conf.Positional],
    private: bool = False,
    revision: str | None = None,
    message: str | None = None,
    license: str | None = None,
    create_pr: bool = False,
    dry_run: bool = False,
) -> None:
    """Publish a model on the Hub, with a card made from what its folder knows, in one commit.

    Look at the card before, with --dry-run, and write in it above and below what is generated; that
    stays. Log in with `hf auth login`, or set HF_TOKEN. Pushing the same again changes nothing.

    Args:
        model: Model folder, or the run folder that holds it.
        repo_id: owner/name; made if it does not exist.
        private: Make it private, if it is made.
        revision: Branch to push to; made from main if it does not exist.
        message: Of the commit.
        license: Of the weights, by its identifier on the Hub, such as apache-2.0.
        create_pr: Open a pull request instead of changing the branch.
        dry_run: Check everything, write the card, and show what would be sent; no network.
    """
    from effssl.hub.pull import find_model
    from effssl.hub.push import prepare, push_to_hub

    folder = find_model(f"local-dir:{model}")
    if dry_run:
        for file in prepare(folder, repo_id, license):
            print(f"{file.stat().st_size:12,} bytes  {file}")
        print(f"nothing was sent to {repo_id}; read {folder / 'README.md'} before you do")
        return
    address = push_to_hub(
        folder,
        repo_id,
        private=private,
        revision=revision,
        commit_message=message,
        create_pr=create_pr,
        license=license,
    )
    print(address)
    if not create_pr:
        print(f"\nimport effssl\nmodel = effssl.from_pretrained({_quoted(repo_id, revision)})")


def _quoted(name: str, revision: str | None) -> str:
    return f'"{name}"' + (f', revision="{revision}"' if revision else "")


def list_(
    pattern: Annotated[str, tyro.conf.Positional] = "*",
    author: str | None = None,
) -> None:
    """List the models in the package and on the Hub, or without a connection those in the cache.

    Args:
        pattern: Of the id, or of what follows its owner, such as '*-bt-*'.
        author: User or organisation that owns them.
    """
    from effssl.hub.pull import list_pretrained

    ids = list_pretrained(pattern, author=author)
    for repo_id in ids:
        print(repo_id)
    if not ids:
        print(f"no model of effssl matches {pattern!r}", file=sys.stderr)


def recommend(
    images: int,
    image_size: int,
    budget_minutes: float,
    in_chans: int = 3,
    cpu: bool = False,
) -> None:
    """Say what to pretrain with, for so many images and minutes, and why.

    Prints the command. A few steps on noise measure how fast this machine trains.

    Args:
        images: Unlabelled images at hand.
        image_size: Their side in pixels.
        budget_minutes: Of training on this machine.
        in_chans: Channels of the images.
        cpu: Train on the CPU even where there is a GPU.
    """
    from effssl.recommendation import recommend

    options = {"in_chans": in_chans, "cpu": cpu}
    print(recommend(images=images, image_size=image_size, budget_minutes=budget_minutes, **options))


def run(command: Callable[[], object]) -> None:
    """Run a command with its log on stderr; bad input becomes one line there and exit code 2."""
    logging.basicConfig(format="%(message)s")
    logging.getLogger("effssl").setLevel(logging.INFO if _is_main_process() else logging.ERROR)
    try:
        command()
    except (ValueError, OSError, FloatingPointError) as error:
        # one line a machine, whose data may differ; each process may know of another lost one
        if os.environ.get("LOCAL_RANK", "0") == "0" or isinstance(error, ConnectionError):
            print(f"effssl: error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)
    except RuntimeError as error:
        from effssl.distributed import is_lost_connection

        if not is_lost_connection(error):
            raise
        print("effssl: error: another process ended, and says above why", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        if _is_main_process():
            print("effssl: interrupted; a run goes on with --resume", file=sys.stderr)
        sys.exit(130)


def expand_config(args: Sequence[str]) -> list[str]:
    """Put the flags of a configuration file in the place of ``--config FILE``, before all others.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no configuration of this version.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--config")
    try:
        known, others = parser.parse_known_args(args)
    except argparse.ArgumentError as error:
        raise ValueError(f"{error}: give the config.json of a run") from error
    if known.config is None:
        return list(args)
    return [*PretrainConfig.load(known.config).flags(), *others]


def _is_main_process() -> bool:
    return os.environ.get("RANK", "0") == "0"


def main(args: Sequence[str] | None = None) -> None:
    """Entry point of the ``effssl`` command."""
    commands = {
        "pretrain": pretrain,
        "evaluate": evaluate,
        "features": features,
        "report": report,
        "views": views,
        "push": push,
        "list": list_,
        "recommend": recommend,
    }
    args = list(sys.argv[1:] if args is None else args)

    def command() -> None:
        if args[:1] == ["pretrain"]:
            args[1:] = expand_config(args[1:])
        tyro.extras.subcommand_cli_from_dict(
            commands,
            prog="effssl",
            description=__doc__,
            args=args,
            config=(tyro.conf.FlagCreatePairsOff,),
        )

    run(command)


if __name__ == "__main__":
    main()
