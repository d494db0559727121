"""Lines of a results table that nobody ran, for the tests of examples/reproduce."""

import dataclasses
import functools
import math

import effssl


def fields_of(config):
    """Return the fields of a configuration without its seed."""
    fields = dataclasses.asdict(config)
    del fields["seed"]
    return fields


def row(linear, seed=0, minutes=1.0, **fields):
    """Return a line with a configuration of these fields and this accuracy."""
    config = effssl.PretrainConfig(seed=seed, **fields)
    command = " ".join(["effssl pretrain", *config.flags()])
    return {"encoder": "pretrained", "command": command, "linear": linear, "minutes": minutes}


@functools.cache
def _plan(module, scale):
    return module.plan(scale, seeds=(0, 1))


def rows_of(reproduce, scale):
    """Return the lines of the whole plan of a scale, two seeds, and of what is beside it."""
    rows, of = [], {"scale": "cpu", "dataset": scale.reference.dataset}
    for config in _plan(reproduce.experiments, scale):
        views = config.views + 0.5 * config.local_views
        steps = config.max_steps or config.epochs * (scale.images // config.batch_size)
        accuracy = 40 + 2 * math.log2(steps * views) - 0.2 * math.log2(config.projector_dim)
        accuracy += 0.5 * config.seed - 5 * (config.loss == "spectral")
        found = {"linear": accuracy, "k-NN 20": accuracy - 3, "10-shot": 2 * accuracy - 80}
        found |= {"alpha": 100 / accuracy, "rankme": accuracy / 2, "lidar": accuracy / 3}
        found |= {"minutes": steps * views / 1000 * (1 + config.projector_dim / 1000)}
        names = {"encoder": "pretrained", "model": config.name, "seed": config.seed}
        command = reproduce.run.command(config)
        rows.append(of | names | found | {"epochs": config.epochs, "command": command})
    for seed in (0, 1):
        others = {"raw pixels": 40.0, "random weights": 38.0, "supervised": 80.0}
        for name, accuracy in others.items():
            found = {"linear": accuracy}
            if name != "supervised":
                found |= {"k-NN 20": accuracy, "10-shot": accuracy}
            rows.append(of | {"encoder": name, "model": "x", "seed": seed} | found)
        for epochs in (2, 4, 8):
            accuracy = 50 + epochs + seed
            found = {"linear": accuracy, "k-NN 20": accuracy, "10-shot": accuracy}
            found |= {"epochs": epochs, "minutes": epochs / 2, "command": f"x --epochs {epochs}"}
            rows.append(of | {"encoder": "lightly", "model": "x", "seed": seed} | found)
    return [{name: str(entry) for name, entry in line.items()} for line in rows]
