"""evaluate: the three rows, by the same protocols, reproducibly."""

import pytest

import effssl
from effssl.data import load_source
from effssl.evaluation import evaluate


@pytest.fixture(scope="module")
def sources():
    return load_source(split="train[:300]", in_chans=1), load_source(split="test[:200]", in_chans=1)


def test_the_table_has_both_baselines_and_depends_on_the_seed_alone(sources):
    model = effssl.create_model("test_resnet", in_chans=1, img_size=32)
    table = evaluate(model, *sources)
    assert list(table) == ["raw pixels", "random initialisation", "pretrained"]
    for row in table.values():
        assert row.keys() == {"knn", "linear"}
    assert table["raw pixels"]["knn"] > 60 and table["raw pixels"]["linear"] > 65
    assert evaluate(model, *sources) == table
    other = evaluate(model, *sources, protocols=("knn",), seed=1)
    assert other["raw pixels"] == {"knn": table["raw pixels"]["knn"]}
    assert other["random initialisation"]["knn"] != table["random initialisation"]["knn"]


def test_an_unknown_protocol_is_named(sources):
    model = effssl.create_model("test_resnet", in_chans=1, img_size=32)
    with pytest.raises(ValueError, match="unknown protocol 'svm'; protocols are knn, linear"):
        evaluate(model, *sources, protocols=("svm",))
