"""The README's table and model: its first command, for several seeds, evaluated and collected.

    python benchmarks/main_job.py                # about 25 minutes on two cores
    python benchmarks/main_job.py --runs runs    # keeps the runs, and goes on with those there

Runs the ``effssl pretrain`` line of README.md once for each seed, evaluates every model, writes
model_cards/results.csv and the card of the first seed's model, and prints the table. Nothing is
chosen by the test images: the flags were chosen on images held out of the training split.
"""

import csv
import re
import runpy
import shlex
import shutil
import statistics
import tempfile
from pathlib import Path

import timm
import torch
import tyro

import effssl
from effssl.data import load_source
from effssl.evaluation import evaluate, record
from effssl.evaluation.evaluate import Evaluation
from effssl.hub.folder import add_evaluation, read_training
from effssl.hub.push import prepare

ROOT = Path(__file__).parents[1]
CARDS = ROOT / "model_cards"
RESULTS = CARDS / "results.csv"
COLUMNS = [
    *("model", "flags", "encoder", "protocol", "top1", "seed", "images", "views", "minutes"),
    *("device", "torch", "timm", "effssl"),
]


def readme_flags() -> list[str]:
    """The flags of the README's pretraining command."""
    command = re.search(r"^effssl pretrain (.*)$", (ROOT / "README.md").read_text(), re.M).group(1)
    return shlex.split(command)


def measure(flags: list[str], seed: int, output: Path) -> tuple[list[dict], Evaluation]:
    """Pretrain with one seed and evaluate; a row an encoder and protocol."""
    extra = ["--seed", str(seed), "--output", str(output), "--resume"]
    config = tyro.cli(effssl.PretrainConfig, args=[*flags, *extra])
    folder = effssl.pretrain(config)
    model = effssl.from_pretrained(folder)
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
        "minutes": read_training(folder)["minutes"],
        "device": f"{torch.get_num_threads()} threads {torch.backends.cpu.get_cpu_capability()}",
        "torch": torch.__version__,
        "timm": timm.__version__,
        "effssl": effssl.__version__,
    }
    found = evaluate(model, train, test, seeds=(seed,), preset=config.preset)
    rows = [
        run | {"encoder": encoder, "protocol": protocol, "top1": round(accuracy.top1, 2)}
        for encoder, row in found.accuracy.items()
        for protocol, (accuracy,) in row.items()
    ]
    return rows, found


def publish(run: Path, name: str, evaluations: list[Evaluation]) -> None:
    """Put what the card is made from, the card and its figures in model_cards/; no weights."""
    folder = run / "model"
    dataset = effssl.PretrainConfig.load(run / "config.json").dataset
    probe = {"weight": evaluations[0].probe.weight, "bias": evaluations[0].probe.bias}
    splits = {"train_split": "train", "test_split": "test"}
    add_evaluation(folder, record(evaluations, dataset=dataset, of="trainings", **splits), probe)
    (CARDS / name).mkdir(parents=True, exist_ok=True)
    for file in prepare(folder, f"org/{name}", license="apache-2.0"):
        if file.suffix != ".safetensors":
            shutil.copy(file, CARDS / name)
    runpy.run_path(str(CARDS / "write_cards.py"), run_name="__main__")


def markdown_table(rows: list[dict]) -> str:
    """Mean and standard deviation over the seeds, as the README shows them."""
    lines = ["| features | k-NN top-1 | linear top-1 |", "|---|--:|--:|"]
    for encoder in dict.fromkeys(row["encoder"] for row in rows):
        cells = []
        for protocol in ("k-NN 20", "linear"):
            values = [
                float(row["top1"])
                for row in rows
                if (row["encoder"], row["protocol"]) == (encoder, protocol)
            ]
            cells.append(f"{statistics.mean(values):.1f} ± {statistics.stdev(values):.1f}")
        lines.append(f"| {encoder} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main(seeds: tuple[int, ...] = (0, 1, 2), runs: Path | None = None) -> None:
    """Measure every seed.

    Args:
        seeds: Two or more.
        runs: Where to keep the run folders, each named by its seed; they are deleted if None.
    """
    flags, rows, evaluations = readme_flags(), [], []
    with tempfile.TemporaryDirectory() as temporary:
        folder = runs or Path(temporary)
        for seed in seeds:
            found, evaluation = measure(flags, seed, folder / str(seed))
            rows += found
            evaluations.append(evaluation)
            shown = (f"{r['encoder']}, {r['protocol']} {r['top1']};" for r in found)
            print(f"seed {seed}:", *shown, flush=True)
        publish(folder / str(seeds[0]), rows[0]["model"], evaluations)
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
