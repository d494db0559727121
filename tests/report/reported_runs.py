"""A tiny run that is reported: changed, and read back with its report."""

import json
import re

from effssl.atomic import write_json
from effssl.report import write_report
from effssl.report._notices import find_notices
from effssl.report._run import read_run

TINY = {
    "backbone": "test_resnet",
    "in_chans": 1,
    "img_size": 32,
    "preset": "grey",
    "projector_dim": 16,
    "views": 2,
    "batch_size": 8,
    "split": "train[:40]",
    "precision": "fp32",
    "cpu": True,
    "log_every": 1,
    "epochs": 3,
    "evaluate_every": 1,
}
EVALUATION = {
    "dataset": "<script>alert(1)</script>",
    "train_split": "train",
    "train_images": 1234,
    "test_split": "test",
    "test_images": 567,
    "of": "seeds",
    "seeds": {"k-NN 20": [0, 1], "finetune 100 %": [4, 5]},
    "protocols": {"k-NN 20": "k-NN of 20 neighbors", "finetune 100 %": "all weights are trained"},
    "top1": {
        "raw pixels": {"k-NN 20": [61.0, 63.0]},
        "pretrained": {"k-NN 20": [50.0, 52.0], "finetune 100 %": [80.0, 81.0]},
    },
    "top5": {"pretrained": {"k-NN 20": [91.0, 91.0]}},
    "spectrum": {},
}


def read(path):
    return path.read_text(encoding="utf-8")


def report(run, **options):
    return read(write_report(run, images=24, **options))


def evaluate(run, *evaluations):
    training = json.loads((run / "model" / "training.json").read_text())
    write_json(run / "model" / "training.json", training | {"evaluation": evaluations})


def metrics(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def write_metrics(run, lines, torn=""):
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + torn)


def change_config(run, **values):
    config = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps(config | values))


def section(text, name):
    return re.search(rf'<section id="{name}">(.*?)</section>', text, re.S)[1]


def notices(run, labeled=True):
    return find_notices(read_run(run), labeled=labeled)


def levels(run):
    return [notice.level for notice in notices(run)]
