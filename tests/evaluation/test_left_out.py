"""Images that cannot be read or have no label: evaluations leave them out and say how many."""

import importlib
import io
import json
import os
from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Image, Value
from forked import launch, results
from PIL import Image as PILImage

import effssl
from effssl import PretrainConfig
from effssl.cli import main
from effssl.cli.evaluate import Evaluate
from effssl.cli.features import Features as Extract
from effssl.data import _cache as cache
from effssl.data import load_source
from effssl.data._broken import MAX_BROKEN
from effssl.evaluation import PROTOCOLS, evaluate, finetune, record
from effssl.evaluation._tables import details, left_out_lines
from effssl.hub import _folder
from effssl.hub._folder import read_training
from effssl.records import EvaluationRecord

tuning = importlib.import_module("effssl.evaluation.finetune")  # its function has the same name


@pytest.fixture(autouse=True)
def cache_home(tmp_path, monkeypatch):
    monkeypatch.setattr(cache, "HF_HOME", str(tmp_path / "home"))


def shades(file, count, broken=(), missing=(), without=(), first=0):
    """Noise in a shade for each of three classes; some are broken, unlabeled, or not there."""
    rng = np.random.default_rng(first)
    cells, labels = [], []
    for i in range(count):
        low = 40 * (i % 3) + 50
        content = io.BytesIO()
        PILImage.fromarray(rng.integers(low, low + 90, (20, 20), np.uint8)).save(content, "PNG")
        if i not in without:
            content = b"no image" if i in broken else content.getvalue()
            cells.append({"bytes": content, "path": f"{first + i}.png"})
            labels.append(None if i in missing else i % 3)
    features = Features({"image": Image(), "label": Value("int64")})
    Dataset.from_dict({"image": cells, "label": labels}, features=features).to_parquet(file)
    return load_source(str(file), in_chans=1)


def net():
    torch.manual_seed(0)
    model = effssl.create_model("test_resnet", in_chans=1, img_size=32, projector_dim=8)
    model.set_input(32, (0.5,), (0.5,))
    return model.eval()


def measured(train, test, **options):
    options = {"seeds": (0,), "preset": "grey", "shares": (1.0,), "epochs": 2} | options
    return evaluate(net(), train, test, **options)


def warnings_of(caplog):
    return [line.getMessage() for line in caplog.records if line.levelname == "WARNING"]


LOST = {"train": [3, 50], "test": [0, 20]}


@pytest.mark.parametrize("how", ["broken", "missing"])
def test_an_evaluation_is_that_of_the_other_images(tmp_path, how, caplog):
    train = shades(tmp_path / "a.parquet", 75, **{how: LOST["train"]})
    test = shades(tmp_path / "b.parquet", 45, **{how: LOST["test"]}, first=100)
    found = measured(train, test, protocols=PROTOCOLS, max_broken=0.05)
    said = warnings_of(caplog)
    if how == "broken":
        names = [f"{i}.png (row {row})" for i, row in ((3, 3), (50, 50), (100, 0), (120, 20))]
        assert sorted(said) == sorted(
            f"skipped a broken image: {name}: not an image of a known format" for name in names
        )
    else:
        assert said == [
            "left out 2 of 75 images of train, which have no label",
            "left out 2 of 45 images of test, which have no label",
        ]
    what = {"broken": "broken", "missing": "unlabeled"}[how]
    assert found.left_out == {"train": {what: 2}, "test": {what: 2}}

    caplog.clear()
    train = shades(tmp_path / "c.parquet", 75, without=LOST["train"])
    test = shades(tmp_path / "d.parquet", 45, without=LOST["test"], first=100)
    expected = measured(train, test, protocols=("knn", "linear", "spectrum"))
    assert expected.left_out == {} and not warnings_of(caplog)
    for name, row in expected.accuracy.items():
        for key, values in row.items():
            assert torch.equal(found.accuracy[name][key][0].confusion, values[0].confusion), key
    assert found.accuracy["pretrained"]["fine-tuned 100 %"][0].confusion.sum() == 43
    images = {"broken": 43, "missing": 45}[how]  # a spectrum needs no labels
    assert found.spectrum["features"].images == found.invariance["features"].images == images
    if how == "broken":
        rankme = expected.spectrum["features"].rankme
        assert found.spectrum["features"].rankme == pytest.approx(rankme, rel=1e-5)


