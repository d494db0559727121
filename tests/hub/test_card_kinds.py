"""Cards of every kind of model: what they begin with, the probe's lines, the command, limits."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from clients import client
from PIL import Image
from safetensors.torch import load_file
from test_card import as_record, run_snippets, save, sections

import effssl
from effssl.data import load_source
from effssl.hub._card import compose_card, write_card
from effssl.hub._folder import add_evaluation, read_training
from effssl.hub._publishable import check_publishable

PACKAGED = next((Path(effssl.__file__).parent / "pretrained").glob("*/training.json")).parent
KNN = {"raw pixels": {"k-NN 20": [50.0]}, "pretrained": {"k-NN 20": [70.0]}}
ABOUT = {"train_split": "train", "test_split": "test", "train_images": 900, "test_images": 400}


def measured(top1, dataset="org/photos", spectrum=None, **more):
    names = list(dict.fromkeys(name for row in top1.values() for name in row))
    found = ABOUT | {"dataset": dataset, "of": "seeds", "top1": top1, "top5": {}}
    found |= {"protocols": dict.fromkeys(names, "as ever"), "seeds": dict.fromkeys(names, [0])}
    return as_record(found | {"spectrum": spectrum or {}} | more)


def trained(dataset):
    """training.json of a run on a data set; None for one of this machine or in memory."""
    content = json.loads((PACKAGED / "training.json").read_text())
    command = content["command"].replace(" --dataset fashion-mnist-sample", "")
    if dataset is not None:
        command += f" --dataset {dataset}"
    config = content["config"] | {"dataset": dataset}
    return content | {"evaluation": [], "config": config, "command": command}


def card_of(folder):
    card = compose_card(folder, "org/m")
    assert not re.search(r"\bNone\b(?!\])|\bnull\b|\bnan\b", card)
    return card


def first_line(card):
    title = re.search(r"^# .*\n\n(.*)$", card, re.M)
    return title[1]


USE = "Features for images like those of {}: to search, group and classify them with few labels. "


@pytest.mark.parametrize("dataset", [None, "org/photos"])
@pytest.mark.parametrize(
    "top1, said",
    [
        (None, "How good they are was not measured with labels."),
        ({}, "How good they are was not measured with labels."),
        (
            KNN,
            "By k-NN 20 they classify 70.0 % of 400 test images right, better than raw pixels "
            "with 50.0 %.",
        ),
        (
            {"raw pixels": {"linear": [70.0]}, "pretrained": {"linear": [71.0]}},
            "By linear they classify 71.0 % of 400 test images right, and whether that "
            "is better than raw pixels with 70.0 % is undecided.",
        ),
        (
            {"random weights": {"fine-tuned 1 %": [40.0]}}
            | {"pretrained": {"fine-tuned 1 %": [20.0]}},
            "By fine-tuning on 1 % of the labels they classify 20.0 % of 400 test images right, "
            "worse than random weights with 40.0 %.",
        ),
        (
            {"pretrained": {"k-NN 5": [20.0]}},
            "By k-NN 5 they classify 20.0 % of 400 test images right; no baseline was measured "
            "beside them.",
        ),
    ],
)
def test_a_card_begins_with_what_the_model_is_good_for(tmp_path, dataset, top1, said):
    folder = save(tmp_path / "m", in_chans=1, training=trained(dataset))
    if top1 is not None:
        spectrum = json.loads((PACKAGED / "training.json").read_text())["evaluation"][0]["spectrum"]
        add_evaluation(folder, measured(top1, dataset, spectrum))
    card = card_of(folder)
    assert first_line(card) == USE.format(dataset or "its training") + said
    assert ("Evaluation" in sections(card)) == (top1 is not None)
    command = re.search(r"^effssl pretrain .*$", card, re.M)[0]
    if dataset is None:
        assert command.endswith(" --dataset path/to/images")
        assert "# path/to/images: images of your own, since" in card
    else:
        assert command.endswith(" --dataset org/photos") and "path/to/images" not in card


def test_other_images_than_those_of_the_training_are_named(tmp_path):
    folder = save(tmp_path / "m", in_chans=1, training=trained("org/photos"))
    add_evaluation(folder, measured(KNN, "org/others"))
    assert "70.0 % of 400 test images of org/others right" in first_line(card_of(folder))


def test_a_card_says_the_verdict_and_the_limits(tmp_path):
    folder = save(tmp_path / "m", in_chans=1, training=trained("org/photos"))
    names = ("k-NN 1", "k-NN 5", "linear")
    top1 = {
        "raw pixels": dict(zip(names, ([60.0], [61.0], [62.0]), strict=True)),
        "pretrained": dict(zip(names, ([50.0], [51.0], [62.5]), strict=True)),
    }
    more = {"classes": 4, "majority": 31.0, "tuning_steps": {"linear": 12}}
    add_evaluation(folder, measured(top1, **more))
    card = card_of(folder)
    evaluation = sections(card)["Evaluation"]
    assert "worse by k-NN 1/5 (-10.0 points)" in evaluation
    assert "| chance | 25.0 | 25.0 |" in evaluation and "| majority class | 31.0 |" in evaluation
    assert "fewer than 100 steps of fine-tuning: too few to conclude (linear: 12)" in evaluation
    assert evaluation.count("as ever") == 2 and "- k-NN 1/5: as ever; seed 0." in evaluation
    limits = sections(card)["Limits"]
    assert "- By k-NN 1/5 the pretrained features are worse than raw pixels.\n" in limits


def test_results_for_the_hub_name_each_protocol_once(tmp_path):
    folder = save(tmp_path / "m", in_chans=1, training=trained("org/photos"))
    add_evaluation(folder, measured(KNN))
    other = KNN | {"pretrained": {"k-NN 20": [71.0]}}
    add_evaluation(folder, measured(other, precision="bf16"))
    assert len(read_training(folder)["evaluation"]) == 2
    assert re.findall(r"value: (.*)\n", card_of(folder)) == ["71.0"]


def probe_lines(card):
    return re.search(r"classifies an image:\n\n```python\n(.*?)```", card, re.S)[0]


def test_the_lines_for_the_probe_print_the_class_of_an_image(tmp_path, hub):
    shutil.copytree(PACKAGED, tmp_path / "named")
    for name, channels in (("numbered", 1), ("rgb", 3), ("five", 5)):
        folder = save(tmp_path / name, in_chans=channels)
        width = effssl.from_pretrained(folder).num_features
        probe = {"weight": torch.zeros(3, width), "bias": torch.tensor([0.0, 1.0, 0.0])}
        names = ["a", "b\x1b[31m", "c"] if name == "rgb" else []
        add_evaluation(folder, measured(KNN, class_names=names), probe)
    folders = ("named", "numbered", "rgb", "five")
    for name in folders:
        write_card(tmp_path / name, compose_card(tmp_path / name, f"org/probe-{name}"))
        hub.add_repo(f"org/probe-{name}", tmp_path / name)
    cards = [probe_lines((tmp_path / name / "README.md").read_text()) for name in folders]
    printed = client(tmp_path, hub, run_snippets, cards, tmp_path)
    names = load_source("fashion-mnist-sample", "test[:1]", in_chans=1).class_names
    assert printed[0][0] in names and len(printed[0]) == 1
    assert printed[1:] == [["1"], ["b\x1b[31m"], ["1"]]
    card = (tmp_path / "rgb" / "README.md").read_text()
    assert "Its classes, in order: `a`, `b\\x1b[31m`, `c`." in card


def test_the_classes_of_the_packaged_probe_are_in_order():
    weights = effssl.from_pretrained(PACKAGED)
    probe = load_file(PACKAGED / "linear_probe.safetensors")
    test = load_source("fashion-mnist-sample", "test[:200]", in_chans=1)
    features = effssl.extract_features(weights, test)
    guesses = (features @ probe["weight"].T + probe["bias"]).argmax(1).tolist()
    names = read_training(PACKAGED)["evaluation"][0]["class_names"]
    right = [names[g] == test.class_names[x] for g, x in zip(guesses, test.labels(), strict=True)]
    assert sum(right) > 150


def test_many_and_strange_names_of_classes_are_a_few_lines(tmp_path):
    folder = save(tmp_path / "m", in_chans=1)
    names = [f"`|<script>alert({i})</script>\n## {'x' * 60}" for i in range(3000)]
    probe = {"weight": torch.zeros(3000, effssl.from_pretrained(folder).num_features)}
    probe["bias"] = torch.zeros(3000)
    add_evaluation(folder, measured(KNN, class_names=names), probe)
    line = re.search(r"^Its classes, in order: .*$", card_of(folder), re.M)[0]
    assert len(line) < 700 and line.endswith(" more, which training.json names.")
    assert re.sub(r"`[^`]*`", "", line).count("<") == 0  # all names are code
    for names in ([""], ["a"] * 25):
        add_evaluation(folder, measured(KNN, class_names=names), probe)
        card = card_of(folder)
        assert ("order: `-`." in card) if len(names) == 1 else (" and 5 more, which" in card)


@pytest.mark.parametrize("name", ["T-shirt/top", "größe 3", "cat & dog (small)", 'it"s', "日本"])
def test_names_of_classes_may_be_published(tmp_path, name):
    folder = Path(shutil.copytree(PACKAGED, tmp_path / "m"))
    put_names(folder, [name])
    check_publishable(folder, folder)


@pytest.mark.parametrize(
    "name", ["/home/alice", "C:\\photos", "~/x", "10.1.2.3", "a\x1b", "x" * 81, "hf_" + "a1" * 12]
)
def test_names_that_are_paths_or_tokens_are_refused(tmp_path, name):
    folder = Path(shutil.copytree(PACKAGED, tmp_path / "m"))
    put_names(folder, ["cat", name])
    with pytest.raises(ValueError, match=r"evaluation.class_names .*take it out"):
        check_publishable(folder, folder)


def put_names(folder, names):
    content = json.loads((folder / "training.json").read_text())
    content["evaluation"][0]["class_names"] = names
    (folder / "training.json").write_text(json.dumps(content))


def test_a_picture_of_any_mode_passes_through_the_lines(tmp_path):
    """The lines of the packaged card take what `create_transform` takes."""
    transform = effssl.create_transform(effssl.from_pretrained(PACKAGED))
    for mode in ("L", "RGB", "RGBA"):
        assert transform(Image.new(mode, (40, 30))).shape == (1, 32, 32)
