"""The model card: its lines of code run, its numbers are those of the files, and none is stale."""

import contextlib
import csv
import dataclasses
import getpass
import io
import json
import os
import re
import runpy
import shlex
import shutil
import socket
import statistics
from pathlib import Path

import pytest
import torch
import tyro
from clients import client
from huggingface_hub import ModelCard
from PIL import Image

import effssl
from effssl import PretrainConfig
from effssl.cli import main
from effssl.data import load_source
from effssl.evaluation import evaluate, record
from effssl.evaluation._difference import differences
from effssl.hub._card import compose_card, write_card
from effssl.hub._folder import add_evaluation, build_sketch, read_training
from effssl.hub._model_config import read_config
from effssl.hub.push import prepare
from effssl.records import EvaluationRecord

CARDS = Path(__file__).parents[2] / "model_cards"
MODELS = runpy.run_path(CARDS / "write_cards.py")["models"]()


def sections(card):
    """The text under each heading."""
    parts = re.split(r"^## (.*)$", card, flags=re.M)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


# --- of models that this repository makes


def test_the_list_of_models_is_not_stale():
    assert len(MODELS) >= 2
    list_of_models = runpy.run_path(CARDS / "write_cards.py")["list_of_models"]
    assert (CARDS / "README.md").read_text() == list_of_models()


@pytest.mark.parametrize("folder", MODELS, ids=lambda folder: folder.name)
def test_no_card_is_stale(folder):
    made = compose_card(folder, f"org/{folder.name}")
    assert (folder / "README.md").read_text() == made
    for figure in re.findall(r"!\[.*\]\((.*)\)", made):
        with Image.open(folder / figure) as image:
            assert image.width > 400


@pytest.mark.parametrize("folder", MODELS, ids=lambda folder: folder.name)
def test_a_card_passes_the_checks_of_the_hub_and_says_what_the_results_say(folder):
    card = ModelCard.load(folder / "README.md")
    config, training = read_config(folder), read_training(folder)
    assert card.data.library_name == "timm" and card.data.license == "apache-2.0"
    assert card.data.pipeline_tag == "image-feature-extraction"
    assert {"timm", "transformers", "effssl"} <= set(card.data.tags)
    rows = rows_of(training)
    (evaluation,) = training["evaluation"]
    for encoder, protocols in evaluation["top1"].items():
        for protocol, values in protocols.items():
            protocol = protocol.replace("-shot linear", "-shot")  # a column of results.csv
            if protocol not in rows[0]:  # which has some of the few-shot protocols
                assert "-shot" in protocol
                continue
            found = [float(row[protocol]) for row in rows if row["encoder"] == encoder]
            same = min(len(found), len(values))  # one of several seeds of a training or evaluation
            assert same and found[:same] == values[:same]
    results = {result.metric_name: result.metric_value for result in card.data.eval_results}
    means = {k: statistics.mean(v) for k, v in evaluation["top1"]["pretrained"].items()}
    assert list(results.values()) == pytest.approx(list(means.values()), abs=0.006)
    views = {row["views_seen"] for row in rows if row["encoder"] == "pretrained"}
    assert views == {str(training["views_seen"])}

    # every number in it is in the files, but for means, deviations and sizes of the structure
    known = json.dumps([json.loads((folder / n).read_text()) for n in ("config.json",)])
    known += json.dumps({k: v for k, v in training.items() if k != "history"}) + folder.name
    allowed = set(numbers(known)) | {"10", "3"}  # a tenth of the run; seeds
    record = EvaluationRecord.from_json(evaluation)
    for encoder, row in evaluation["top1"].items():
        for protocol, values in row.items():
            shown = f"{statistics.mean(values):.1f} {statistics.stdev(values):.1f}"
            if "-shot" in protocol:  # whose interval tests/evaluation/test_fewshot_protocol.py has
                shown = record.cell(encoder, protocol)
            allowed |= set(numbers(shown))
    for one in differences(record):
        shown = (one.points, one.low, one.high, one.sampling, one.seeds)
        allowed |= set(numbers(" ".join(f"{value:.1f}" for value in shown)))
    allowed |= {"95"}  # of intervals, in percent
    sketch = build_sketch(config)
    for module in sketch.children():
        allowed.add(str(sum(p.numel() for p in module.parameters())))
    shown = sections(card.text)
    text = "".join(shown[name] for name in ("Facts", "Evaluation", "Training", "Limits"))
    found = numbers(text.replace("from 0 to 1", ""))
    assert len(found) > 40 and set(found) <= allowed, set(found) - allowed