def test_the_record_says_what_was_left_out_and_older_ones_are_read(tmp_path):
    train = shades(tmp_path / "a.parquet", 75, broken=[3], missing=[4, 5])
    test = shades(tmp_path / "b.parquet", 45, broken=[7])
    found = measured(train, test, protocols=("knn",))
    assert found.train_images == 72 and found.test_images == 44  # read, and with a label
    noted = record([found], dataset=None, train_split="train", test_split="test")
    kept = json.loads(json.dumps(noted.to_json()))
    assert kept["left_out"] == {"train": {"unlabeled": 2, "broken": 1}, "test": {"broken": 1}}
    assert EvaluationRecord.from_json(kept).to_json() == kept
    del kept["left_out"]
    older = EvaluationRecord.from_json(kept)
    assert older.to_json() == kept and older.same_images(noted)
    assert left_out_lines(older) == ""
    assert left_out_lines(noted).splitlines() == [
        "left out of train: 2 unlabeled, 1 broken images",
        "left out of test: 1 broken image",
    ]


def test_classes_are_those_of_the_same_name(tmp_path):
    train = named(shades(tmp_path / "a.parquet", 75), ["low", "mid", "high"])
    plain = named(shades(tmp_path / "b.parquet", 45, missing=[4]), ["low", "mid", "high"])
    other = named(plain, ["high", "low", "mid"])
    assert plain.labels()[:5] == [0, 1, 2, 0, -1] and other.labels()[:5] == [1, 2, 0, 1, -1]
    found, expected = (measured(train, test, protocols=("knn",)) for test in (other, plain))
    confusion = found.accuracy["pretrained"]["k-NN 5"][0].confusion
    assert torch.equal(confusion, expected.accuracy["pretrained"]["k-NN 5"][0].confusion)
    assert details(found, train)["class_names"] == ["low", "mid", "high"]


def named(source, names):
    """The same images with their classes, low, mid and high, numbered in another order."""
    order = [*map(names.index, ("low", "mid", "high")), None]
    labels = [order[label] for label in source.labels()]
    if isinstance(source.dataset.features["label"], ClassLabel):
        before = source.dataset.features["label"].names
        labels = [x if x < 0 else names.index(before[x]) for x in source.labels()]
    kind = Features(source.dataset.features | {"label": ClassLabel(names=names)})
    rows = source.dataset.remove_columns("label").add_column("label", labels).cast(kind)
    return replace(source, dataset=rows)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_more_broken_images_than_allowed_end_any_protocol(tmp_path, protocol):
    train = shades(tmp_path / "a.parquet", 75)
    test = shades(tmp_path / "b.parquet", 45, broken=range(5))
    with pytest.raises(ValueError, match="of the 45 images .* the 3 that max_broken 0.05 allows"):
        measured(train, test, protocols=(protocol,), max_broken=0.05)
    with pytest.raises(ValueError, match="max_broken is a share of the images, 0 to 1; got 5"):
        measured(train, test, protocols=(protocol,), max_broken=5)


def test_a_k_that_broken_images_leave_no_neighbors_for_is_left_out(tmp_path):
    """And the class whose only image is broken has no guesses, nor images of test."""
    train = shades(tmp_path / "a.parquet", 20, broken=[2], missing=[5, 8, 11, 14, 17])
    test = shades(tmp_path / "b.parquet", 12, missing=[2, 5, 8, 11])
    found = measured(train, test, protocols=("knn", "linear"), k=(5, 15))
    assert found.labels == [0, 1, 2] and list(found.protocols) == ["k-NN 5", "linear"]
    for row in found.accuracy.values():
        for values in row.values():
            assert values[0].confusion.shape == (3, 3) and values[0].confusion.sum() == 8


@pytest.mark.parametrize("cached", [True, False])
@pytest.mark.parametrize("batch_size", [2, 64])
def test_fine_tuning_goes_on_where_a_batch_has_one_image_or_none(
    tmp_path, monkeypatch, cached, batch_size
):
    if not cached:
        monkeypatch.setattr(tuning, "cache_images", lambda *arguments, **options: None)
    train = shades(tmp_path / "a.parquet", 24, broken=range(0, 24, 2))
    test = shades(tmp_path / "b.parquet", 12)
    model = effssl.create_model("test_resnet", in_chans=1, img_size=16).eval()
    found = finetune(model, train, test, epochs=3, batch_size=batch_size, max_broken=0.5)
    assert found.confusion.sum() == 12
    with pytest.raises(ValueError, match="max_broken 0.3 allows"):
        finetune(model, train, test, epochs=1, batch_size=batch_size, max_broken=0.3)


