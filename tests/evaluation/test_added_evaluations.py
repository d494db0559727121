"""A second evaluation adds to the first: on the terminal, in files, in card and report."""

import json
import re

import numpy as np
import pytest
import torch
from PIL import Image

import effssl
from effssl.cli import main
from effssl.data import _cache as cache
from effssl.hub._card import compose_card
from effssl.hub._folder import load_folder, read_training
from effssl.hub._probe import check_probe

PROBE = "linear_probe.safetensors"
SMALL = ["--dataset", "fashion-mnist-sample", "--train-split", "train[:60]", "--cpu"]
SMALL += ["--test-split", "test[:50]"]


@pytest.fixture(autouse=True)
def cache_home(tmp_path, monkeypatch):
    monkeypatch.setattr(cache, "HF_HOME", str(tmp_path / "home"))


@pytest.fixture
def model(tmp_path):
    torch.manual_seed(0)
    net = effssl.create_model("test_resnet", in_chans=1, img_size=32, projector_dim=8)
    net.set_input(32, (0.5,), (0.5,))
    effssl.save_pretrained(net, tmp_path / "model")
    return tmp_path / "model"


def evaluate(model, *flags, data=SMALL):
    main(["evaluate", str(model), *data, *flags])
    return read_training(model)["evaluation"]


def rows(text):
    return [line.split("  ")[0] for line in text.splitlines() if re.search(r"\d\.\d\d$", line)]


def test_two_evaluations_are_both_shown_and_noted_and_the_probe_stays(model, tmp_path, capsys):
    flags = ["--seeds", "0", "1", "--json", str(tmp_path / "numbers.json")]
    (first,) = evaluate(model, "--protocols", "linear", "spectrum", *flags)
    before, shown = (model / PROBE).read_bytes(), capsys.readouterr().out
    assert rows(shown)[0] == "linear" and "k-NN" not in shown and "without labels" in shown
    (both,) = evaluate(model, "--protocols", "knn", "--k", "1", "5", *flags)
    shown = capsys.readouterr().out
    assert rows(shown)[:5] == ["linear", "k-NN 1", "k-NN 5", "chance", "majority class"]
    assert "without labels" in shown
    for encoder, row in first["top1"].items():
        assert both["top1"][encoder]["linear"] == row["linear"]
    for name in ("spectrum", "probe", "class_names"):
        assert both[name] == first[name]
    assert (model / PROBE).read_bytes() == before
    check_probe(model, load_folder(model))
    numbers = json.loads((tmp_path / "numbers.json").read_text())
    assert numbers["top1"] == both["top1"] and list(numbers["per_class"]) == ["k-NN 1", "k-NN 5"]
    assert {one["protocol"] for one in numbers["verdict"]} == {"linear", "k-NN 1", "k-NN 5"}
    card = compose_card(model, "org/m")
    for text in ("| linear |", "| k-NN 5 |", "| RankMe |", "`Ankle boot`"):
        assert text in card
    # and the same again is the same
    assert evaluate(model, "--protocols", "knn", "--k", "1", "5", *flags) == [both]


def test_what_differs_is_another_evaluation(model, capsys):
    knn = ["--protocols", "knn", "--k", "5", "--seeds"]
    evaluate(model, *knn, "0")
    (one,) = evaluate(model, *knn, "1", "2")
    assert len(one["top1"]["random weights"]["k-NN 5"]) == 3
    assert one["seeds"] == {"k-NN 5": [0, 1, 2]} and len(one["top1"]["raw pixels"]["k-NN 5"]) == 1
    two = evaluate(model, *knn, "0", "--temperature", "0.5")
    assert two[0] == one and "/ 0.5" in two[1]["protocols"]["k-NN 5"]
    three = evaluate(model, *knn, "0", "--precision", "bf16")
    assert three[:2] == two and three[2]["precision"] == "bf16"
    more = [*SMALL[:-1], "test[50:90]"]
    found = evaluate(model, *knn, "0", data=more)
    assert found[:3] == three and len(found) == 4
    assert compose_card(model, "org/m").count("Top-1 in percent") == 4


def test_a_private_folder_is_named_in_the_file_alone_and_classes_go_with_the_probe(
    model, tmp_path, capsys
):
    rng = np.random.default_rng(0)
    for split, count in (("train", 12), ("test", 6)):
        for i, name in enumerate(("cat", "d`o`g <b>")):
            (tmp_path / "secret" / split / name).mkdir(parents=True)
            for j in range(count - 2 * i):
                shade = rng.integers(100 * i, 100 * i + 150, (20, 20), np.uint8)
                Image.fromarray(shade).save(tmp_path / "secret" / split / name / f"{j}.png")
    data = ["--dataset", str(tmp_path / "secret"), "--cpu", "--seeds", "0"]
    data += ["--json", str(tmp_path / "numbers.json")]
    (found,) = evaluate(model, "--protocols", "knn", "--per-class", data=data)
    shown = capsys.readouterr().out
    assert re.search(r"^cat .*  6$", shown, re.M) and re.search(r"^d`o`g <b> .*  4$", shown, re.M)
    assert "class_names" not in found and "cat" not in json.dumps(found)
    numbers = json.loads((tmp_path / "numbers.json").read_text())
    assert numbers["dataset"] == str(tmp_path / "secret") and numbers["majority"] == 60.0
    assert numbers["class_names"] == ["cat", "d`o`g <b>"] and numbers["chance"] == 50.0
    (found,) = evaluate(model, "--protocols", "linear", data=data)
    assert found["class_names"] == ["cat", "d`o`g <b>"] and found["dataset"] is None
    assert "secret" not in json.dumps(found)
    card = compose_card(model, "org/m")
    assert "in order: `cat`, `d'o'g <b>`." in card and "secret" not in card
    assert "None" not in card.replace("[None]", "")
    assert "linear probe on a data set that is not published" in card
    main(["push", str(model), "org/m", "--dry-run"])  # which refuses nothing of it
