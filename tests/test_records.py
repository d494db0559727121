"""Records: exactly what a file holds, merged, compared and as rows."""

import json
from pathlib import Path

import pytest

import effssl
from effssl.records import EvaluationRecord, TrainingRecord, mean_and_spread

FILES = [
    *Path(effssl.__file__).parent.glob("pretrained/*/training.json"),
    *(Path(__file__).parents[1] / "model_cards").glob("*/training.json"),
]
OLD = {"config": {"loss": "bt"}, "later": [1], "evaluation": [{"top1": {}, "of": None, "x": 2}]}


@pytest.mark.parametrize("content", [{}, OLD, *(json.loads(f.read_text()) for f in FILES)])
def test_a_file_read_and_written_is_the_same(content):
    again = TrainingRecord.from_json(content).to_json()
    assert json.dumps(again) == json.dumps(content)  # in this order too


def test_an_evaluation_that_is_not_of_objects_is_refused():
    for content in ({"evaluation": None}, {"evaluation": ["linear"]}):
        with pytest.raises(ValueError, match="must be"):
            TrainingRecord.from_json(content)


def test_a_card_needs_what_effssl_writes():
    TrainingRecord().check_complete()
    with pytest.raises(KeyError, match="dataset"):
        TrainingRecord.from_json(OLD).check_complete()
    with pytest.raises(KeyError, match="images"):
        TrainingRecord.from_json({"config": {}}).check_complete()


def test_protocols_no_better_than_a_baseline_and_rows():
    top1 = {
        "raw pixels": {"k-NN 1": [50.0, 52.0], "linear": [70.0]},
        "pretrained": {"k-NN 1": [51.0], "linear": [71.0], "fine-tuned 1 %": [5.0]},
    }
    protocols = dict.fromkeys(("linear", "k-NN 1", "fine-tuned 1 %"), "as ever")
    seeds = {name: [3, 4] for name in protocols}
    record = EvaluationRecord(top1=top1, protocols=protocols, seeds=seeds)
    assert record.worse_than("raw pixels") == ["k-NN 1"]
    assert record.worse_than("random initialisation") == []
    assert record.rows() == [
        ("linear", ["70.0", "71.0"]),
        ("k-NN 1", ["51.0 ± 1.4", "51.0"]),
        ("fine-tuned 1 %", ["–", "5.0"]),
    ]
    assert record.rows("top5") == [] and mean_and_spread([]) == "–"
    assert record.sentences()[0] == ("linear", "as ever; seed 3, 4")


def test_the_probe_is_of_one_evaluation():
    training = TrainingRecord()
    first = training.add(EvaluationRecord(dataset="a"))
    training.set_probe(first, {"bytes": 1})
    second = training.add(EvaluationRecord(dataset="b"))
    training.set_probe(second, {"bytes": 2})
    kept = training.to_json()["evaluation"]
    assert "probe" not in kept[0] and kept[1]["probe"] == {"bytes": 2}
    assert "precision" not in kept[0]
