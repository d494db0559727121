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


def test_rows_and_what_guessing_gives():
    top1 = {
        "raw pixels": {"k-NN 1": [50.0, 52.0], "linear": [70.0]},
        "pretrained": {"k-NN 1": [51.0], "linear": [71.0], "fine-tuned 1 %": [5.0]},
    }
    protocols = dict.fromkeys(("linear", "k-NN 1", "fine-tuned 1 %"), "as ever")
    seeds = {name: [3, 4] for name in protocols}
    record = EvaluationRecord(top1=top1, protocols=protocols, seeds=seeds)
    assert record.rows() == [
        ("linear", ["70.0", "71.0"]),
        ("k-NN 1", ["51.0 ± 1.4", "51.0"]),
        ("fine-tuned 1 %", ["–", "5.0"]),
    ]
    assert record.rows("top5") == [] and mean_and_spread([]) == "–"
    assert record.guesses() == {}
    record = EvaluationRecord(classes=8, majority=40.0)
    assert record.guesses() == {"chance": 12.5, "majority class": 40.0}
    assert record.guesses("top5") == {"chance": 62.5}
    assert EvaluationRecord(classes=3).guesses("top5") == {"chance": 100.0}


SAME = {"dataset": "a", "train_split": "train", "test_split": "test", "test_images": 10}


def measured(name, values, seeds, text="as ever", **more):
    """An evaluation of two encoders by one protocol."""
    top1 = {"raw pixels": {name: values}, "pretrained": {name: [v + 1 for v in values]}}
    about = {"protocols": {name: text}, "seeds": {name: seeds}, "top1": top1}
    return EvaluationRecord(**(SAME | about | more))


def added(*evaluations):
    training = TrainingRecord()
    for one in evaluations:
        training.add(one)
    again = TrainingRecord.from_json({"evaluation": training.to_json()["evaluation"]})
    return again.evaluation


def test_other_seeds_are_added_and_the_same_ones_replaced():
    first, second = measured("linear", [1.0, 2.0], [0, 1]), measured("linear", [5.0, 9.0], [1, 4])
    (both,) = added(first, second)
    assert both.top1["raw pixels"] == {"linear": [1.0, 5.0, 9.0]}
    assert both.top1["pretrained"] == {"linear": [2.0, 6.0, 10.0]}
    assert both.seeds == {"linear": [0, 1, 4]}
    # a number of k-NN that no seed changes stays one
    first, second = measured("k-NN 1", [3.0], [0, 1]), measured("k-NN 1", [3.0], [2])
    (both,) = added(first, second)
    assert both.top1["pretrained"] == {"k-NN 1": [4.0]} and both.seeds == {"k-NN 1": [0, 1, 2]}


@pytest.mark.parametrize(
    "other",
    [
        {"text": "another temperature"},
        {"precision": "bf16"},
        {"of": "trainings"},
        {"test_split": "validation"},
    ],
)
def test_an_evaluation_that_is_another_one_replaces_nothing(other):
    first, second = measured("k-NN 1", [1.0], [0]), measured("k-NN 1", [5.0], [0], **other)
    found = added(first, second)
    assert [one.top1["raw pixels"]["k-NN 1"] for one in found] == [[1.0], [5.0]]
    third = measured("k-NN 1", [6.0], [0], **other)
    found = added(first, second, third)  # which is the second again
    assert [one.top1["raw pixels"]["k-NN 1"] for one in found] == [[1.0], [6.0]]


def test_baselines_of_an_earlier_evaluation_stay_and_its_paired_errors_go():
    first = measured("k-NN 1", [1.0], [0], paired_errors={"raw pixels": {"k-NN 1": 0.5}})
    second = measured("k-NN 1", [5.0], [0], classes=4, majority=30.0)
    del second.top1["raw pixels"]
    (both,) = added(first, second)
    assert both.top1 == {"raw pixels": {"k-NN 1": [1.0]}, "pretrained": {"k-NN 1": [6.0]}}
    assert both.paired_errors == {} and both.majority == 30.0
    (both,) = added(first, measured("linear", [5.0], [0], tuning_steps={"fine-tuned 1 %": 7}))
    assert both.paired_errors == {"raw pixels": {"k-NN 1": 0.5}}
    assert both.tuning_steps == {"fine-tuned 1 %": 7}
    second.top1["random weights"] = {"k-NN 1": [0.5]}
    (both,) = added(first, second)
    assert list(both.top1) == ["raw pixels", "random weights", "pretrained"]


def test_the_probe_is_of_one_evaluation():
    training = TrainingRecord()
    first = training.add(EvaluationRecord(dataset="a", class_names=["cat", "dog"]))
    training.set_probe(first, {"bytes": 1})
    second = training.add(EvaluationRecord(dataset="b"))
    training.set_probe(second, {"bytes": 2})
    kept = training.to_json()["evaluation"]
    assert "probe" not in kept[0] and kept[1]["probe"] == {"bytes": 2}
    assert "class_names" not in kept[0]
    assert "precision" not in kept[0]
