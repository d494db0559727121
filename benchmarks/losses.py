"""Time and memory of the losses, beside lightly's and beside the matrix products they need.

    python benchmarks/losses.py                      the table, on one core 20 to 30 minutes
    python benchmarks/losses.py --dims 256 8192 --views 2 8
    python benchmarks/losses.py --device cuda --images 4096 --dims 256 8192

One row is one loss at one V x D; every measurement runs in its own process. "ms" is the time of the
forward and backward pass, "MB" their peak memory above what the process (on cuda: the device) held
before. The "lightly"
columns give lightly's time and memory, then both as multiples of ours; its Barlow Twins, VICReg and
NT-Xent have two views only. Its LeJEPA gets as many directions as ours. "products" is our time as a
multiple of that of the bare matrix products of the cheaper form, forward and backward, into memory
allocated beforehand; W-MSE is no matter of products alone, and takes more images than dimensions.
"""

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

LOSSES = ("bt", "bt-mean", "vicreg", "spectral", "simclr", "sigreg", "coding_rate", "wmse")
DIRECTIONS = 256
"""Directions of SIGReg."""


def measure(step: Callable[[], None], seconds: float) -> dict[str, float]:
    """Return the best time of a step in ms, after one warm-up step, and its peak memory in MB."""
    on_cuda = torch.cuda.is_initialized()
    memory = cuda_memory if on_cuda else peak_memory
    before = memory(reset=True)
    times = []
    end = time.perf_counter() + seconds
    while len(times) < 3 or (time.perf_counter() < end and len(times) < 100):
        start = time.perf_counter()
        step()
        if on_cuda:
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return {"ms": 1e3 * min(times[1:]), "MB": memory() - before}


def cuda_memory(reset: bool = False) -> float:
    """Return the device's peak of allocated memory in MB; ``reset`` sets it to what is held now."""
    if reset:
        torch.cuda.reset_peak_memory_stats()
    return torch.cuda.max_memory_allocated() / 2**20


def peak_memory(reset: bool = False) -> float:
    """Return the process's peak resident memory in MB; ``reset`` sets it to what is held now."""
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def measure_cell(what: str, views: int, images: int, dim: int, seconds: float, device: str) -> dict:
    """Measure "bt", ..., "lightly bt", ... or "products bt", ... in this process."""
    kind, _, name = what.rpartition(" ")
    z = torch.randn(views, images, dim, generator=torch.Generator().manual_seed(0)).to(device)
    if kind == "products":
        return measure(bare_products(name, z), seconds)

    z.requires_grad_()
    if kind == "lightly":
        loss = lightly_loss(name, views, dim)
    else:
        from effssl.losses import create_loss

        multiview = "mean" if name == "bt-mean" else "pairs"
        loss = create_loss(name.removesuffix("-mean"), dim=dim, multiview=multiview)

    def step() -> None:
        z.grad = None
        loss(z).backward()

    return measure(step, seconds)


def lightly_loss(name: str, views: int, dim: int) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return lightly's loss as a function of projections (V, N, D)."""
    from lightly import loss

    if name == "coding_rate":
        empssl = loss.EMPSSLLoss(tcr_eps=0.2, inv_coef=200.0)
        return lambda z: empssl(list(z))
    if name == "wmse":
        wmse = loss.WMSELoss(embedding_dim=dim, w_size=2 * dim, num_samples=views)
        return lambda z: wmse(z.flatten(0, 1))
    if name == "sigreg":
        lejepa = loss.LeJEPALoss(sigreg_num_vectors=DIRECTIONS)
        return lambda z: lejepa(global_proj=z[:1], local_proj=z[1:])
    two_views = {
        "bt": loss.BarlowTwinsLoss,
        "vicreg": loss.VICRegLoss,
        "simclr": lambda: loss.NTXentLoss(temperature=0.2),
    }[name]()
    return lambda z: two_views(z[0], z[1])


def can_compare(name: str, views: int) -> bool:
    """Return whether lightly has the loss for so many views."""
    return name in ("sigreg", "coding_rate", "wmse") or (
        views == 2 and name in ("bt", "vicreg", "simclr")
    )


