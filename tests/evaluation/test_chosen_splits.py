"""``effssl evaluate`` on folders as people have them: which images it measures on, and says so."""

import json

import numpy as np
import pytest
import torch
from datasets import Dataset, DatasetDict, Features, Value
from datasets import Image as Images
from PIL import Image

import effssl
from effssl.cli import main
from effssl.hub._card import compose_card
from effssl.hub._folder import read_record, read_training
from effssl.hub._publishable import check_publishable
from effssl.records import TrainingRecord

KNN = ["--protocols", "knn", "--k", "1", "--seeds", "0", "--baselines", "none", "--cpu"]
SPECTRUM = ["--protocols", "spectrum", "--cpu"]
SHARED = "train (80 %, stratified, seed 0)", "train (20 %, stratified, seed 0)"


@pytest.fixture
def model(tmp_path):
    torch.manual_seed(0)
    net = effssl.create_model("test_resnet", in_chans=1, img_size=32, projector_dim=8)
    effssl.save_pretrained(net, tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def photos(tmp_path):
    """Write images into folders, so many into each: noise on a gray of each class."""

    def write(**counts):
        rng = np.random.default_rng(0)
        for folder, count in counts.items():
            inner = tmp_path / "photos" / folder.replace("_", "/")
            inner.mkdir(parents=True)
            gray = 60 + 120 * (inner.name == "dog")
            for i in range(count):
                noise = rng.integers(0, 60, (32, 32), np.uint8)
                Image.fromarray(noise + np.uint8(gray)).save(inner / f"{i}.png")
        return str(tmp_path / "photos")

    return write


def evaluate(model, dataset, *flags, protocols=KNN):
    main(["evaluate", str(model), "--dataset", dataset, *protocols, *flags])
    return read_training(model)["evaluation"][-1]


def splits(noted):
    return noted["train_split"], noted["test_split"]


def refused(capsys, *arguments):
    with pytest.raises(SystemExit, match="2"):
        evaluate(*arguments)
    return capsys.readouterr().err.splitlines()[-1]


def test_a_split_test_is_measured_on_and_nothing_is_said(model, photos, capsys):
    data = photos(train_cat=4, train_dog=4, val_cat=3, val_dog=3, test_cat=2, test_dog=2)
    noted = evaluate(model, data)
    assert splits(noted) == ("train", "test") and noted["test_images"] == 4
    shown = capsys.readouterr().out
    assert shown.startswith(f"\n4 images of {data}, test\n"), shown
    title = next(line for line in shown.splitlines() if line.startswith("top-1 in percent"))
    assert title.split()[3:] == ["pretrained"]


def test_without_test_it_is_validation_whatever_that_is_called(model, photos, capsys):
    data = photos(train_cat=4, train_dog=4, val_cat=3, val_dog=3)
    assert splits(evaluate(model, data)) == ("train", "validation")
    assert capsys.readouterr().out.startswith("no split test: measured on validation\n")
    for name in ("val", "dev"):
        noted = evaluate(model, data, "--test-split", name)
        assert splits(noted) == ("train", "validation")
        assert len(read_training(model)["evaluation"]) == 1  # joined to the first
        assert "measured on" not in capsys.readouterr().out
    noted = evaluate(model, data, "--train-split", "val[:50%]+train")
    both = "validation[:50%]+train"  # validation is fitted to, and nothing else is left
    assert splits(noted) == (
        f"{both} (80 %, stratified, seed 0)",
        f"{both} (20 %, stratified, seed 0)",
    )


def test_a_test_without_labels_is_not_used(model, photos, capsys):
    data = photos(train_cat=4, train_dog=4, val_cat=3, val_dog=3, test=5)
    assert splits(evaluate(model, data)) == ("train", "validation")
    line = capsys.readouterr().out.splitlines()[0]
    assert line == "split test has no labels: measured on validation"


def test_a_test_whose_labels_are_minus_one_is_not_used(model, tmp_path, capsys):
    def rows(labels):
        images = [Image.new("L", (9, 9), 20 * i) for i in range(len(labels))]
        features = Features({"image": Images(), "label": Value("int64")})
        return Dataset.from_dict({"image": images, "label": labels}, features)

    data = DatasetDict(train=rows([0, 1] * 3), dev=rows([1, 0, -1]), test=rows([-1] * 4))
    data.save_to_disk(tmp_path / "disk")
    noted = evaluate(model, str(tmp_path / "disk"))
    assert splits(noted) == ("train", "dev") and noted["test_images"] == 2
    line = capsys.readouterr().out.splitlines()[0]
    assert line == "split test has no labels: measured on dev"


def test_one_folder_of_classes_is_split_by_class(model, photos, capsys):
    data = photos(cat=20, dog=10, rare=1)
    noted = evaluate(model, data)
    assert splits(noted) == SHARED
    assert (noted["train_images"], noted["test_images"], noted["classes"]) == (25, 6, 3)
    assert noted["top1"]["pretrained"]["k-NN 1"][0] > 80
    shown = capsys.readouterr().out
    assert shown.startswith(
        "no split test or validation with labels: measured on 20 % of every class of train and "
        "fitted to the rest (--test-share 0.2)\n"
    )
    assert f"6 images of {data}, train (20 %, stratified, seed 0)\n" in shown
    again = evaluate(model, data)
    assert again == noted  # merged, as the images are the same
    evaluated = read_record(model).evaluation
    assert [one.test_split for one in evaluated] == [SHARED[1]]


def test_the_share_can_be_given_even_where_there_is_a_test(model, photos, capsys):
    data = photos(train_cat=8, train_dog=8, test_cat=2, test_dog=2)
    noted = evaluate(model, data, "--test-share", "0.5")
    assert noted["train_images"] == noted["test_images"] == 8
    assert splits(noted) == ("train (50 %, stratified, seed 0)",) * 2
    assert "no split" not in capsys.readouterr().out


def test_flags_that_contradict_each_other_are_refused(model, photos, capsys):
    data = photos(cat=3, dog=3)
    line = refused(capsys, model, data, "--test-share", "0.5", "--test-split", "train")
    assert line.endswith("error: --test-share does not go with --test-split: leave one out")
    line = refused(capsys, model, data, "--test-share", "0.5", *SPECTRUM)
    assert "--test-share does not go with --protocols spectrum" in line
    line = refused(capsys, model, data, "--test-share", "1.5")
    assert "test-share must be above 0 and below 1, got 1.5" in line


def test_a_missing_split_is_told_with_its_flag_and_those_that_there_are(model, photos, capsys):
    data = photos(train_cat=4, train_dog=4, val_cat=3, val_dog=3)
    for flag in ("--train-split", "--test-split"):
        assert refused(capsys, model, data, flag, "test[:3]") == (
            f"effssl: error: data set {data!r} has no split 'test', only train, validation: give "
            f"another name with {flag}"
        )
    with pytest.raises(SystemExit, match="2"):
        main(["features", str(model), "--dataset", data, "--split", "x", "--output", "x.parquet"])
    assert capsys.readouterr().err.strip().endswith("validation: give another name with --split")


def test_a_spectrum_is_measured_on_what_there_is(model, photos, capsys):
    data = photos(train=6, val=5)
    noted = evaluate(model, data, protocols=SPECTRUM)
    assert splits(noted) == (None, "validation") and noted["test_images"] == 5
    assert capsys.readouterr().out.startswith("no split test: measured on validation\n")


def test_a_spectrum_of_images_without_splits_needs_no_flag(model, photos, capsys):
    data = photos(a=6)
    assert splits(evaluate(model, data, protocols=SPECTRUM)) == (None, "train")
    line = capsys.readouterr().out.splitlines()[0]
    assert line == "no split test or validation: measured on train"


def test_such_a_record_is_published_and_its_card_names_the_split(model, photos, tmp_path):
    evaluate(model, photos(cat=10, dog=10), "--baselines", "random")
    check_publishable(model, model)
    card = compose_card(model, "me/x")
    assert "(train (20 %, stratified, seed 0))" in card
    training = read_training(model)
    training["evaluation"][0]["test_split"] = "train (20 %, stratified, seed 0) /home/me"
    (model / "training.json").write_text(json.dumps(training))
    with pytest.raises(ValueError, match="test_split"):
        check_publishable(model, model)


def test_a_run_keeps_its_baselines_beside_the_model_and_publishes_none(
    model, photos, tmp_path, capfd
):
    run = tmp_path / "run"
    run.mkdir()
    model.rename(run / "model")
    data = photos(cat=10, dog=10)
    effssl.PretrainConfig(dataset=data, output=str(run)).save(run / "config.json")
    for flags in (["--baselines", "all"], ["--baselines", "raw"]):
        main(["evaluate", str(run), *KNN[:6], "--cpu", *flags])
    assert "baselines.json" not in {file.name for file in (run / "model").iterdir()}
    kept = json.loads((run / "baselines.json").read_text())["measured"]
    assert sorted(one["encoder"] for one in kept.values()) == [
        "random weights",
        "raw pixels",
    ]
    (noted,) = TrainingRecord.from_json(read_training(run / "model")).evaluation
    assert list(noted.top1) == ["raw pixels", "random weights", "pretrained"]
    capfd.readouterr()
    main(["push", str(run), "me/x", "--dry-run"])
    assert "baselines.json" not in capfd.readouterr().out


def test_images_without_labels_are_told_with_what_to_do(model, photos, capsys):
    line = refused(capsys, model, f"{photos(flat=4)}/flat")
    assert "have no labels: give labeled ones with --dataset" in line
    assert "--protocols spectrum --test-split train" in line
