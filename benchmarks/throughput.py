r"""Views per second of whole training steps, beside the bare step and beside lightly's loop.

    python benchmarks/throughput.py                          all tables
    python benchmarks/throughput.py --backbones resnet10t --tables limit
    python benchmarks/throughput.py --device cuda --backbones resnet18_cifar resnet50:224 \
        --precision bf16 --views 4

``effssl`` is `effssl.pretrain` itself: decoding or cache, views, backbone, projector, loss, checks
of loss and gradient, optimizer step, and metrics with the signs of collapse every 5 steps.
Checkpoints are timed separately. ``bare`` is the forward pass, backward pass and optimizer step of
the same model on tensors in memory: the limit. ``lightly`` is the loop of its examples, with its
BYOL transform on decoded PIL images and its Barlow Twins head and loss, at the best of several
numbers of loader workers. All take the sample's images in RGB, enlarged if the views are larger,
and apply the same operations to the views. Contestants take turns, and a figure is the median of
all their timed steps except the first five of each turn.
"""

import argparse
import importlib.util
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

import effssl
from effssl.data import SAMPLE, decode_image, load_source
from effssl.optim import create_optimizer
from effssl.training._checkpoint import load_checkpoint, save_checkpoint
from effssl.training._launch import mixed_precision

CHECKPOINTS: dict[str, str] = {}
LIMIT_BACKBONES = ("resnet10t", "convnext_atto", "resnet18", "test_resnet")
WINDOW = 5  # steps between two lines of metrics; the first window of a turn is not counted
PATCH = {"convnext_atto": 2}  # with its default of 4, a 32 px image ends as a single pixel


def configure(args: argparse.Namespace, backbone: str, **changes) -> effssl.PretrainConfig:
    """Return the configuration of a run; ``backbone`` may end in ``:`` and a size in pixels."""
    name, _, size = backbone.partition(":")
    return effssl.PretrainConfig(
        **{
            "backbone": name,
            "patch_size": PATCH.get(name),
            "img_size": int(size or 32),
            "projector_dim": 256,
            "views": args.views,
            "preset": "imagenet",
            "batch_size": args.images,
            "precision": args.precision,
            "max_steps": args.steps,
            "log_every": WINDOW,
            "overwrite": True,
            "cpu": args.device == "cpu",
        }
        | changes
    )


def effssl_steps(config: effssl.PretrainConfig) -> list[float]:
    """Return seconds per step for each window, from the run's own metrics."""
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        effssl.pretrain(effssl.PretrainConfig(**(vars(config) | {"output": str(run)})))
        lines = (run / "metrics.jsonl").read_text().splitlines()
        checkpoint_of(run, config)
    views = config.batch_size * config.views
    return [views / json.loads(line)["views_per_s"] for line in lines[1:]]


def checkpoint_of(run: Path, config: effssl.PretrainConfig) -> None:
    """Note the size of a run's checkpoint, and the time to write it again."""
    state = load_checkpoint(run)
    step = state.pop("step")
    start = time.perf_counter()
    folder = save_checkpoint(run, step, state, keep=1)
    seconds = time.perf_counter() - start
    size = sum(file.stat().st_size for file in folder.iterdir())
    CHECKPOINTS[config.backbone] = f"{size / 1e6:,.0f} MB, {seconds:.2f} s"


def bare_steps(config: effssl.PretrainConfig, args: argparse.Namespace) -> list[float]:
    """Return seconds of each forward, backward and optimizer step on tensors in memory."""
    model = effssl.create_model(
        config.backbone,
        projector_dim=config.projector_dim,
        img_size=config.img_size,
        patch_size=config.patch_size,
    ).to(args.device, memory_format=torch.channels_last)
    optimizer = create_optimizer(model, config.optimizer, config.lr, config.weight_decay)
    shape = (config.views * config.batch_size, 3, config.img_size, config.img_size)
    views = torch.randn(shape, device=args.device).contiguous(memory_format=torch.channels_last)

    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(ran_in(config, args))
    scaler = torch.amp.GradScaler(args.device, enabled=dtype == torch.float16)

    def step() -> None:
        with torch.autocast(args.device, dtype, enabled=dtype is not None):
            z = model(views, project=True)
        optimizer.zero_grad()
        scaler.scale(z.float().square().mean()).backward()
        scaler.step(optimizer)
        scaler.update()

    return timed(step, args)


def ran_in(config: effssl.PretrainConfig, args: argparse.Namespace) -> str:
    """Return the precision of a run: fp32, bf16 or fp16."""
    mixed = mixed_precision(config.precision, args.device == "cpu")
    return "fp32" if mixed == "no" else mixed


def timed(step: Callable[[], None], args: argparse.Namespace) -> list[float]:
    """Return seconds of each step after the first window."""
    seconds = []
    for _ in range(args.steps):
        start = time.perf_counter()
        step()
        if args.device == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return seconds[WINDOW:]


class DecodedPictures(torch.utils.data.Dataset):
    """The sample as PIL images in memory, so that lightly need not decode."""

    def __init__(self, transform: Callable, images: int) -> None:
        from torchvision.transforms.functional import to_pil_image

        source = load_source(SAMPLE, f"train[:{images}]")
        values = source.dataset[source.image_column]
        self.pictures = [to_pil_image(torch.from_numpy(decode_image(v, 3))) for v in values]
        self.transform = transform

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, row: int) -> list[torch.Tensor]:
        return self.transform(self.pictures[row])


