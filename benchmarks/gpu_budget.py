"""Estimated cost of a training step on a GPU, by stage, beside the bare step; needs no GPU.

    python benchmarks/gpu_budget.py --backbone resnet50 --img-size 224 --views 8 --images 128
    python benchmarks/gpu_budget.py --backbone resnet18_cifar --img-size 32 --views 4 --images 512
    python benchmarks/gpu_budget.py --views 2 --local-views 6 --local-size 96

The step runs on CUDA tensors without data (tests/fake_cuda.py). This counts its kernels, the bytes
they move, the operations of matrix products and convolutions, copies and waits. The time of a stage
is estimated from these counts and the rates of a card, by default an H100:

    busy     = sum over kernels of max(bytes / memory, operations / rate of their type)
    launched = kernels x 5 us, overlapping with the kernels
    stage    = max(busy, launched, bytes copied / host) + 20 us for each wait or blocking copy

Convolutions of float32 tensors run in TF32, as in PyTorch; matrix products do so only with
torch.backends.cuda.matmul.allow_tf32. Times are a lower bound: they leave out further launches of
one operation, the inefficiency of kernels, and the host's work between launches. Their ratio is the
result. Attention counts as its unfused form in float32.

``bare`` is the forward pass, backward pass and optimizer step of the same network on tensors in
memory: the limit. Metrics count by their share of a step (``--log-every``). With a GPU, a last
column has measured times: the median over steps, with each stage between two synchronizations, so
that stages do not overlap as they do in a run.
"""

import argparse
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

import effssl
from effssl.data._loader import BatchShard, collate, decode_size
from effssl.loss_specs import LOSSES
from effssl.optim import create_optimizer
from effssl.training._collapse import sample_rows
from effssl.training._faults import NonFiniteGuard
from effssl.training._staging import Chunk, Stager
from effssl.training._views import create_views
from effssl.training.config import PretrainConfig

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from fake_cost import Cost, Launch  # noqa: E402
from fake_cuda import FakeCuda  # noqa: E402
from fake_machine import pretend  # noqa: E402

US = 1e-6
STAGES = ("images", "views", "forward", "loss", "backward", "optimizer", "metrics")
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


class Card(NamedTuple):
    """Rates of a card in bytes and operations per second, and costs in seconds."""

    memory: float = 3.0e12
    half: float = 790e12
    tf32: float = 400e12
    single: float = 60e12
    host: float = 25e9
    launch: float = 5 * US
    wait: float = 20 * US

    def rate(self, launch: Launch) -> float:
        """Return the operations per second in the type of a kernel."""
        if launch.dtype in (torch.bfloat16, torch.float16):
            return self.half
        tf32 = "convolution" in launch.name or torch.backends.cuda.matmul.allow_tf32
        return self.tf32 if launch.dtype == torch.float32 and tf32 else self.single

    def seconds(self, cost: Cost) -> float:
        """Return the time of a stage by the formula in the module's docstring."""
        busy = sum(max(x.bytes / self.memory, x.flops / self.rate(x)) for x in cost.launches)
        copied = sum(copy.bytes for copy in cost.copies) / self.host
        stalls = len(cost.waits) + len(cost.blocking)
        return max(busy, self.launch * cost.kernels, copied) + self.wait * stalls


