"""Looks at features while a run goes on: as `knn` and `spectrum` by hand, at no cost to weights."""

import io
import json

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Image, Value
from forked import launch, results
from PIL import Image as PILImage
from runs import metrics, state, tiny

import effssl
from effssl.data import _cache as cache
from effssl.data._decode import BrokenImage, decode_image
from effssl.data._loader import DecodedImages
from effssl.data.sources import load_source
from effssl.distributed import join
from effssl.evaluation import knn, spectrum
from effssl.seeding import seeded_generator
from effssl.training import _online_evaluation as online_evaluation


@pytest.fixture(autouse=True)
def cache_home(tmp_path, monkeypatch):
    monkeypatch.setattr(cache, "HF_HOME", str(tmp_path / "home"))


def by_hand(folder, dataset, split, most=5120, labeled=False):
    """Accuracy, and features, of the saved model on the rows of seed 0 without the broken ones."""
    source = load_source(dataset, split, in_chans=1)
    rows = torch.randperm(source.num_images, generator=seeded_generator(0, "knn"))[:most].tolist()
    model = effssl.from_pretrained(folder)
    transform = effssl.create_transform(model)
    features, labels = [], []
    for row in rows:
        cells = source.dataset[row]
        if labeled and cells["label"] in (-1, None):
            continue
        try:
            image = torch.from_numpy(decode_image(cells["image"], 1, 37))
        except BrokenImage:
            continue
        features.append(model(transform(image).unsqueeze(0)))
        labels.append(cells[source.label_column])
    features, labels, voters = torch.cat(features), torch.tensor(labels), len(features) * 4 // 5
    parts = (features[:voters], labels[:voters], features[voters:], labels[voters:])
    k = min(20, voters)
    return len(features), knn(*parts, k=(k,))[k].top1, features


@pytest.mark.parametrize("most", [5120, 150])
def test_the_accuracy_is_that_of_the_saved_model_on_held_out_images(tmp_path, monkeypatch, most):
    monkeypatch.setattr(online_evaluation, "IMAGES", most)
    data = {"split": "train[:200]", "batch_size": 100}
    folder = effssl.pretrain(tiny(tmp_path, evaluate_every=1, **data))
    images, expected, features = by_hand(folder, "fashion-mnist-sample", data["split"], most)
    assert images == min(200, most)
    line = metrics(tmp_path / "run")[-1]
    assert line["knn"] == pytest.approx(expected)
    assert 10 < expected < 100  # of ten classes; a random network tells some apart
    projections = effssl.from_pretrained(folder).projector(features)
    for name, x in {"features": features, "projections": projections}.items():
        found, wanted = line["spectrum"][name], spectrum(x).record()
        assert found.keys() == wanted.keys() and found["images"] == images
        assert found["eigenvalue"][:8] == pytest.approx(wanted["eigenvalue"][:8], rel=1e-2)
        assert found["rankme"] == pytest.approx(wanted["rankme"], rel=1e-2)
        assert line[f"{name[:-1]}_alpha"] == found["alpha"]


def test_measuring_leaves_the_run_as_it_would_be_without(tmp_path):
    states = []
    for every in (0, 1):
        folder = tmp_path / str(every)
        effssl.pretrain(tiny(folder, epochs=3, log_every=1, evaluate_every=every))
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
        ({"epochs": 3, "evaluate_every": 2}, [10, 15]),
        ({"epochs": 3, "evaluate_every": 2, "max_steps": 7}, [7]),
        ({"epochs": 4, "evaluate_every": 1, "max_steps": 12}, [5, 10, 12]),
        ({"epochs": 2, "evaluate_every": 10}, [10]),
        ({"epochs": 2}, [5, 10]),
        ({"epochs": 2, "evaluate_every": 0}, []),
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
    images, expected, _ = by_hand(folder, data, "train")
    assert images == 238
    (line,) = metrics(tmp_path / "run")
    assert line["broken"] == 2 and line["knn"] == pytest.approx(expected)


@pytest.mark.parametrize(
    "labels, kind",
    [
        ([-1] * 24, ClassLabel(names=["cat", "dog"])),
        ([-1] * 24, Value("int64")),
        ([None] * 24, Value("int64")),
    ],
)
def test_data_without_labels_in_its_label_column_is_told_of_and_skipped(
    tmp_path, caplog, labels, kind
):
    data = parquet(tmp_path / "data.parquet", labels, kind=kind)
    config = {"dataset": data, "split": "train", "epochs": 1, "evaluate_every": 1}
    with pytest.raises(ValueError, match="label column 'label' holds"):
        effssl.pretrain(tiny(tmp_path, label_column="label", **config))
    assert not (tmp_path / "run").exists()
    with caplog.at_level("INFO", logger="effssl"):
        effssl.pretrain(tiny(tmp_path, **config))
    lines = [record.getMessage() for record in caplog.records]
    assert [line for line in lines if line.startswith("no k-NN accuracy: label column 'label'")]
    assert not any("knn" in line for line in metrics(tmp_path / "run"))


@pytest.mark.parametrize("missing", [-1, None])
def test_images_without_a_label_have_no_part_in_the_accuracy(tmp_path, caplog, missing):
    labels = [missing if i % 4 == 3 else i % 3 for i in range(80)]
    data = parquet(tmp_path / "data.parquet", labels)
    config = {"dataset": data, "split": "train", "epochs": 1, "evaluate_every": 1}
    with caplog.at_level("INFO", logger="effssl"):
        folder = effssl.pretrain(tiny(tmp_path, label_column="label", **config))
    said = "k-NN accuracy leaves out 20 of 80 images, which have no label"
    assert said in [record.getMessage() for record in caplog.records]
    line = metrics(tmp_path / "run")[-1]
    assert line["spectrum"]["features"]["images"] == 80
    assert line["knn"] == pytest.approx(by_hand(folder, data, "train", labeled=True)[1])