def lightly_steps(
    config: effssl.PretrainConfig, args: argparse.Namespace, width: int, workers: int
) -> list[float]:
    """Return seconds of each step of lightly's loop, including the wait for its loader."""
    import timm
    from lightly.loss import BarlowTwinsLoss
    from lightly.models.modules import BarlowTwinsProjectionHead
    from lightly.transforms import BYOLTransform, BYOLView1Transform, BYOLView2Transform

    patch = {} if config.patch_size is None else {"patch_size": config.patch_size}
    backbone = timm.create_model(config.backbone, num_classes=0, **patch)
    head = BarlowTwinsProjectionHead(backbone.head_hidden_size, width, width)
    model = nn.Sequential(backbone, head).to(args.device)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    size = config.img_size
    transform = BYOLTransform(BYOLView1Transform(size), BYOLView2Transform(size))
    # more batches than are timed, so that the workers still work during the last one
    pictures = DecodedPictures(transform, config.batch_size * (args.steps + 2 * workers + 1))
    loader = torch.utils.data.DataLoader(
        pictures, config.batch_size, shuffle=True, drop_last=True, num_workers=workers
    )
    loss_fn = BarlowTwinsLoss()
    batches = iter(loader)

    def step() -> None:
        first, second = next(batches)
        loss = loss_fn(model(first.to(args.device)), model(second.to(args.device)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return timed(step, args)


def take_turns(contestants: dict, turns: int) -> dict[str, float]:
    """Return the median seconds of each contestant's steps."""
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(turns):
        for name, run in contestants.items():
            seconds[name] += run()
    return {name: statistics.median(values) for name, values in seconds.items()}


def limit_table(args: argparse.Namespace) -> None:
    """Print effssl beside the bare step."""
    print(f"\nthe limit: {args.views} views, 256 wide, {args.precision}\n")
    print("| backbone | effssl views/s | bare views/s | step / bare step | checkpoint |")
    print("|---|--:|--:|--:|--:|")
    for backbone in args.backbones:
        config = configure(args, backbone)
        seconds = take_turns(
            {
                "effssl": lambda config=config: effssl_steps(config),
                "bare": lambda config=config: bare_steps(config, args),
            },
            args.turns,
        )
        views = config.batch_size * config.views
        print(
            f"| {backbone} | {views / seconds['effssl']:,.0f} | {views / seconds['bare']:,.0f} | "
            f"{seconds['effssl'] / seconds['bare']:.2f} | {CHECKPOINTS[config.backbone]} |",
            flush=True,
        )


def lightly_table(args: argparse.Namespace) -> None:
    """Print effssl beside lightly's loop."""
    if importlib.util.find_spec("lightly") is None:
        print("\nlightly is not installed, so its table is left out: pip install lightly==1.6.0")
        return
    print("\nbeside lightly 1.6.0, at its best number of loader workers\n")
    print("| backbone | lightly | views/s (workers) | effssl | views/s | faster |")
    print("|---|---|--:|---|--:|--:|")
    recommended = {"views": 4, "precision": "auto", "batch_size": max(2, args.images // 2)}
    for backbone, width, changes in (
        ("resnet10t", 2048, {}),
        ("resnet10t", 256, {}),
        ("test_resnet", 256, {}),
        ("resnet10t", 2048, recommended),
    ):
        peer = configure(args, backbone, views=2, precision="fp32")
        config = configure(args, backbone, **({"views": 2, "precision": "fp32"} | changes))
        contestants = {"effssl": lambda config=config: effssl_steps(config)}
        for workers in args.workers:
            contestants[workers] = lambda workers=workers, peer=peer, width=width: lightly_steps(
                peer, args, width, workers
            )
        seconds = take_turns(contestants, args.turns)
        best = min(args.workers, key=seconds.get)
        ours = config.batch_size * config.views / seconds["effssl"]
        theirs = 2 * peer.batch_size / seconds[best]
        ran = ran_in(config, args)
        print(
            f"| {backbone} | 2 views, {width} wide, fp32 | {theirs:,.0f} ({best}) | "
            f"{config.views} views, 256 wide, {ran} | {ours:,.0f} | {ours / theirs:.2f}x |",
            flush=True,
        )


def main() -> None:
    """Read the command line and print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--backbones", nargs="+", default=LIMIT_BACKBONES, metavar="NAME[:SIZE]", help="size 32"
    )
    tables = ["limit", "lightly"]
    parser.add_argument("--tables", nargs="+", choices=tables, default=tables)
    choices = ("auto", "fp32", "bf16", "fp16")
    parser.add_argument(
        "--precision", choices=choices, default="fp32", help="for the limit's table"
    )
    parser.add_argument("--views", type=int, default=2, help="for the limit's table (default: 2)")
    parser.add_argument("--images", type=int, default=256, help="global batch (default: 256)")
    parser.add_argument("--steps", type=int, default=10, help="steps per turn (default: 10)")
    parser.add_argument("--turns", type=int, default=3, help="turns per contestant (default: 3)")
    parser.add_argument("--workers", nargs="+", type=int, default=[0, 1, 2], help="for lightly")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    args = parser.parse_args()
    print(
        f"batch {args.images}, {args.device}, {torch.get_num_threads()} thread(s), "
        f"torch {torch.__version__}, median of {args.turns} turns of {args.steps - WINDOW} steps"
    )
    for table in args.tables:
        {"limit": limit_table, "lightly": lightly_table}[table](args)


if __name__ == "__main__":
    main()
