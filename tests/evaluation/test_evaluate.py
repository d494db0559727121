"""evaluate: every protocol by hand, baselines, the record, and models left as they were."""

import copy
import dataclasses
import json
import re
import statistics

import pytest
import torch
from forked import launch, results
from PIL import Image

import effssl
from effssl.data import load_source
from effssl.evaluation import (
    PROTOCOLS,
    evaluate,
    extract_features,
    knn,
    lidar,
    linear_probe,
    record,
    spectrum,
)
from effssl.evaluation._tables import accuracy_table, all_numbers, class_table, spectrum_table
from effssl.evaluation._verdict import verdict

SPLITS = {"train_split": "train[:240]", "test_split": "test[:150]"}


@pytest.fixture(scope="module")
def sources():
    return tuple(load_source(split=split, in_chans=1) for split in SPLITS.values())


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    model = effssl.create_model("test_resnet", in_chans=1, img_size=32, projector_dim=16)
    model.set_input(32, (0.5,), (0.5,))
    return model.train()


@pytest.fixture(scope="module")
def found(model, sources):
    before = copy.deepcopy(model.state_dict())
    options = {"protocols": PROTOCOLS, "preset": "grey", "shares": (1.0, 0.25), "epochs": 1}
    options |= {"shots": (1, 5), "episodes": 4}
    evaluation = evaluate(model, *sources, seeds=(0, 1), **options)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    assert model.training and model.projector.training
    return evaluation


def test_every_number_has_baselines_and_a_protocol(found):
    frozen = ["k-NN 1", "k-NN 5", "k-NN 20", "k-NN 200", "linear"]
    frozen += ["1-shot nearest mean", "5-shot nearest mean", "1-shot linear", "5-shot linear"]
    tuned = ["fine-tuned 100 %", "fine-tuned 25 %"]
    assert list(found.protocols) == frozen + tuned and all(found.protocols.values())
    assert {name: list(row) for name, row in found.accuracy.items()} == {
        "raw pixels": frozen,
        "random weights": frozen + tuned,
        "pretrained": frozen + tuned,
    }
    for row in found.accuracy.values():
        for values in row.values():
            draws = [1 if value.episodes is None else len(value.episodes) for value in values]
            assert [value.confusion.sum() / 150 for value in values] == draws
    # a number for each seed, where the seed makes a difference
    for name, row in found.accuracy.items():
        for key, values in row.items():
            twice = key == "linear" or (key in frozen and name == "random weights")
            assert len(values) == (2 if twice else 1), (name, key)
    assert found.accuracy["raw pixels"]["k-NN 20"][0].top1 > 60
    assert (found.labels, found.train_images, found.test_images) == (list(range(10)), 240, 150)


def test_the_numbers_are_those_of_the_functions(model, sources, found):
    train, test = (extract_features(model, source) for source in sources)
    labels = [torch.tensor(source.labels()) for source in sources]
    data = (train, labels[0], test, labels[1])
    for k, expected in knn(*data).items():
        assert [value.top1 for value in found.accuracy["pretrained"][f"k-NN {k}"]] == [
            pytest.approx(expected.top1)
        ]
    probe = linear_probe(*data, seed=1)
    assert found.accuracy["pretrained"]["linear"][1].top1 == pytest.approx(probe.accuracy.top1)
    logits = test @ found.probe.weight.T + found.probe.bias
    top1 = 100 * (logits.argmax(1) == labels[1]).float().mean().item()
    assert top1 == pytest.approx(found.accuracy["pretrained"]["linear"][0].top1, abs=0.8)
    with torch.no_grad():
        projections = model.eval().projector(test)
    model.train()
    for name, x in {"features": test, "projections": projections}.items():
        assert found.spectrum[name].rankme == pytest.approx(spectrum(x).rankme, rel=1e-4)
        assert 1 <= found.invariance[name].lidar <= x.shape[1]
    views = effssl.MultiView("grey", views=10, size=32)
    views = effssl.evaluation.extract_views(model, sources[1], views)
    assert found.invariance["features"].lidar == pytest.approx(lidar(views), rel=1e-4)