def rows_of(training):
    """Lines of results.csv of the same configuration with any seed, and of its baselines."""
    config = PretrainConfig(**training["config"])
    config = dataclasses.replace(config, seed=0, resume=False)
    with open(CARDS / "results.csv", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["dataset"] == config.dataset]
    rows = [row for row in rows if row["scale"] != "choice"]  # which is measured on other images
    found = [row for row in rows if row["model"] == config.backbone]
    for row in rows:
        if row["encoder"] == "pretrained":
            made = tyro.cli(PretrainConfig, args=shlex.split(row["command"])[2:])
            found += [row] * (dataclasses.replace(made, seed=0) == config)
    return found


def numbers(text):
    found = re.findall(r"\d+(?:,\d{3})*(?:\.\d+)*", text)
    return [re.sub(r"\.0$", "", number.replace(",", "")) for number in found]


# --- of any model


as_record = EvaluationRecord.from_json


def save(folder, backbone="test_resnet", in_chans=3, training=None):
    model = effssl.create_model(backbone, in_chans=in_chans, projector_dim=8, img_size=32)
    effssl.save_pretrained(model, folder, training=training)
    return folder


def run_snippets(cards, folder):
    """What each card's lines of Python print."""
    os.chdir(folder)
    Image.effect_noise((50, 40), 80).save("image.png")
    printed = []
    for card in cards:
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            for code in re.findall(r"```python\n(.*?)```", card, re.S):
                exec(code, {})
        printed.append(out.getvalue().splitlines())
    return printed


def test_the_lines_of_code_print_what_the_card_says(tmp_path, hub):
    models = {
        "rgb": {},
        "grey": {"in_chans": 1},
        "five": {"in_chans": 5},
        "small": {"backbone": "resnet18_cifar"},
    }
    cards = []
    for name, arguments in models.items():
        folder = save(tmp_path / name, **arguments)
        write_card(folder, compose_card(folder, f"org/card-{name}"))
        hub.add_repo(f"org/card-{name}", folder)
        cards.append((folder / "README.md").read_text())
    assert "import effssl.backbones" in cards[3] and "import effssl.backbones" not in cards[0]
    printed = client(tmp_path, hub, run_snippets, cards, tmp_path)
    for card, lines in zip(cards, printed, strict=True):
        said = re.findall(r"print\(.*\)  # (.*)$", card, re.M)
        assert lines == said and len(said) >= 5


def test_a_section_without_facts_is_left_out(tmp_path):
    write_card(tmp_path / "m", compose_card(save(tmp_path / "m"), "org/m"))
    card = (tmp_path / "m" / "README.md").read_text()
    assert list(sections(card)) == ["Use", "Facts", "Limits", "Citation"]
    assert "It was trained on" not in card
    assert not re.search(r"\bNone\b(?!\])|null|TODO|More Information|\bnan\b", card)
    assert not (tmp_path / "m" / "loss.png").exists()


