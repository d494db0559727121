"""k-NN while a run goes on: the accuracy of `knn` by hand, at no cost to the weights."""

import io

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Image, Value
from PIL import Image as PILImage
from runs import metrics, state, tiny

import effssl
from effssl.data import cache
from effssl.data.decode import BrokenImage, decode_image
from effssl.data.sources import load_source
from effssl.evaluation import knn
from effssl.seeding import seeded_generator
from effssl.training import online_knn


@pytest.fixture(autouse=True)
def cache_home(tmp_path, monkeypatch):
    monkeypatch.setattr(cache, "HF_HOME", str(tmp_path / "home"))


def by_hand(folder, dataset, split, most=5120):
    """Accuracy of the saved model on the rows that the seed 0 chooses, without the broken ones."""
    source = load_source(dataset, split, in_chans=1)
    rows = torch.randperm(source.num_images, generator=seeded_generator(0, "knn"))[:most].tolist()
    model = effssl.from_pretrained(folder)
    transform = effssl.create_transform(model)
    features, labels = [], []
    for row in rows:
        cells = source.dataset[row]
        try:
            image = torch.from_numpy(decode_image(cells["image"], 1, 37))
        except BrokenImage:
            continue
        features.append(model(transform(image).unsqueeze(0)))
        labels.append(cells[source.label_column])
    features, labels, voters = torch.cat(features), torch.tensor(labels), len(features) * 4 // 5
    parts = (features[:voters], labels[:voters], features[voters:], labels[voters:])
    return len(features), knn(*parts, k=min(20, voters))


@pytest.mark.parametrize("most", [5120, 150])
def test_the_accuracy_is_that_of_the_saved_model_on_held_out_images(tmp_path, monkeypatch, most):
    monkeypatch.setattr(online_knn, "IMAGES", most)
    data = {"split": "train[:200]", "batch_size": 100}
    folder = effssl.pretrain(tiny(tmp_path, knn_every=1, **data))
    images, expected = by_hand(folder, "fashion-mnist-sample", data["split"], most)
    assert images == min(200, most)
    assert metrics(tmp_path / "run")[-1]["knn"] == pytest.approx(expected)
    assert 10 < expected < 100  # of ten classes; a random network tells some apart


def test_measuring_leaves_the_run_as_it_would_be_without(tmp_path):
    states = []
    for every in (0, 1):
        folder = tmp_path / str(every)
        effssl.pretrain(tiny(folder, epochs=3, log_every=1, knn_every=every))
        lines = metrics(folder / "run")
        states.append((state(folder / "run", 15)["model"], [line["loss"] for line in lines]))
        assert sum("knn" in line for line in lines) == 3 * every
    (weights, losses), (measured_weights, measured_losses) = states
    assert losses == measured_losses
    assert any(name.endswith("running_mean") for name in weights)
    assert all(torch.equal(value, measured_weights[name]) for name, value in weights.items())


@pytest.mark.parametrize(
    "changes, steps",
    [
        ({"epochs": 3, "knn_every": 2}, [10, 15]),
        ({"epochs": 3, "knn_every": 2, "max_steps": 7}, [7]),
        ({"epochs": 4, "knn_every": 1, "max_steps": 12}, [5, 10, 12]),
        ({"epochs": 2, "knn_every": 10}, [10]),
        ({"epochs": 2, "knn_every": 0}, []),
    ],
)
def test_it_comes_every_so_many_epochs_and_at_the_end(tmp_path, caplog, changes, steps):
    with caplog.at_level("INFO", logger="effssl"):
        effssl.pretrain(tiny(tmp_path, log_every=2, **changes))
    found = {line["step"]: line["knn"] for line in metrics(tmp_path / "run") if "knn" in line}
    assert list(found) == steps
    assert all(0 <= accuracy <= 100 for accuracy in found.values())
    lines = [record.getMessage() for record in caplog.records]
    for step, accuracy in found.items():
        (line,) = [line for line in lines if line.startswith(f"step {step} of ")]
        assert f"k-NN {accuracy:.1f} %" in line


def parquet(file, labels, broken=(), kind=None):
    """Images of noise in a shade for each label, some of which are no images."""
    rng = np.random.default_rng(0)
    cells = []
    for i, label in enumerate(labels):
        shade = 40 * (label or 0) + 50
        pixels = rng.integers(shade, shade + 60, (16 + i % 3, 16), dtype=np.uint8)
        content = io.BytesIO()
        PILImage.fromarray(pixels).save(content, "PNG")
        cells.append({"bytes": b"none" if i in broken else content.getvalue(), "path": None})
    features = Features({"image": Image(), "label": kind or Value("int64")})
    Dataset.from_dict({"image": cells, "label": labels}, features=features).to_parquet(file)
    return str(file)


@pytest.mark.parametrize("cache_gb", [0.0, 10.0])
def test_broken_images_are_left_out(tmp_path, cache_gb):
    labels = [i % 3 for i in range(240)]
    data = parquet(tmp_path / "data.parquet", labels, broken=[7, 200])
    config = {"dataset": data, "split": "train", "batch_size": 120, "epochs": 1}
    folder = effssl.pretrain(tiny(tmp_path, workers=0, cache_gb=cache_gb, **config))
    images, expected = by_hand(folder, data, "train")
    assert images == 238
    (line,) = metrics(tmp_path / "run")
    assert line["broken"] == 2 and line["knn"] == pytest.approx(expected)


@pytest.mark.parametrize(
    "labels, kind",
    [
        ([-1] * 24, ClassLabel(names=["cat", "dog"])),
        ([-1] * 24, Value("int64")),
        ([0, 1, -1] * 8, Value("int64")),
        ([None] * 24, Value("int64")),
    ],
)
def test_data_without_labels_in_its_label_column_is_told_of_and_skipped(
    tmp_path, caplog, labels, kind
):
    data = parquet(tmp_path / "data.parquet", labels, kind=kind)
    config = {"dataset": data, "split": "train", "epochs": 1, "knn_every": 1}
    with pytest.raises(ValueError, match="label column 'label' holds"):
        effssl.pretrain(tiny(tmp_path, label_column="label", **config))
    assert not (tmp_path / "run").exists()
    with caplog.at_level("INFO", logger="effssl"):
        effssl.pretrain(tiny(tmp_path, **config))
    lines = [record.getMessage() for record in caplog.records]
    assert [line for line in lines if line.startswith("no k-NN accuracy: label column 'label'")]
    assert not any("knn" in line for line in metrics(tmp_path / "run"))


def test_streams_and_images_without_labels_have_none(tmp_path, image_folder):
    flat = tmp_path / "flat"
    flat.mkdir()
    for image in image_folder.rglob("*.png"):
        (flat / image.name).write_bytes(image.read_bytes())
    common = {"in_chans": 3, "preset": "cifar", "split": "train", "epochs": 1, "knn_every": 1}
    stream = {"dataset": str(image_folder), "streaming": True}
    for name, changes in {"flat": {"dataset": str(flat)}, "stream": stream}.items():
        effssl.pretrain(tiny(tmp_path / name, **common, **changes))
        assert not any("knn" in line for line in metrics(tmp_path / name / "run"))
    effssl.pretrain(tiny(tmp_path / "labelled", dataset=str(image_folder), **common))
    assert "knn" in metrics(tmp_path / "labelled" / "run")[-1]