def bare_products(name: str, z: torch.Tensor) -> Callable[[], None]:
    """Return a step of only the matrix products of the cheaper form, forward and backward."""
    from effssl.losses._gram import gram_is_cheaper

    if name == "simclr":
        return chained(z.flatten(0, 1), z.flatten(0, 1).T)
    if name == "sigreg":
        return chained(z.flatten(0, 1), z.new_empty(z.shape[-1], DIRECTIONS))
    across = name == "bt"
    if name == "bt-mean":
        z = z[:1]
    elif name == "spectral":
        z = z.flatten(0, 1)[None]
    views, images, dim = z.shape
    out = torch.empty_like(z)
    if gram_is_cheaper(views=views, counts=[images], dim=dim, across=across):
        grams = z.new_empty(views, images, images)

        def step() -> None:
            torch.bmm(z, z.mT, out=grams)
            torch.bmm(grams, z, out=out)
    else:
        pairs = [(a, b) for a in range(views) for b in range(a)] if across else None
        matrix = z.new_empty(dim, dim)

        def step() -> None:
            for a, b in pairs or [(v, v) for v in range(views)]:
                torch.mm(z[a].T, z[b], out=matrix)
                torch.mm(z[b], matrix, out=out[b])
                if across:
                    torch.mm(z[a], matrix, out=out[a])

    return step


def chained(x: torch.Tensor, other: torch.Tensor) -> Callable[[], None]:
    """Return a step of x @ other, and of its result @ other^T."""
    between, out = x.new_empty(len(x), other.shape[1]), torch.empty_like(x)

    def step() -> None:
        torch.mm(x, other, out=between)
        torch.mm(between, other.T, out=out)

    return step


def run_cell(what: str, views: int, dim: int, args: argparse.Namespace) -> dict:
    """Call `measure_cell` in its own process."""
    cell = [what, str(views), str(args.images), str(dim), str(args.seconds)]
    options = ["--device", args.device, "--threads", str(args.threads)]
    command = [sys.executable, __file__, *options, "--cell", *cell]
    environment = os.environ | {"OMP_NUM_THREADS": str(args.threads)}
    finished = subprocess.run(command, env=environment, capture_output=True, text=True)
    if finished.returncode:
        raise RuntimeError(f"{what} V {views} D {dim} failed: {finished.stderr}")
    return json.loads(finished.stdout)


def print_table(args: argparse.Namespace) -> None:
    """Measure all cells and print them."""
    lightly = importlib.util.find_spec("lightly") is not None
    where = f"CPU, {args.threads} thread(s)"
    if args.device == "cuda":
        where = torch.cuda.get_device_name()
    print(
        f"N {args.images}, float32, {where}, torch {torch.__version__}; "
        f"forward + backward; one warm-up step, then the best of {args.seconds:g} s or 2 steps"
    )
    if not lightly:
        print("lightly is not installed, so its columns are left out: pip install lightly==1.6.0")
    header = f"{'loss':12}{'V':>3}{'D':>6}{'ms':>10}{'MB':>8}"
    print(f"{header}{'lightly ms':>12}{'MB':>8}{'time x':>8}{'MB x':>8}{'products x':>12}")
    for name in args.losses:
        for dim in args.dims:
            for views in args.views:
                if name == "wmse" and args.images <= dim:
                    continue
                own = run_cell(name, views, dim, args)
                row = f"{name:12}{views:3}{dim:6}{own['ms']:10.1f}{own['MB']:8.0f}"
                if lightly and can_compare(name, views):
                    peer = run_cell(f"lightly {name}", views, dim, args)
                    row += f"{peer['ms']:12.1f}{peer['MB']:8.0f}"
                    row += f"{peer['ms'] / own['ms']:8.2f}{peer['MB'] / own['MB']:8.1f}"
                else:
                    row += f"{'-':>12}{'-':>8}{'-':>8}{'-':>8}"
                if name == "wmse":
                    print(f"{row}{'-':>12}", flush=True)
                    continue
                products = run_cell(f"products {name}", views, dim, args)
                print(f"{row}{own['ms'] / products['ms']:12.2f}", flush=True)


def main() -> None:
    """Read the command line, and print the table or measure one cell of it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--losses", nargs="+", choices=LOSSES, default=LOSSES)
    parser.add_argument("--views", nargs="+", type=int, default=[2, 4, 8], metavar="V")
    parser.add_argument("--dims", nargs="+", type=int, default=[256, 1024, 8192], metavar="D")
    parser.add_argument("--images", type=int, default=512, help="N (default: 512)")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="(default: cpu)")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default: 1)")
    parser.add_argument(
        "--seconds", type=float, default=3.0, help="time for one measurement (default: 3)"
    )
    parser.add_argument("--cell", nargs=5, help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.cell:
        what, views, images, dim, seconds = args.cell
        numbers = int(views), int(images), int(dim), float(seconds)
        print(json.dumps(measure_cell(what, *numbers, args.device)))
    else:
        print_table(args)


if __name__ == "__main__":
    main()
