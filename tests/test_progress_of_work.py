"""What takes long is counted to its end, by a stage with a title."""

import tarfile

import numpy as np
import pytest
import torch
from datasets import Dataset
from PIL import Image

import effssl
from effssl import progress
from effssl.data import _archives, _cache, _digest
from effssl.data._cache import cache_images
from effssl.data._loader import BatchShard
from effssl.data._stream import StreamBatches
from effssl.data.sources import load_source
from effssl.evaluation import fewshot, finetune
from effssl.evaluation.features import extract_features


@pytest.fixture
def stages(monkeypatch, tmp_path):
    """Title, units done and total of every stage that was shown, in the order of their ends."""
    for module in (_cache, _archives, _digest):
        monkeypatch.setattr(module, "HF_HOME", str(tmp_path / "home"))
    ended = []

    def remove(stage):
        ended.append((progress._title(), stage.done, stage.total))
        removed(stage)

    removed = progress._remove
    monkeypatch.setattr(progress, "_remove", remove)
    return ended


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    for i in range(12):
        path = folder / "ab"[i % 2] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((8, 8), 20 * i, np.uint8)).save(path)
    return folder


def model():
    torch.manual_seed(0)
    return effssl.create_model("test_resnet", projector_dim=8, in_chans=1, img_size=32).eval()


def test_a_folder_is_looked_through_and_decoded(photos, stages):
    source = load_source(photos, in_chans=1)
    assert stages == [("look for images", 14, None)]  # folders count
    cache_images(source, 8, max_bytes=1e9, workers=0)
    assert stages[1:] == [("list the images", 12, 12), ("decode", 12, 12)]


def test_an_archive_is_copied(photos, tmp_path, stages):
    with tarfile.open(tmp_path / "photos.tar.gz", "w:gz") as archive:
        archive.add(photos, "photos")
    load_source(tmp_path / "photos.tar.gz", in_chans=1)
    assert ("copy photos.tar.gz", 12, None) in stages


def test_the_content_of_rows_is_read_to_recognize_them(stages):
    rows = Dataset.from_dict({"image": [[[i] * 8] * 8 for i in range(12)]})
    load_source(rows, in_chans=1, image_column="image").digest()
    assert ("read the images to recognize them later", 12, 12) in stages


def test_few_labels_are_counted_by_draws(stages):
    data = torch.eye(6).repeat(4, 1), torch.arange(24) % 6
    fewshot(*data, *data, shots=(1, 2), episodes=5, progress=True)
    assert stages == [("few labels", 10, 10)]


def test_a_stream_is_counted_and_read_again(photos, stages):
    rows = load_source(photos, in_chans=1).dataset.to_iterable_dataset(num_shards=2)
    source = load_source(rows, in_chans=1)
    del stages[:]
    batches = StreamBatches(source, BatchShard(4), 0, short_side=8)
    assert stages == [("count the stream", 12, None)]
    batches.first = 2
    assert len(list(batches)) == 1
    assert stages[1:] == [("read the first images of the epoch again", 8, 8)]


def test_features_are_counted_if_asked_for(photos, tmp_path, stages):
    source = load_source(photos, in_chans=1)
    del stages[:]
    extract_features(model(), source, batch_size=5)
    assert stages == []
    extract_features(model(), source, batch_size=5, progress=True)
    assert stages == [("features", 12, 12)]
    output = tmp_path / "features.safetensors"
    extract_features(model(), source, batch_size=5, progress=True, output=output)
    assert [stage for stage in stages if "list" not in stage[0]][1:] == [
        ("features", 12, 12),
        ("write features.safetensors", 0, None),
    ]


def test_steps_of_fine_tuning_and_images_of_its_test_are_counted(photos, stages):
    source = load_source(photos, in_chans=1)
    del stages[:]
    finetune(model(), source, source, epochs=2, batch_size=4, progress=True)
    assert [stage for stage in stages if stage[0] in ("fine-tune 1", "features")] == [
        ("fine-tune 1", 8, 8),
        ("features", 12, 12),
    ]


def test_pretraining_shows_what_comes_before_the_first_step_and_its_own_evaluations(
    photos, tmp_path, stages
):
    config = effssl.PretrainConfig(
        **{"backbone": "test_resnet", "in_chans": 1, "img_size": 32, "preset": "grey"},
        **{"projector_dim": 8, "views": 2, "batch_size": 4, "epochs": 1, "cpu": True},
        dataset=str(photos),
        output=str(tmp_path / "run"),
    )
    effssl.pretrain(config)
    assert [stage for stage in stages if "list" not in stage[0]] == [
        ("open the data set: look for images", 14, None),
        ("open the data set", 0, None),
        ("create test_resnet", 0, None),
        ("decode", 12, 12),
        ("k-NN accuracy before training", 12, 12),
        ("pretrain: evaluate the features", 12, 12),
        ("pretrain", 3, 3),
    ]