def test_images_that_all_cannot_be_read_are_not_measured(caplog):
    source = load_source(split="train[:30]", in_chans=1)

    class Broken(DecodedImages):
        def __getitems__(self, indices):
            return [BrokenImage("torn") for _ in indices]

    model = effssl.create_model("test_resnet", in_chans=1, img_size=32)
    look = online_evaluation.OnlineEvaluation(source, Broken(source, 37), 0, labeled=True)
    assert look(model, torch.device("cpu")) == {}
    assert "features were not measured" in caplog.text


def test_images_of_one_class_are_told_of_and_have_a_spectrum(tmp_path, caplog):
    data = parquet(tmp_path / "data.parquet", [0] * 24)
    with caplog.at_level("INFO", logger="effssl"):
        effssl.pretrain(tiny(tmp_path, dataset=data, split="train", epochs=1))
    assert "no k-NN accuracy: all 24 images of train are of class 0" in caplog.text
    assert "spectrum" in metrics(tmp_path / "run")[-1]


def test_features_that_are_not_finite_do_not_stop_a_run(caplog):
    source = load_source(split="train[:30]", in_chans=1)
    images = DecodedImages(source, 37)
    model = effssl.create_model("test_resnet", in_chans=1, img_size=32)
    with torch.no_grad():
        next(model.backbone.parameters()).fill_(float("inf"))
    look = online_evaluation.OnlineEvaluation(source, images, 0, labeled=True)
    assert look(model.train(), torch.device("cpu")) == {} and model.training
    assert "features were not measured: the features are not finite" in caplog.text


def look():
    """What a look finds, in batches of 64; on a process that is not the first, nothing."""
    online_evaluation._BATCH = 64
    torch.set_num_threads(1)
    join(cpu=True)
    source = load_source(split="train[:150]", in_chans=1)
    rows = []

    class Noted(DecodedImages):
        def __getitems__(self, indices):
            rows.extend(indices)
            images = super().__getitems__(indices)
            return [
                BrokenImage("") if row % 7 == 0 else x
                for row, x in zip(indices, images, strict=True)
            ]

    torch.manual_seed(0)
    model = effssl.create_model("test_resnet", in_chans=1, img_size=32, projector_dim=8)
    found = online_evaluation.OnlineEvaluation(source, Noted(source, 37), 0, labeled=True)(
        model, torch.device("cpu")
    )
    return {"rows": rows, "found": json.dumps(found)}


def test_processes_share_the_images_and_find_the_same(tmp_path):
    (alone,) = results(launch(tmp_path / "1", 1, look))
    assert len(alone["rows"]) == 150 and "knn" in alone["found"]
    assert json.loads(alone["found"])["spectrum"]["features"]["images"] < 150
    for processes in (2, 4):  # of which the last has more processes than batches
        first, *others = results(launch(tmp_path / str(processes), processes, look))
        assert first["found"] == alone["found"]
        assert all(other["found"] == "{}" for other in others)
        assert sum((part["rows"] for part in (first, *others)), []) == alone["rows"]


def test_features_are_computed_in_the_precision_of_the_run(tmp_path):
    source = load_source(split="train[:30]", in_chans=1)
    model = effssl.create_model("test_resnet", in_chans=1, img_size=32, projector_dim=8)
    seen = []
    model.projector.register_forward_hook(lambda _, args, out: seen.append(out.dtype))
    look = online_evaluation.OnlineEvaluation(source, DecodedImages(source, 37), 0, labeled=False)
    look(model, torch.device("cpu"), lambda: torch.autocast("cpu", torch.bfloat16))
    effssl.pretrain(tiny(tmp_path, epochs=1, precision="bf16"))
    assert seen == [torch.bfloat16] and "spectrum" in metrics(tmp_path / "run")[-1]


def test_a_class_that_nobody_votes_for_is_not_asked_about():
    source = load_source(split="train[:30]", in_chans=1)
    look = online_evaluation.OnlineEvaluation(source, DecodedImages(source, 37), 0, labeled=True)
    features = torch.eye(4)[[0, 1, 0, 1, 0, 1, 0, 1, 2, 1]]
    labels = torch.tensor([0, 1, 0, 1, 0, 1, 0, 1, 2, 1])
    assert look._knn(features, labels) == {"knn": 100.0}  # of the one image of class 1
    assert look._knn(features, torch.tensor([0] * 9 + [1])) == {}


def test_streams_and_images_without_labels_have_none(tmp_path, image_folder):
    flat = tmp_path / "flat"
    flat.mkdir()
    for image in image_folder.rglob("*.png"):
        (flat / image.name).write_bytes(image.read_bytes())
    common = {"in_chans": 3, "preset": "cifar", "split": "train", "epochs": 1, "evaluate_every": 1}
    stream = {"dataset": str(image_folder), "streaming": True}
    for name, changes in {"flat": {"dataset": str(flat)}, "stream": stream}.items():
        effssl.pretrain(tiny(tmp_path / name, **common, **changes))
        lines = metrics(tmp_path / name / "run")
        assert not any("knn" in line for line in lines)
        assert ("spectrum" in lines[-1]) == (name == "flat")
    effssl.pretrain(tiny(tmp_path / "labeled", dataset=str(image_folder), **common))
    assert "knn" in metrics(tmp_path / "labeled" / "run")[-1]