def test_the_random_weights_are_others_for_every_seed(found):
    first, second = found.accuracy["random weights"]["k-NN 20"]
    assert first.top1 != second.top1


def test_the_record_is_json_with_every_seed(found):
    top1 = found.accuracy["pretrained"]["linear"]
    second = dataclasses.replace(found, seeds=(4, 5))
    noted = record([found, second], dataset="fashion-mnist-sample", **SPLITS)
    kept = json.loads(json.dumps(noted.to_json()))
    assert kept["seeds"]["linear"] == [0, 1, 4, 5] and kept["test_images"] == 150
    assert kept["seeds"]["fine-tuned 25 %"] == [0, 4]
    assert kept["top1"]["pretrained"]["linear"] == [round(value.top1, 2) for value in top1 * 2]
    assert "k-NN 1" not in kept["top5"]["raw pixels"]
    assert kept["spectrum"]["projections"]["width"] == 16
    assert kept["spectrum"]["features"]["preset"] == "grey"


def test_a_precision_other_than_float32_is_said(model, sources, found):
    options = {
        "protocols": PROTOCOLS,
        "preset": "grey",
        "shares": (1.0,),
        "epochs": 1,
        "seeds": (0,),
    }
    half = evaluate(model, *sources, precision="bf16", **options)
    half_record = record([half], dataset="fashion-mnist-sample", **SPLITS)
    exact_record = record([found], dataset="fashion-mnist-sample", **SPLITS)
    kept, exact = half_record.to_json(), exact_record.to_json()
    assert kept["precision"] == "bf16" and "precision" not in exact
    assert all(x.endswith(", backbone in bf16 by autocast") for x in kept["protocols"].values())
    assert not any("autocast" in x for x in exact["protocols"].values())
    assert "preset grey; backbone in bf16 by autocast" in spectrum_table(half_record)
    assert "autocast" not in spectrum_table(exact_record)
    for name, found_in_32 in found.spectrum.items():
        assert half.spectrum[name].rankme != found_in_32.rankme  # nor is it that of other features
        assert half.spectrum[name].rankme == pytest.approx(found_in_32.rankme, rel=0.1)
        assert half.invariance[name].lidar != found.invariance[name].lidar


def test_tables_show_what_the_record_holds(found, sources):
    noted = record([found], dataset="fashion-mnist-sample", **SPLITS)
    kept, shown = noted.to_json(), accuracy_table(noted)
    linear = kept["top1"]["pretrained"]["linear"]
    assert f"{statistics.mean(linear):.2f} ± {statistics.stdev(linear):.2f}" in shown
    (tuned,) = kept["top1"]["pretrained"]["fine-tuned 25 %"]
    row = next(line for line in shown.splitlines() if line.startswith("fine-tuned 25 %"))
    assert row.split()[3] == "–" and row.split()[-1] == f"{tuned:.2f}"
    assert "k-NN 1/5/20/200: training images that vote: the nearest 1/5/20/200, by" in shown
    assert "fine-tuned 100/25 %: all weights trained on 100/25 % of the labels" in shown
    assert shown.count("exp(cosine") == 1 and shown.count("seeds 0, 1") == 4
    assert f"linear: {kept['protocols']['linear']}; seeds 0, 1" in shown
    labels = [torch.tensor(source.labels()) for source in sources]
    most = labels[0].bincount().argmax()
    majority = 100 * (labels[1] == most).float().mean().item()
    assert kept["majority"] == pytest.approx(majority, abs=0.01)
    assert re.search(rf"\nmajority class( +{majority:.2f}){{3}}\n", shown)
    assert re.search(r"\nchance( +10.00){3}\n", shown) and re.search(r"chance( +50.00){3}", shown)
    shown = spectrum_table(noted)
    assert f"{kept['spectrum']['features']['rankme']:.4g}" in shown and "ranks 5 to 48" in shown
    by_class = found.accuracy["pretrained"]["linear"][0].per_class
    row = next(x for x in class_table(found, sources[1]).splitlines() if x.startswith("Sandal"))
    assert int(row.split()[-1]) == (labels[1] == 5).sum() > 0  # images
    assert float(row.split()[5]) == pytest.approx(by_class[5].item(), abs=0.06)
    more = all_numbers(found, noted, sources[1], "path/to/mine")
    assert more["dataset"] == "path/to/mine" and more["chance"] == 10.0
    assert more["verdict"][0]["decided"] in ("better", "worse", "undecided")
    assert more["verdict_in_words"] == verdict(noted) and json.dumps(more)
    assert more["class_names"][5] == "Sandal"
    assert more["per_class"]["linear"][5] == pytest.approx(by_class[5].item(), abs=0.01)
    assert sum(map(sum, more["confusion"]["linear"])) == 150


