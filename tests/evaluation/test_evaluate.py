"""evaluate: the three rows, by the same protocols, reproducibly."""

import dataclasses

import pytest
import torch

import effssl
from effssl.data import load_source
from effssl.evaluation import evaluate, record


@pytest.fixture(scope="module")
def sources():
    return load_source(split="train[:200]", in_chans=1), load_source(split="test[:150]", in_chans=1)


@pytest.fixture(scope="module")
def model():
    return effssl.create_model("test_resnet", in_chans=1, img_size=32)


@pytest.fixture(scope="module")
def found(model, sources):
    return evaluate(model, *sources)


def test_the_table_has_both_baselines_and_depends_on_the_seed_alone(model, sources, found):
    table = found.top1
    assert list(table) == ["raw pixels", "random initialisation", "pretrained"]
    for row in table.values():
        assert row.keys() == {"knn", "linear"}
    assert table["raw pixels"]["knn"] > 60 and table["raw pixels"]["linear"] > 65
    assert evaluate(model, *sources) == found
    other = evaluate(model, *sources, protocols=("knn",), seed=1).top1
    assert other["raw pixels"] == {"knn": table["raw pixels"]["knn"]}
    assert other["random initialisation"]["knn"] != table["random initialisation"]["knn"]


def test_the_record_holds_every_seed_and_the_probe_takes_features_as_they_come(
    model, sources, found
):
    top1 = {name: {k: v + 1 for k, v in row.items()} for name, row in found.top1.items()}
    found = [found, dataclasses.replace(found, seed=4, top1=top1)]
    splits = {"train_split": "train[:200]", "test_split": "test[:150]"}
    kept = record(found, dataset="fashion-mnist-sample", **splits)
    assert kept["seeds"] == [0, 4] and kept["test_images"] == 150
    for i, evaluation in enumerate(found):
        for name, row in evaluation.top1.items():
            for protocol, top1 in row.items():
                assert kept["top1"][name][protocol][i] == round(top1, 2)
    spectrum = kept["spectrum"]
    assert spectrum["rank"][0] == 1 and spectrum["rank"][-1] == 96
    assert spectrum["eigenvalue"][0] == pytest.approx(found[0].eigenvalues[0], rel=1e-3)

    test = sources[1]
    features = effssl.extract_features(model, test)
    logits = features @ found[0].probe.weight.T + found[0].probe.bias
    top1 = 100 * (logits.argmax(1) == torch.tensor(test.labels())).float().mean().item()
    assert top1 == pytest.approx(found[0].top1["pretrained"]["linear"], abs=0.5)


def test_an_unknown_protocol_is_named(model, sources):
    with pytest.raises(ValueError, match="unknown protocol 'svm'; protocols are knn, linear"):
        evaluate(model, *sources, protocols=("svm",))