class Step:
    """A training step, in which each part enters its stage.

    Args:
        args: Parsed command line.
        stage: Function that returns a context manager for the name of a stage.
    """

    def __init__(self, args: argparse.Namespace, stage: Callable) -> None:
        self.args, self.stage = args, stage
        model = effssl.create_model(
            args.backbone, projector_dim=args.projector_dim, img_size=args.img_size
        )
        self.model = model.to("cuda", memory_format=torch.channels_last).train()
        self.optimizer = create_optimizer(self.model, "adamw", lr=1e-3, weight_decay=0.05)
        self.views = create_views(views_of(args))
        self.loss_fn = effssl.create_loss(
            args.loss, dim=args.projector_dim, global_views=args.views
        )
        self.faults = NonFiniteGuard(
            self.model, Path("runs"), lr=1e-3, precision=args.precision, grad_clip=None
        )
        local = BatchShard(args.images, args.micro_batch)
        self.send = Stager(self.views, local, 0, torch.device("cuda"))
        side = decode_size(args.img_size)
        images = torch.randint(256, (args.images, 3, side, side), dtype=torch.uint8)
        self.batch = collate(list(images), 3)

    def make_views(self, pixels: Tensor, chunk: Chunk) -> list[Tensor]:
        """Return the views of each size of a chunk, (V * n, C, S, S), channels last."""
        dtype = DTYPES[self.args.precision]
        made = [
            views.render(pixels, plan, channels=3, device_plan=on_device, dtype=dtype)
            for views, plan, on_device in zip(
                self.views, chunk.plans, chunk.device_plans, strict=True
            )
        ]
        return [x.flatten(0, 1).contiguous(memory_format=torch.channels_last) for x in made]

    def autocast(self) -> torch.autocast:
        """Return autocast in the precision of the step."""
        dtype = DTYPES[self.args.precision]
        return torch.autocast("cuda", dtype, enabled=dtype != torch.float32)

    def __call__(self) -> None:
        """Run one step with its line of metrics."""
        args, stage = self.args, self.stage
        with stage("images"):
            batch = self.send(self.batch, 0)
        batch.wait()
        whole = len(batch.chunks) == 1

        def features(chunk: Chunk) -> Tensor:
            with stage("views"):
                x = self.make_views(batch.pixels, chunk)
            with stage("forward"), self.autocast():
                return self.model.features(x).float()

        with stage("optimizer"):
            self.faults.before_step()
        with torch.set_grad_enabled(whole):
            every = args.views + args.local_views
            parts = [features(chunk).unflatten(0, (every, -1)) for chunk in batch.chunks]
        with stage("forward"), self.autocast():
            f = parts[0] if whole else torch.cat(parts, 1).requires_grad_()
            z = self.model.projector(f.flatten(0, 1)).unflatten(0, f.shape[:2])
        with stage("loss"):
            loss = self.loss_fn(z)
        with stage("backward"):
            loss.backward()
        if not whole:
            sizes = [part.shape[1] for part in parts]
            for chunk, grad in zip(batch.chunks, f.grad.split(sizes, dim=1), strict=True):
                again = features(chunk)
                with stage("backward"):
                    again.backward(grad.flatten(0, 1))
        with stage("optimizer"):
            norm = torch.nn.utils.get_total_norm([p.grad for p in self.model.parameters()])
            torch.stack([loss.detach(), norm]).tolist()  # the read that checks if they are finite
            self.optimizer.step()
            self.optimizer.zero_grad()
        with stage("metrics"):
            sample_rows(f[0].detach())  # the CPU's work on them overlaps with the next step
            sample_rows(z[0].detach())

    def bare(self) -> None:
        """Run the limit: forward pass, backward pass and optimizer step."""
        x = [
            torch.empty(
                (views.views * self.args.images, 3, views.size, views.size),
                dtype=DTYPES[self.args.precision],
                device="cuda",
            ).contiguous(memory_format=torch.channels_last)
            for views in self.views
        ]
        with self.stage("bare"):
            with self.autocast():
                z = self.model(x, project=True)
            z.float().square().mean().backward()
            self.optimizer.step()
            self.optimizer.zero_grad()


def views_of(args: argparse.Namespace) -> PretrainConfig:
    """Return a configuration with the views of the command line."""
    return PretrainConfig(
        preset="imagenet",
        img_size=args.img_size,
        views=args.views,
        local_views=args.local_views,
        local_size=args.local_size,
    )


def estimate(args: argparse.Namespace) -> dict[str, list[Cost]]:
    """Return the costs of each stage of a step after the first, and of the bare step."""
    costs: dict[str, list[Cost]] = defaultdict(list)
    with FakeCuda() as gpu, pretend(gpu):

        @contextmanager
        def stage(name: str) -> Iterator[None]:
            with gpu.measured() as cost:
                yield
            costs[name].append(cost)

        step = Step(args, stage)
        step()  # the first step allocates the optimizer's state
        costs.clear()
        step()
        step.bare()
    return costs


def measure(args: argparse.Namespace) -> dict[str, float]:
    """Return median seconds of each stage on the current GPU."""
    times: dict[str, list[float]] = defaultdict(list)
    now: dict[str, float] = defaultdict(float)

    @contextmanager
    def stage(name: str) -> Iterator[None]:
        torch.cuda.synchronize()
        start = time.perf_counter()
        yield
        torch.cuda.synchronize()
        now[name] += time.perf_counter() - start

    step = Step(args, stage)
    for number in range(args.warm_up + args.steps):
        now.clear()
        step()
        step.bare()
        if number >= args.warm_up:
            for name, seconds in now.items():
                times[name].append(seconds)
    return {name: statistics.median(seconds) for name, seconds in times.items()}


