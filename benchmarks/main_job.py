"""The README's table: its first command, for several seeds, evaluated and collected.

    python benchmarks/main_job.py                # about 20 minutes on two cores

Runs the ``effssl pretrain`` line of README.md once for each seed, evaluates every model, writes
model_cards/results.csv and prints the table. Nothing is chosen by the test images: the flags were
chosen on images held out of the training split.
"""

import csv
import re
import shlex
import statistics
import tempfile
import time
from pathlib import Path

import timm
import torch
import tyro

import effssl
from effssl.data import load_source
from effssl.evaluation import evaluate

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "model_cards" / "results.csv"
COLUMNS = [
    *("model", "flags", "encoder", "protocol", "top1", "seed", "images", "views", "minutes"),
    *("device", "torch", "timm", "effssl"),
]


def readme_flags() -> list[str]:
    """The flags of the README's pretraining command."""
    command = re.search(r"^effssl pretrain (.*)$", (ROOT / "README.md").read_text(), re.M).group(1)
    return shlex.split(command)


def measure(flags: list[str], seed: int) -> list[dict]:
    """Pretrain with one seed and evaluate; a row an encoder and protocol."""
    with tempfile.TemporaryDirectory() as folder:
        extra = ["--seed", str(seed), "--output", f"{folder}/run"]
        config = tyro.cli(effssl.PretrainConfig, args=[*flags, *extra])
        started = time.perf_counter()
        model = effssl.from_pretrained(effssl.pretrain(config))
        minutes = (time.perf_counter() - started) / 60
    train, test = (
        load_source(config.dataset, s, in_chans=config.in_chans) for s in ("train", "test")
    )
    steps = config.epochs * (len(train.dataset) // config.batch_size)
    run = {
        "model": config.name,
        "flags": shlex.join(flags),
        "seed": seed,
        "images": steps * config.batch_size,
        "views": steps * config.batch_size * config.views,
        "minutes": round(minutes, 2),
        "device": f"{torch.get_num_threads()} threads {torch.backends.cpu.get_cpu_capability()}",
        "torch": torch.__version__,
        "timm": timm.__version__,
        "effssl": effssl.__version__,
    }
    table = evaluate(model, train, test, seed=seed)
    return [
        run | {"encoder": encoder, "protocol": protocol, "top1": round(top1, 2)}
        for encoder, row in table.items()
        for protocol, top1 in row.items()
    ]


def markdown_table(rows: list[dict]) -> str:
    """Mean and standard deviation over the seeds, as the README shows them."""
    lines = ["| features | k-NN top-1 | linear top-1 |", "|---|--:|--:|"]
    for encoder in dict.fromkeys(row["encoder"] for row in rows):
        cells = []
        for protocol in ("knn", "linear"):
            values = [
                float(row["top1"])
                for row in rows
                if (row["encoder"], row["protocol"]) == (encoder, protocol)
            ]
            cells.append(f"{statistics.mean(values):.1f} ± {statistics.stdev(values):.1f}")
        lines.append(f"| {encoder} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main(seeds: tuple[int, ...] = (0, 1, 2)) -> None:
    """Measure every seed.

    Args:
        seeds: Two or more.
    """
    flags, rows = readme_flags(), []
    for seed in seeds:
        rows += measure(flags, seed)
        print(
            f"seed {seed}:", *(f"{r['encoder']}, {r['protocol']} {r['top1']};" for r in rows[-6:])
        )
    RESULTS.parent.mkdir(exist_ok=True)
    with open(RESULTS, "w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    print(markdown_table(rows))
    minutes = sorted({float(row["minutes"]) for row in rows})
    print(f"minutes of training: {minutes}; {rows[0]['device']}")


if __name__ == "__main__":
    tyro.cli(main)
