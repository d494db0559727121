"""Pretrain an image backbone without labels, and measure its features."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Literal

import tyro

from effssl.training.config import Preset, PretrainConfig


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
    folder: Annotated[Path, tyro.conf.Positional],
    dataset: str | None = None,
    protocol: tuple[Literal["knn", "linear"], ...] = ("knn", "linear"),
    train_split: str = "train",
    test_split: str = "test",
    image_column: str | None = None,
    label_column: str | None = None,
    seed: int = 0,
    workers: int = 0,
    cpu: bool = False,
) -> None:
    """Measure frozen features beside raw pixels and random weights, by the same protocols.

    Args:
        folder: Model folder, or the run folder that holds it.
        dataset: Labelled images, as for pretrain; what the model was trained on if None.
        protocol: knn, linear, or both.
        train_split: Split that is voted with and fitted to.
        test_split: Split that accuracy is measured on.
        image_column: Column with the images; found by its type if None.
        label_column: Column with integer classes; found by type and name if None.
        seed: Of the random weights and of the held-out part of train.
        workers: Processes that decode images.
        cpu: Compute on the CPU even where there is a GPU.
    """
    import torch

    from effssl.data import SAMPLE, load_source
    from effssl.evaluation.evaluate import PROTOCOLS, evaluate
    from effssl.hub.folder import from_pretrained, read_training

    if (folder / "model" / "config.json").is_file():
        folder = folder / "model"
    model = from_pretrained(folder)
    if dataset is None:
        trained = read_training(folder).get("config", {})
        dataset = trained.get("dataset", SAMPLE)
        image_column = image_column or trained.get("image_column")
    shape = model.backbone.pretrained_cfg["input_size"]
    train, test = (
        load_source(
            dataset, split, in_chans=shape[0], image_column=image_column, label_column=label_column
        )
        for split in (train_split, test_split)
    )
    if torch.cuda.is_available() and not cpu:
        model.to("cuda")
    table = evaluate(
        model, train, test, protocols=protocol, seed=seed, workers=workers, progress=True
    )
    print(f"\ntop-1 in percent on the {len(test.dataset):,} images of {dataset}, {test_split}")
    print(f"{'':24}" + "".join(f"{name:>10}" for name in protocol))
    for name, row in table.items():
        print(f"{name:24}" + "".join(f"{row[p]:10.2f}" for p in protocol))
    for name in protocol:
        print(PROTOCOLS[name])
    print(
        f"\nimport effssl\n"
        f'model = effssl.from_pretrained("{folder}")\n'
        f"transform = effssl.create_transform(model)\n"
        f"features = model(transform(image)[None])  # (1, {model.num_features})"
    )


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
    from effssl.data.loader import DecodedImages
    from effssl.seeding import seeded_generator
    from effssl.training.batches import kept_side
    from effssl.views import MultiView
    from effssl.views.picture import draw_views

    multi_view = MultiView(preset, views=views, size=img_size)
    if images < 1:
        raise ValueError(f"images must be 1 or more; got {images}")
    source = load_source(dataset, split, in_chans=in_chans, image_column=image_column)
    rows = range(0, source.num_images, max(1, source.num_images // images))[:images]
    decoded = DecodedImages(source, kept_side(img_size)).__getitems__(list(rows))
    for broken in (image for image in decoded if isinstance(image, BrokenImage)):
        print(f"skipped a broken image: {broken}", file=sys.stderr)
    if all(isinstance(image, BrokenImage) for image in decoded):
        raise ValueError(f"none of the {len(decoded)} images looked at can be read")
    shown = [image for image in decoded if isinstance(image, torch.Tensor)]
    draw_views(shown, multi_view, seeded_generator(seed, "views")).save(out)
    print(f"{len(shown)} images with {views} views each: {out}")


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
    commands = {"pretrain": pretrain, "evaluate": evaluate, "views": views}
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