def trained(tmp_path, images, monkeypatch):
    """The model folder of a short run on images of this machine, evaluated."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(images, tmp_path / "secret" / "photos")
    flags = "--backbone test_resnet --img-size 32 --preset cifar --projector-dim 16 --views 2 "
    flags += "--batch-size 8 --max-steps 4 --log-every 1 --precision fp32 --cpu --evaluate-every 0"
    main(["pretrain", *flags.split(), "--dataset", "secret/photos", "--output", "runs/mine"])
    main(
        [
            "evaluate",
            "runs/mine",
            "--test-split",
            "train",
            "--protocols",
            "knn",
            "spectrum",
            "--cpu",
        ]
    )
    return tmp_path / "runs" / "mine" / "model"


def test_nothing_of_this_machine_is_published(tmp_path, image_folder, monkeypatch, capsys):
    folder = trained(tmp_path, image_folder, monkeypatch)
    capsys.readouterr()
    main(["push", "runs/mine", "org/mine", "--dry-run", "--license", "mit"])
    shown = capsys.readouterr().out
    names = [line.split()[-1] for line in shown.splitlines()[:-1]]
    assert [Path(name).name for name in names] == [
        *("config.json", "model.safetensors", "projector.safetensors", "training.json"),
        *("README.md", "loss.png", "spectrum.png"),
    ]
    secrets = ["secret", "photos", "runs", getpass.getuser(), socket.gethostname()]
    for name in names:
        content = Path(name).read_bytes()
        if name.endswith((".safetensors", ".png")):  # in which two letters mean nothing
            assert str(tmp_path).encode() not in content
            continue
        text = content.decode()
        assert str(tmp_path) not in text, name
        for secret in secrets:
            assert not re.search(rf"\b{re.escape(secret)}\b", text), (name, secret)
    training = read_training(folder)
    assert training["config"]["dataset"] is None and training["images"] == 24
    assert training["images_seen"] == 32 and training["views_seen"] == 64
    assert training["history"]["step"] == [1, 2, 3, 4]
    card = Path(names[4]).read_text()
    assert "24 images of a data set that is not published" in card and "Weights: mit." in card
    # and a push by any way that did get a path into it is refused
    for place in ("command", "hardware"):
        broken = shutil.copytree(folder, tmp_path / place)
        values = training | {place: f"effssl pretrain --dataset {tmp_path}/secret"}
        (broken / "training.json").write_text(json.dumps(values))
        with pytest.raises(ValueError, match=f"{place} holds a path of this machine"):
            prepare(broken, "org/mine")
    (broken / "training.json").write_text('{"config": {}, "minutes": NaN}')
    with pytest.raises(ValueError, match="minutes is nan, and only finite numbers"):
        prepare(broken, "org/mine")


def test_an_evaluation_replaces_that_of_the_same_images(tmp_path):
    folder = save(tmp_path / "m")
    about = {"dataset": "a", "train_split": "train", "test_split": "test"}
    about |= {"train_images": 100, "test_images": 10}
    probe = {"weight": torch.zeros(2, 96), "bias": torch.zeros(2)}
    add_evaluation(folder, as_record(about | {"seeds": {"linear": [0]}}), probe)
    add_evaluation(folder, as_record(about | {"seeds": {"linear": [1]}, "dataset": "b"}))
    add_evaluation(folder, as_record(about | {"seeds": {"linear": [2]}, "dataset": "b"}), probe)
    found = read_training(folder)["evaluation"]
    assert [(e["dataset"], e["seeds"]) for e in found] == [
        ("a", {"linear": [0]}),
        ("b", {"linear": [2]}),
    ]
    assert "probe" not in found[0] and found[1]["probe"]["bytes"] > 8 * 97
    # images that are not public have no name to tell them apart
    add_evaluation(folder, as_record(about | {"dataset": None}))
    add_evaluation(folder, as_record(about | {"dataset": None, "test_images": 11}))
    assert len(read_training(folder)["evaluation"]) == 4


def test_protocols_of_the_same_images_are_one_evaluation(tmp_path):
    folder = save(tmp_path / "m")
    images = {"dataset": "a", "train_split": "train", "test_split": "test"}
    images |= {"train_images": 100, "test_images": 10, "digest": "abc", "of": "seeds"}

    def note(protocol, top1, spectrum=None, probe=None, seed=0):
        numbers = {name: {protocol: [top1]} for name in ("raw pixels", "pretrained")}
        found = {"protocols": {protocol: "as ever"}, "top1": numbers, "top5": {}}
        found["seeds"] = {protocol: [seed]}
        add_evaluation(folder, as_record(images | found | {"spectrum": spectrum or {}}), probe)
        return read_training(folder)["evaluation"]

    probe = {"weight": torch.zeros(2, 96), "bias": torch.zeros(2)}
    note("linear", 80.0, {"features": {"alpha": 1.0}}, probe)
    (both,) = note("k-NN 20", 70.0, seed=3)
    assert both["seeds"] == {"linear": [0], "k-NN 20": [3]}
    assert both["protocols"] == {"linear": "as ever", "k-NN 20": "as ever"}
    assert both["top1"]["pretrained"] == {"linear": [80.0], "k-NN 20": [70.0]}
    assert both["spectrum"] == {"features": {"alpha": 1.0}}
    assert "probe" in both and (folder / "linear_probe.safetensors").is_file()
    (again,) = note("linear", 81.0)
    assert again["top1"]["raw pixels"] == {"linear": [81.0], "k-NN 20": [70.0]}
    # of images without a name labels tell which they are
    images |= {"dataset": None, "digest": "def"}
    _, other = note("k-NN 20", 60.0)
    assert other["top1"]["pretrained"] == {"k-NN 20": [60.0]}


@pytest.mark.parametrize("protocol", ["knn", "linear", "finetune", "spectrum"])
def test_a_card_can_be_made_after_any_protocol(tmp_path, protocol):
    folder = save(tmp_path / "m", in_chans=1)
    model = effssl.from_pretrained(folder)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()  # a collapsed one, whose features are all the same
    test = load_source(split="test[:40]", in_chans=1)
    options = {"protocols": (protocol,), "epochs": 1, "shares": (0.5,), "seeds": (0,)}
    found = evaluate(model, test, test, **options)
    noted = record([found], dataset=None, train_split="test", test_split="test")
    add_evaluation(folder, noted)
    prepare(folder, "org/mine", None)
    card = (folder / "README.md").read_text()
    assert "On 40 images of a data set that is not published (test)" in card
    assert (folder / "spectrum.png").exists() == (protocol == "spectrum")
    assert ("| linear | " in card) == (protocol == "linear")
