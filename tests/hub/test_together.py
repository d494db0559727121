"""A run, and what uses its folder meanwhile, each killed again and again: never a mix or a loss."""

import contextlib
import json
import random
import re
import threading
import time

import pytest
import torch
from forked import Forked
from safetensors.torch import load, load_file
from server import connect

import effssl
from effssl.cli import main
from effssl.hub._folder import read_training

FLAGS = (
    "--backbone test_resnet --img-size 32 --in-chans 1 --preset grey --projector-dim 16 --views 2 "
    "--batch-size 20 --split train[:40] --precision fp32 --cpu --evaluate-every 0 --log-every 1 "
    "--checkpoint-steps 1 --epochs 60"
).split()
WEIGHTS = ("model.safetensors", "projector.safetensors")


def pretrain(run):
    main(["pretrain", *FLAGS, "--output", run, "--resume"])


def evaluate(run):
    options = (
        "--cpu --protocols knn --seeds 0 --k 1 --train-split train[:40] --test-split test[:20]"
    )
    main(["evaluate", run, *options.split()])


def push(run, environment):
    connect(environment)
    main(["push", run, "org/together", "--license", "mit"])


def report(run):
    main(["report", run, "--images", "8"])


def features(run, output):
    options = f"--cpu --split test[:64] --batch-size 4 --output {output}"
    main(["features", run, *options.split()])


class Killed(threading.Thread):
    """Starts a command again and again, and kills it at a random moment; keeps what it says."""

    def __init__(self, log, kills, longest, function, *args):
        super().__init__()
        self.log, self.kills, self.longest = log, kills, longest
        self.function, self.args = function, args
        self.draw, self.killed, self.said, self.failure = random.Random(log.name), 0, [], None

    def run(self):
        try:
            while self.killed < self.kills:
                self.once()
        except BaseException as error:  # noqa: BLE001  told by the main thread
            self.failure = error

    def once(self):
        process = Forked(self.log, self.function, *self.args)
        end = time.monotonic() + self.draw.uniform(0, self.longest)
        while process.alive() and time.monotonic() < end:
            time.sleep(0.005)
        if process.alive():
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(9)
            process.wait()
            self.killed += 1
            return
        self.kills -= 1  # it came to its end, which counts as well
        assert process.wait() in (0, 2), process.log()
        if process.wait() == 2:
            last = process.log().strip().splitlines()[-1]
            assert last.startswith("effssl: error: "), process.log()
            self.said.append(last)


def published(hub):
    """Load what is in the repository, if it is there, by the sums in its own config.json."""
    repo = hub.repos.get("org/together")
    files = repo.at("main").files if repo is not None else {}
    if "config.json" not in files:
        return None
    said = json.loads(files["config.json"])["effssl"]["files"]
    for name in WEIGHTS:
        assert said[name]["sha256"] == files[name]
    return {n: load(hub.path_of("org/together", files[n]).read_bytes()) for n in WEIGHTS}


def whole(run):
    """The model folder loads, and its files belong together."""
    model = effssl.from_pretrained(run)
    assert model.backbone(torch.zeros(1, 1, 32, 32)).isfinite().all()
    read_training(run / "model")


@pytest.mark.parametrize("kills", [2, pytest.param(50, marks=pytest.mark.slow)])
def test_commands_on_one_folder_that_are_killed_never_mix_or_lose(tmp_path, hub, kills):
    run, alone = tmp_path / "run", tmp_path / "alone"
    main(["pretrain", *FLAGS, "--output", str(alone)])
    main(["pretrain", *FLAGS, "--output", str(run), "--max-minutes", "0.02"])
    environment = hub.environment(tmp_path / "home")
    output = tmp_path / "x.parquet"
    commands = {
        "pretrain": (pretrain, str(run)),
        "again": (pretrain, str(run)),
        "evaluate": (evaluate, str(run)),
        "push": (push, str(run), environment),
        "report": (report, str(run)),
        "features": (features, str(run), str(output)),
        "features-again": (features, str(run), str(output)),
    }
    longest = {"push": 5.0, "report": 5.0}  # or none would come to its end
    jobs = [
        Killed(tmp_path / f"{name}.log", kills, longest.get(name, 2.0), *command)
        for name, command in commands.items()
    ]
    for job in jobs:
        job.start()
    while any(job.is_alive() for job in jobs):
        whole(run)
        published(hub)
        time.sleep(0.2)
    for job in jobs:
        assert job.failure is None, (job.log.name, job.failure)
    assert_finished(run, alone, hub, environment, tmp_path)
    print({job.log.stem: (job.killed, sorted({clean(line) for line in job.said})) for job in jobs})


def clean(line):
    return re.sub(r"/\S+|\d+", "#", line)


def assert_finished(run, alone, hub, environment, tmp_path):
    """Each command comes to its end now, and gives what it gives on a folder left in peace."""
    pretrain(str(run))
    for name in WEIGHTS:
        assert all_equal(load_file(run / "model" / name), load_file(alone / "model" / name))
    evaluate(str(run))
    evaluate(str(alone))
    noted = [read_training(folder / "model")["evaluation"] for folder in (run, alone)]
    assert noted[0] == noted[1]
    Forked(tmp_path / "push.log", push, str(run), environment).result()
    assert all_equal(published(hub)["model.safetensors"], load_file(alone / "model" / WEIGHTS[0]))
    report(str(run))
    assert (run / "report.html").read_text().rstrip().endswith("</html>")
    features(str(run), str(tmp_path / "y.parquet"))
    left = {p.name for p in run.iterdir()} - {p.name for p in alone.iterdir()} - {"report.html"}
    assert not {name for name in left if not name.endswith((".lock", ".partial"))}


def all_equal(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[n], second[n]) for n in first)
