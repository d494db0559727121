"""Memory and time of a step with 2, 4 and 8 views, with the batch whole and in four chunks.

    python benchmarks/micro_batch.py                 the table, about 4 minutes
    python benchmarks/micro_batch.py --device cuda --backbone resnet50 --img-size 224

One row is one number of views; every measurement runs in its own process. A step makes the views of
the batch and the gradients of the parameters. "MB" is the peak memory of the process (on cuda: of
the device) during the steps, above what it held before the first one with weights and images; "s"
is the best time of a step. A quarter of a batch with eight views has as many views as the whole
batch with two, and the last line compares these.
"""

import argparse
import json
import os
import subprocess
import sys
import time

import torch
from losses import peak_memory

CHUNKS = 4


def measure_cell(views: int, chunks: int, args: argparse.Namespace) -> dict[str, float]:
    """Return peak memory and best time of a step, measured in this process."""
    from accelerate import Accelerator

    from effssl import MultiView, PretrainConfig, create_model
    from effssl.data._loader import BatchShard, collate
    from effssl.losses import create_loss
    from effssl.training._staging import Stager
    from effssl.training._step import TrainStep

    config = PretrainConfig(
        backbone=args.backbone,
        img_size=args.img_size,
        batch_size=args.batch_size,
        micro_batch=args.batch_size // chunks if chunks > 1 else None,
        views=views,
        preset="imagenet",
        precision=args.precision,
        cpu=args.device == "cpu",
    )
    torch.manual_seed(0)
    mixed = "no" if args.precision == "fp32" else args.precision
    accelerator = Accelerator(cpu=config.cpu, mixed_precision=mixed)
    net = create_model(config.backbone, projector_dim=config.projector_dim, img_size=args.img_size)
    model = accelerator.prepare(net.to(memory_format=torch.channels_last)).train()
    multi_view = MultiView(config.view.over(config.preset), views=views, size=args.img_size)
    loss_fn = create_loss("bt", dim=config.projector_dim)
    local = BatchShard(config.batch_size, config.micro_batch)
    in_chunks = config.micro_batch is not None
    gradient_of = TrainStep(
        accelerator, model, [multi_view], loss_fn, seed=config.seed, in_chunks=in_chunks
    )
    stage = Stager([multi_view], local, config.seed, accelerator.device)
    side = args.img_size * 8 // 7
    batch = collate(list(torch.randint(256, (args.batch_size, 3, side, side)).byte()), 3)
    on_cuda = accelerator.device.type == "cuda"
    if on_cuda:
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated() / 2**20
    else:
        before = peak_memory(reset=True)
    times = []
    for step in range(args.steps):
        net.zero_grad()
        start = time.perf_counter()
        gradient_of(stage(batch, step), step).loss.item()
        if on_cuda:
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    after = torch.cuda.max_memory_allocated() / 2**20 if on_cuda else peak_memory()
    return {"MB": after - before, "s": min(times)}


def run_cell(views: int, chunks: int) -> dict[str, float]:
    """Call `measure_cell` in its own process, with the flags of this one."""
    command = [sys.executable, __file__, *sys.argv[1:], "--cell", str(views), str(chunks)]
    finished = subprocess.run(command, env=os.environ, capture_output=True, text=True)
    if finished.returncode:
        raise RuntimeError(f"{views} views in {chunks} chunks failed: {finished.stderr}")
    return json.loads(finished.stdout)


def print_table(args: argparse.Namespace) -> None:
    """Measure all cells and print them."""
    where = torch.cuda.get_device_name() if args.device == "cuda" else f"CPU, {args.threads} thread"
    print(
        f"{args.backbone}, {args.img_size} px, batch {args.batch_size}, {args.precision}, {where}, "
        f"torch {torch.__version__}; best of {args.steps} steps"
    )
    header = f"{'MB':>8}{'s':>8}{'views/s':>9}"
    print(f"{'':5}{'whole':>25}{f'{CHUNKS} chunks':>25}\nviews{header}{header}{'time x':>8}")
    memory = {}
    for views in args.views:
        row = f"{views:5}"
        cells = {chunks: run_cell(views, chunks) for chunks in (1, CHUNKS)}
        for chunks, cell in cells.items():
            memory[views, chunks] = cell["MB"]
            rate = views * args.batch_size / cell["s"]
            row += f"{cell['MB']:8.0f}{cell['s']:8.2f}{rate:9.1f}"
        print(f"{row}{cells[CHUNKS]['s'] / cells[1]['s']:8.2f}", flush=True)
    if {(8, CHUNKS), (2, 1)} <= memory.keys():
        ratio = memory[8, CHUNKS] / memory[2, 1]
        print(f"memory of 8 views in {CHUNKS} chunks / of 2 views whole: {ratio:.2f}")


def main() -> None:
    """Read the command line, and print the table or measure one cell of it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--backbone", default="resnet18", help="(default: resnet18)")
    parser.add_argument("--img-size", type=int, default=64, help="pixels (default: 64)")
    parser.add_argument("--batch-size", type=int, default=128, help="images (default: 128)")
    parser.add_argument("--views", nargs="+", type=int, default=[2, 4, 8], metavar="V")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="(default: cpu)")
    parser.add_argument("--precision", choices=("fp32", "bf16", "fp16"), default="fp32")
    parser.add_argument("--steps", type=int, default=2, help="steps a measurement (default: 2)")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default: 1)")
    parser.add_argument("--cell", nargs=2, type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.batch_size % CHUNKS:
        parser.error(f"--batch-size must be a multiple of {CHUNKS}")
    torch.set_num_threads(args.threads)
    if args.cell:
        print(json.dumps(measure_cell(*args.cell, args)))
    else:
        print_table(args)


if __name__ == "__main__":
    main()