def table(
    costs: dict[str, list[Cost]], measured: dict[str, float], args: argparse.Namespace
) -> tuple[str, float]:
    """Return the Markdown table, and the estimated time of a step over that of the bare one."""
    card = Card(memory=1e12 * args.memory, half=1e12 * args.half)
    seconds = {name: sum(map(card.seconds, costs[name])) for name in (*STAGES, "bare")}
    # a copy of images that does not block overlaps with the step before
    if not any(cost.blocking for cost in costs["images"]):
        seconds["images"] = 0.0
    share = {"metrics": 1 / args.log_every}
    total = sum(share.get(name, 1) * seconds[name] for name in STAGES)
    head = ["stage", "kernels", "MB", "GFLOP", "copies", "blocking", "waits", "ms", "of bare"]
    head += ["measured ms"] * bool(measured)
    rows = [head, ["---", *["--:"] * (len(head) - 1)]]
    for name in (*STAGES, "bare"):
        part, of = costs[name], share.get(name, 1)
        launches = [launch for cost in part for launch in cost.launches]
        numbers = [
            f"{len(launches):,}",
            f"{sum(x.bytes for x in launches) / 1e6:,.1f}",
            f"{sum(x.flops for x in launches) / 1e9:,.1f}",
            str(sum(len(cost.copies) for cost in part)),
            str(sum(len(cost.blocking) for cost in part)),
            str(sum(len(cost.waits) for cost in part)),
            f"{1e3 * of * seconds[name]:.3f}",
            f"{of * seconds[name] / seconds['bare']:.3f}",
        ]
        if measured:
            numbers.append(f"{1e3 * of * measured[name]:.3f}")
        label = name if of == 1 else f"{name}, one step in {args.log_every}"
        rows.append([label, *numbers])
    lines = [f"| {' | '.join(row)} |" for row in rows]
    ratio = total / seconds["bare"]
    lines.append(f"\nstep {1e3 * total:.2f} ms; step / bare step {ratio:.3f}")
    if measured:
        measured_total = sum(share.get(name, 1) * measured[name] for name in STAGES)
        lines[-1] += f"; measured {1e3 * measured_total:.2f} ms"
        lines[-1] += f", {measured_total / measured['bare']:.3f}"
    return "\n".join(lines), ratio


def arguments(words: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--backbone", default="resnet50")
    parser.add_argument("--img-size", type=int, default=224)
    parser.add_argument("--views", type=int, default=8)
    parser.add_argument("--local-views", type=int, default=0, help="smaller views beside them")
    parser.add_argument("--local-size", type=int, default=96)
    parser.add_argument("--images", type=int, default=128)
    parser.add_argument("--micro-batch", type=int, help="images in a chunk (default: all)")
    parser.add_argument("--precision", choices=DTYPES, default="bf16")
    parser.add_argument("--loss", choices=tuple(LOSSES), default="bt")
    parser.add_argument("--projector-dim", type=int, default=256)
    parser.add_argument("--log-every", type=int, default=10)
    parser.add_argument("--memory", type=float, default=3.0, help="TB/s")
    parser.add_argument("--half", type=float, default=790, help="TFLOP/s in bf16 and fp16")
    parser.add_argument("--steps", type=int, default=10, help="measured steps")
    parser.add_argument("--warm-up", type=int, default=3)
    return parser.parse_args(words)


def main() -> None:
    """Estimate, measure if there is a GPU, and print the table."""
    args = arguments()
    costs = estimate(args)
    measured = measure(args) if torch.cuda.is_available() else {}
    local = f" and {args.local_views} of {args.local_size} px" if args.local_views else ""
    where = torch.cuda.get_device_name() if measured else "not measured: there is no GPU"
    print(
        f"{args.backbone}, {args.img_size} px, {args.views} views{local}, {args.images} images, "
        f"{args.precision}, {args.loss}, {args.projector_dim} wide, torch {torch.__version__}\n"
        f"estimated at {args.memory} TB/s and {args.half:g} TFLOP/s; {where}\n"
    )
    print(table(costs, measured, args)[0])


if __name__ == "__main__":
    main()