def numbers(folder):
    """Accuracies and spectra of a small evaluation with broken and unlabeled images."""
    torch.set_num_threads(1)
    data = [load_source(f"{folder}/{name}.parquet", in_chans=1) for name in "ab"]
    options = {"protocols": ("knn", "linear", "finetune", "spectrum"), "k": (5,), "epochs": 1}
    found = measured(*data, max_broken=0.05, **options)
    top1 = [row["k-NN 5"][0].top1 for row in found.accuracy.values()]
    images = found.accuracy["pretrained"]["fine-tuned 100 %"][0].confusion.sum()
    lost = sum(sum(row.values()) for row in found.left_out.values())
    rankme = found.spectrum["features"].rankme
    return torch.tensor([*top1, images, lost, rankme, found.invariance["features"].lidar])


def test_several_processes_leave_the_same_out(tmp_path):
    shades(tmp_path / "a.parquet", 75, broken=[3, 50], missing=[4])
    shades(tmp_path / "b.parquet", 45, broken=[0], missing=[9, 10])
    alone = numbers(tmp_path)
    assert alone[3:5].tolist() == [42, 6]
    for found in results(launch(tmp_path / "logs", 2, numbers, str(tmp_path))):
        torch.testing.assert_close(found, alone, rtol=1e-4, atol=1e-4)


# The commands


def test_every_command_allows_the_same_share_unless_told_otherwise():
    for command in (PretrainConfig, Evaluate, Extract):
        (field,) = [f for f in fields(command) if f.name == "max_broken"]
        assert field.default == MAX_BROKEN


@pytest.fixture
def model(tmp_path):
    effssl.save_pretrained(net(), tmp_path / "model")
    return tmp_path / "model"


def test_the_commands_leave_broken_images_out_and_say_so(model, tmp_path, capsys):
    shades(tmp_path / "a.parquet", 60, broken=[7], missing=[9, 10])
    flags = ["--dataset", f"{tmp_path}/a.parquet", "--cpu"]
    split = ["--test-split", "train[:30]", "--protocols", "knn", "--seeds", "0"]
    main(["evaluate", str(model), *flags, *split])
    shown = capsys.readouterr().out
    assert "left out of train: 2 unlabeled, 1 broken images\n" in shown
    (noted,) = read_training(model)["evaluation"]
    assert noted["left_out"]["test"] == {"unlabeled": 2, "broken": 1}

    output = tmp_path / "x.parquet"
    main(["features", str(model), "--output", str(output), *flags])
    assert capsys.readouterr().out == f"{output}\n" and output.is_file()
    for command in (["features", "--output", f"{tmp_path}/y.parquet"], ["evaluate"]):
        more = [*flags, "--max-broken", "0"]
        more += ["--test-split", "train"] if command == ["evaluate"] else []
        with pytest.raises(SystemExit, match="2"):
            main([command[0], str(model), *command[1:], *more])
        assert "1 of the 60 images cannot be read" in capsys.readouterr().err


def drop_rights(monkeypatch, folder):
    """Make a folder one that this process may not write to, as it writes the result."""
    folder.chmod(0o555)
    if os.geteuid():
        return
    add = _folder.add_evaluation

    def added(*arguments, **options):
        os.seteuid(65534)  # root may write anywhere
        try:
            add(*arguments, **options)
        finally:
            os.seteuid(0)

    monkeypatch.setattr(_folder, "add_evaluation", added)


def test_a_read_only_model_folder_gets_a_warning_after_the_table(
    model, tmp_path, capsys, monkeypatch
):
    before = {file.name: file.read_bytes() for file in model.iterdir()}
    tmp_path.chmod(0o755)
    drop_rights(monkeypatch, model)
    small = ["--dataset", "fashion-mnist-sample", "--protocols", "knn", "--seeds", "0", "--cpu"]
    splits = ["--train-split", "train[:40]", "--test-split", "test[:30]"]
    more = ["--json", str(tmp_path / "numbers.json")]
    main(["evaluate", str(model), *small, *splits, *more])
    shown = capsys.readouterr()
    assert "k-NN 20" in shown.out and "features = model(transform(image)[None])" in shown.out
    assert shown.err.splitlines()[-1] == (
        f"warning: {model} does not get the result: Permission denied"
    )
    assert "k-NN 20" in (tmp_path / "numbers.json").read_text()
    assert {file.name: file.read_bytes() for file in model.iterdir()} == before
