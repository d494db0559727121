"""Time of training steps with 2 views, with 2 and 6 local ones, and with 8, beside their pixels.

    python benchmarks/multi_crop.py
    python benchmarks/multi_crop.py --device cuda --backbones resnet50 --img-size 224 \
        --local-size 96 --batch-size 64 --precision bf16

Each step draws and makes the views of a batch of images that is in memory, passes them forward and
backward, and updates the weights. The steps of the three configurations are timed in turn. If
time followed the pixels, both ratios of a row would agree.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from accelerate import Accelerator

from effssl import PretrainConfig, create_loss, create_model
from effssl.data._loader import BatchShard, collate, decode_size
from effssl.loss_specs import LOSSES
from effssl.optim import create_optimizer
from effssl.training._staging import Stager
from effssl.training._step import TrainStep
from effssl.training._views import create_views


def configurations(args: argparse.Namespace, backbone: str) -> dict[str, PretrainConfig]:
    """Return the configurations to compare, by what they do."""
    shared = {"backbone": backbone, "img_size": args.img_size, "batch_size": args.batch_size}
    shared |= {"loss": args.loss, "local_size": args.local_size}
    whole, local = f"of {args.img_size} px", f"of {args.local_size} px"
    return {
        f"2 {whole}": PretrainConfig(**shared, views=2),
        f"2 {whole} + 6 {local}": PretrainConfig(**shared, views=2, local_views=6),
        f"8 {whole}": PretrainConfig(**shared, views=8),
    }


def pixels(config: PretrainConfig) -> int:
    """Return the pixels of the views of an image."""
    return config.views * config.img_size**2 + config.local_views * config.local_size**2


def steps(args: argparse.Namespace, backbone: str) -> dict[str, Callable[[int], None]]:
    """Return a function for each configuration that does a step with the same network."""
    mixed = "no" if args.precision == "fp32" else args.precision
    accelerator = Accelerator(cpu=args.device == "cpu", mixed_precision=mixed)
    torch.manual_seed(0)
    net = create_model(backbone, img_size=args.img_size, dynamic_img_size=True)
    optimizer = create_optimizer(net, "adamw", lr=1e-4, weight_decay=0.05)
    net = net.to(memory_format=torch.channels_last)
    model, optimizer = accelerator.prepare(net, optimizer)
    model.train()
    side = decode_size(args.img_size)
    batch = collate(list(torch.randint(256, (args.batch_size, 3, side, side)).byte()), 3)

    def step_of(config: PretrainConfig) -> Callable[[int], None]:
        views = create_views(config)
        loss_fn = create_loss(config.loss, dim=config.projector_dim, global_views=config.views)
        stage = Stager(views, BatchShard(config.batch_size), config.seed, accelerator.device)
        gradient_of = TrainStep(accelerator, model, views, loss_fn, seed=config.seed)

        def step(number: int) -> None:
            gradient_of(stage(batch, number), number).loss.item()
            optimizer.step()
            optimizer.zero_grad()
            if accelerator.device.type == "cuda":
                torch.cuda.synchronize()

        return step

    return {name: step_of(config) for name, config in configurations(args, backbone).items()}


def main() -> None:
    """Time the steps of each backbone and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--backbones", nargs="+", default=["resnet10t", "convnext_atto"])
    parser.add_argument("--img-size", type=int, default=64)
    parser.add_argument("--local-size", type=int, default=32)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--loss", choices=tuple(LOSSES), default="bt")
    parser.add_argument("--precision", choices=("fp32", "bf16", "fp16"), default="fp32")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--steps", type=int, default=7, help="timed steps of each configuration")
    parser.add_argument("--warm-up", type=int, default=2)
    args = parser.parse_args()
    where = f"{torch.get_num_threads()} threads of a CPU"
    if args.device == "cuda":
        where = torch.cuda.get_device_name()
    print(f"{where}, {args.batch_size} images, {args.precision}, torch {torch.__version__}\n")
    print("| backbone | views | ms a step | time / that of 2 | pixels / those of 2 |")
    print("|---|---|--:|--:|--:|")
    for backbone in args.backbones:
        configs = configurations(args, backbone)
        seconds: dict[str, list[float]] = {name: [] for name in configs}
        step_of = steps(args, backbone)
        for number in range(args.warm_up + args.steps):
            for name, step in step_of.items():
                start = time.perf_counter()
                step(number)
                seconds[name] += [time.perf_counter() - start] * (number >= args.warm_up)
        median = {name: statistics.median(times) for name, times in seconds.items()}
        first = next(iter(configs))
        for name, config in configs.items():
            ratio = median[name] / median[first], pixels(config) / pixels(configs[first])
            print(f"| {backbone} | {name} | {1e3 * median[name]:,.0f} | ", end="")
            print(f"{ratio[0]:.2f} | {ratio[1]:.2f} |")


if __name__ == "__main__":
    main()
