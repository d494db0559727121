"""What a run sees: the same images and views for any number of processes, from any source."""

import json

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from datasets import Dataset, Features, Image
from forked import launch, results

import effssl
from effssl import MultiView, PretrainConfig
from effssl.data._loader import decode_size

TINY = {
    "backbone": "test_resnet",
    "img_size": 32,
    "preset": "cifar",
    "projector_dim": 16,
    "views": 2,
    "batch_size": 22,
    "precision": "fp32",
    "cpu": True,
}


def encoded(array, name):
    from io import BytesIO

    from PIL import Image as PILImage

    file = BytesIO()
    PILImage.fromarray(array).save(file, "PNG")
    return {"bytes": file.getvalue(), "path": name}


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """101 images of mixed sizes in uneven parquet shards; one of them is broken."""
    folder = tmp_path_factory.mktemp("shards")
    rng = np.random.default_rng(0)
    images = [
        encoded(rng.integers(0, 256, (30 + i % 4, 36 - i % 5, 3), np.uint8), f"{i:03}.png")
        for i in range(101)
    ]
    images[40]["bytes"] = images[40]["bytes"][:60]
    first = 0
    for shard, rows in enumerate((47, 3, 35, 16)):
        part = {"image": images[first : first + rows]}
        data = Dataset.from_dict(part, features=Features({"image": Image(decode=False)}))
        data.cast_column("image", Image()).to_parquet(folder / f"train-{shard}.parquet")
        first += rows
    return folder


def seen_views(shards, folder):
    """The views of each step that a process of a launch trains on, from maps and from a stream."""
    render = MultiView.render
    Accelerator.end_training = lambda self: None  # the second run needs the process group too
    seen = {"map": [], "stream": []}
    for name, views in seen.items():

        def record(*arguments, views=views, **more):
            views.append(render(*arguments, **more))
            return views[-1]

        MultiView.render = record
        config = TINY | {"dataset": str(shards), "output": str(folder / name)}
        effssl.pretrain(PretrainConfig(**config, epochs=2, streaming=name == "stream"))
    return seen


@pytest.fixture(scope="module")
def alone(shards, tmp_path_factory):
    return run(1, shards, tmp_path_factory.mktemp("alone"))


def run(processes, shards, folder):
    return results(launch(folder, processes, seen_views, shards, folder))


@pytest.mark.parametrize(
    "processes", [2, *(pytest.param(count, marks=pytest.mark.slow) for count in (3, 4))]
)
def test_processes_see_the_images_and_views_of_one(shards, alone, tmp_path, processes):
    together = run(processes, shards, tmp_path)
    for name, whole in alone[0].items():
        assert len(whole) == 8
        # the broken image makes its batch smaller, and is in a dropped one at most
        assert {views.shape[1] for views in whole} == {21, 22}
        for step, views in enumerate(whole):
            joined = torch.cat([part[name][step] for part in together], dim=1)
            torch.testing.assert_close(joined, views, atol=1e-5, rtol=0)


def test_cached_decoded_and_streamed_images_train_the_same_weights(shards, tmp_path):
    weights = []
    for name, flags in {
        "cached": {},
        "decoded": {"cache_gb": 0.0, "workers": 0},
        "by workers": {"cache_gb": 0.0, "workers": 2},
    }.items():
        config = PretrainConfig(
            dataset=str(shards),
            backbone="test_resnet",
            img_size=24,
            projector_dim=16,
            batch_size=20,
            epochs=1,
            preset="cifar",
            views=2,
            precision="fp32",
            cpu=True,
            output=str(tmp_path / name),
            **flags,
        )
        weights.append((effssl.pretrain(config) / "model.safetensors").read_bytes())
    assert weights[0] == weights[1] == weights[2]


def test_images_are_kept_a_little_larger_than_their_views():
    assert [decode_size(size) for size in (224, 96, 32)] == [256, 110, 37]


def test_a_broken_image_is_named_once_and_counted(shards, tmp_path, caplog):
    config = {
        "dataset": str(shards),
        "backbone": "test_resnet",
        "img_size": 24,
        "projector_dim": 16,
        "batch_size": 50,
        "preset": "cifar",
        "views": 2,
        "cpu": True,
        "log_every": 1,
    }
    effssl.pretrain(PretrainConfig(epochs=3, output=str(tmp_path / "run"), **config))
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    counts = [json.loads(line)["broken"] for line in lines]
    assert counts[-1] == 1 and counts == sorted(counts)
    assert sum("040.png" in record.getMessage() for record in caplog.records) == 1