def both():
    """Top-1, RankMe and LiDAR of a small evaluation."""
    torch.manual_seed(0)
    model = effssl.create_model("test_resnet", in_chans=1, img_size=32, projector_dim=16)
    splits = [load_source(split=split, in_chans=1) for split in ("train[:90]", "test[:40]")]
    options = {"protocols": ("knn", "spectrum"), "k": (20,), "seeds": (0,), "preset": "grey"}
    found = evaluate(model.eval(), *splits, **options)
    top1 = [row["k-NN 20"][0].top1 for row in found.accuracy.values()]
    return torch.tensor(
        [*top1, found.spectrum["projections"].rankme, found.invariance["features"].lidar]
    )


def test_several_processes_find_the_same(tmp_path):
    for found in results(launch(tmp_path, 2, both)):
        torch.testing.assert_close(found, both())


def test_images_without_labels_have_a_spectrum(model, tmp_path):
    for i in range(12):
        Image.effect_noise((30, 30), 20 + 5 * i).save(tmp_path / f"{i}.png")
    test = load_source(str(tmp_path), in_chans=1)
    found = evaluate(model, None, test, protocols=("spectrum",), preset="grey")
    assert found.accuracy == {} and found.spectrum["features"].images == 12
    with pytest.raises(ValueError, match="no label column"):
        evaluate(model, test, test, protocols=("knn",))
    with pytest.raises(ValueError, match="knn: labeled images of train are wanted"):
        evaluate(model, None, test, protocols=("knn", "spectrum"))


@pytest.mark.parametrize(
    "options, message",
    [
        ({"protocols": ("svm",)}, "unknown protocol 'svm'; protocols are knn, linear, fewshot"),
        ({"seeds": ()}, "one protocol and one seed, or more, are wanted"),
        ({"protocols": ("finetune",), "shares": (10,)}, "at most 1, got 10"),
        ({"protocols": ("finetune",), "epochs": 0}, "epochs of fine-tuning must be 1 or more"),
        ({"protocols": ("knn",), "k": (500,)}, "k must be 1 to the 240 training images, got 500"),
        ({"protocols": ("fewshot",), "shots": (1, 50)}, "shots must be 1 to 20, the .* got 50"),
        ({"protocols": ("fewshot",), "episodes": 1}, "episodes must be 2 or more"),
        ({"protocols": ("spectrum",), "preset": "gray"}, "unknown preset 'gray'; did you mean"),
    ],
)
def test_bad_options_are_named_before_anything_is_computed(
    model, sources, options, message, monkeypatch
):
    monkeypatch.setattr(model, "forward", None)
    with pytest.raises(ValueError, match=message):
        evaluate(model, *sources, **({"seeds": (0,)} | options))


@pytest.mark.gpu
def test_a_gpu_finds_what_the_cpu_finds(model, sources, found):
    net = copy.deepcopy(model).to("cuda")
    options = {"protocols": PROTOCOLS, "preset": "grey", "shares": (0.25,), "epochs": 1}
    options["precision"] = "fp32"  # in bf16 some of these few images get other neighbors
    there = evaluate(net, *sources, seeds=(0,), **options)
    for key in ("k-NN 20", "linear"):
        expected = found.accuracy["pretrained"][key][0].top1
        assert there.accuracy["pretrained"][key][0].top1 == pytest.approx(expected, abs=1.5)
    assert there.spectrum["features"].rankme == pytest.approx(
        found.spectrum["features"].rankme, rel=0.01
    )
