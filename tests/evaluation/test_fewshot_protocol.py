"""Few labels as a protocol: beside baselines, in records, tables, cards and intervals."""

import json
import math
from dataclasses import replace

import pytest
import torch

import effssl
from effssl.data import load_source
from effssl.evaluation import Accuracy, Evaluation, evaluate, extract_features, fewshot, record
from effssl.evaluation._difference import differences
from effssl.evaluation._tables import accuracy_table, all_numbers, class_table
from effssl.evaluation._verdict import headline, verdict
from effssl.hub._card_evaluation import evaluation_content
from effssl.hub._publishable import _is_good
from effssl.records import EvaluationRecord
from effssl.report import _tables as report_tables

RAW, RANDOM, OWN = "raw pixels", "random weights", "pretrained"
NAMES = ["1-shot nearest mean", "5-shot nearest mean", "1-shot linear", "5-shot linear"]
SPLITS = {"train_split": "train[:150]", "test_split": "test[:60]"}
OPTIONS = {"protocols": ("fewshot",), "seeds": (0, 1), "episodes": 6, "shots": (1, 5)}


@pytest.fixture(scope="module")
def sources():
    return tuple(load_source(split=split, in_chans=1) for split in SPLITS.values())


def net(seed=0):
    torch.manual_seed(seed)
    return effssl.create_model("test_resnet", in_chans=1, img_size=32, projector_dim=8).eval()


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return tmp_path_factory.mktemp("baselines") / "baselines.json"


@pytest.fixture(scope="module")
def found(sources, file):
    return evaluate(net(), *sources, baselines_file=file, **OPTIONS)


def noted(*evaluations):
    return record(evaluations, dataset="fashion-mnist-sample", **SPLITS)


def test_the_numbers_are_those_of_the_function_in_the_same_episodes_for_all(found, sources):
    labels = [torch.tensor(source.labels()) for source in sources]
    features = [extract_features(net(), source) for source in sources]
    alone = fewshot(features[0], labels[0], features[1], labels[1], shots=(1, 5), episodes=6)
    for shots, result in alone.items():
        pairs = {"nearest mean": result.nearest_mean, "linear": result.linear}
        for name, expected in pairs.items():
            (ours,) = found.accuracy[OWN][f"{shots}-shot {name}"]
            torch.testing.assert_close(ours.episodes, expected.episodes)
    counts = {e: [len(v) for v in row.values()] for e, row in found.accuracy.items()}
    assert counts == {RAW: [1] * 4, RANDOM: [2] * 4, OWN: [1] * 4}
    assert [list(row) for row in found.accuracy.values()] == [NAMES] * 3
    # two seeds of weights in the same episodes, and another seed has the same ones too
    first, second = found.accuracy[RANDOM]["5-shot linear"]
    assert not torch.equal(first.episodes, second.episodes)
    again = evaluate(net(), *sources, baselines="raw", **(OPTIONS | {"seeds": (1,)}))
    for encoder in (RAW, OWN):
        assert torch.equal(
            again.accuracy[encoder]["5-shot linear"][0].episodes,
            found.accuracy[encoder]["5-shot linear"][0].episodes,
        )


def test_baselines_are_taken_from_the_file_with_their_episodes(found, sources, file, caplog):
    caplog.set_level("INFO")
    again = evaluate(net(), *sources, baselines_file=file, **OPTIONS)
    assert f"raw pixels and random weights: measured before ({file})" in caplog.messages
    assert noted(again).to_json() == noted(found).to_json()
    good = json.loads(file.read_text())
    key = next(iter(good["measured"]))
    entry = good["measured"][key]
    images, wrong = entry["images"], [count + 1 for count in entry["right"][0]]
    for change in (
        {"right": [[*entry["right"][0][:-1], images + 1]]},
        {"right": [wrong]},
        {"right": [entry["right"][0][:1]]},
        {"right": []},
        {"right": "x"},
        {"correct": ["AAAA"]},
    ):
        caplog.clear()
        bad = good | {"measured": {**good["measured"], key: entry | change}}
        file.write_text(json.dumps(bad))
        once = OPTIONS | {"episodes": 7, "baselines": "raw", "shots": (1,)}
        evaluate(net(), *sources, baselines_file=file, **once)
        assert any("baselines are measured anew: " in line for line in caplog.messages), change
    caplog.clear()
    evaluate(net(), *sources, baselines_file=file, **OPTIONS | {"episodes": 7, "shots": (1,)})
    assert f"raw pixels: measured before ({file})" in caplog.messages  # of seven; random is new


def test_tables_cards_and_reports_show_means_with_intervals_and_how(found, sources):
    kept = noted(found)
    (ours,) = found.accuracy[OWN]["5-shot linear"]
    low, high = ours.interval
    shown = accuracy_table(kept)
    row = next(line for line in shown.splitlines() if line.startswith("5-shot linear"))
    assert row.endswith(f"{ours.top1:.2f} ({low:.2f} to {high:.2f})") and "±" not in row
    assert (
        "1/5-shot nearest mean: nearest class mean; labels of every class: 1/5, drawn 6 times from "
        "train, the same for all encoders; features centered with the mean of train and of unit "
        "length; mean and interval of 95 % over the draws" in shown
    )
    assert "1/5-shot linear: logistic regression, C 10 in terms of scikit-learn; labels" in shown
    # those of random weights hold the error of the seeds too
    tops = [one.top1 for one in found.accuracy[RANDOM]["5-shot linear"]]
    cell = kept.cell(RANDOM, "5-shot linear", digits=4).replace(" to ", " ").replace("(", "")
    mean, low, high = map(float, cell.rstrip(")").split())
    assert mean == pytest.approx(sum(tops) / 2, abs=0.01)
    assert high - low > 2 * 1.96 * abs(tops[0] - tops[1]) / 2
    small = f"{ours.top1:.1f} ({ours.interval[0]:.1f} to {ours.interval[1]:.1f})"
    assert small in dict(evaluation_content(kept)["rows"])["5-shot linear"]
    of_report = report_tables.evaluation(kept)
    assert any(cell == small for _, _, cells in of_report["rows"] for cell, _ in cells)
    assert of_report["protocols"] == evaluation_content(kept)["protocols"]
    assert headline(kept).startswith("by 5-shot linear they") or "by 1-shot" in headline(kept)
    by_class = class_table(found, sources[0]).splitlines()[2:]
    assert sum(int(line.split()[-1]) for line in by_class) == 60 and len(by_class) == 10
    more = all_numbers(found, kept, sources[0], "mine")
    assert json.dumps(more) and len(more["episode_top1"][RANDOM]["5-shot linear"][1]) == 6
    assert sum(map(sum, more["confusion"]["5-shot linear"])) == 6 * 60


def test_the_record_survives_the_file_and_a_second_evaluation(found, sources):
    kept = noted(found)
    assert kept.episodes == dict.fromkeys(NAMES, 6)
    for name, sentence in kept.protocols.items():
        assert _is_good(f"evaluation.protocols.{name}", sentence)  # may be published
    again = EvaluationRecord.from_json(json.loads(json.dumps(kept.to_json())))
    assert again.to_json() == kept.to_json() and verdict(again) == verdict(kept)
    options = {"protocols": ("knn",), "k": (1,), "seeds": (0, 1), "baselines": "none"}
    both = kept.merged(noted(evaluate(net(), *sources, **options)))
    assert both.cell(OWN, "1-shot linear") == kept.cell(OWN, "1-shot linear")
    assert differences(both) == differences(kept)
    measured = evaluate(net(), *sources, baselines="none", **(OPTIONS | {"shots": (1,)}))
    both = both.merged(noted(measured))
    assert "1-shot linear" not in both.paired_episode_errors[RAW]
    assert all(one.episodes for one in differences(both))  # as if drawn apart
    # several trainings are paired by episode as one mean
    other = evaluate(net(1), *sources, **OPTIONS)
    two = noted(found, other)
    tops = torch.stack([e.accuracy[OWN]["1-shot linear"][0].episodes for e in (found, other)])
    assert two.episode_errors[OWN]["1-shot linear"] == pytest.approx(
        tops.mean(0).std().item() / 6**0.5, abs=1e-4
    )


def test_episodes_of_others_are_read_with_care(found):
    good = noted(found).to_json()
    table = {OWN: {"1-shot linear": 1.0}}
    for change, message in (
        ({"episodes": {}}, "episodes lacks '1-shot nearest mean' of episode_errors"),
        ({"episodes": {"1-shot linear": 1}}, "must be 2 or more, is 1"),
        ({"episodes": {"1-shot linear": 10**400}}, "must be a finite number"),
        ({"episodes": {"1-shot linear": 1.5}}, "episodes"),
        ({"episode_errors": {OWN: {"1-shot linear": -1.0}}}, "a value of episode_errors is below"),
        ({"paired_episode_errors": {RAW: {"1-shot linear": math.inf}}}, "must be a finite number"),
        ({"paired_episode_errors": {RAW: {"x": 1.0}}}, "episodes lacks 'x'"),
        ({"episode_errors": 1}, "episode_errors"),
    ):
        with pytest.raises(ValueError, match=message):
            EvaluationRecord.from_json(good | change)
    assert EvaluationRecord.from_json(good | {"episode_errors": table})


def simulated(generator, images, episodes):
    """Right guesses of two encoders: chances vary by image and by episode, and by both together."""
    by_image = torch.randn(images, generator=generator)
    by_episode = torch.randn(episodes, 1, generator=generator)
    tallies = {}
    for name, ease, own in ((RAW, 0.0, 0.3), (OWN, 0.4, 0.3)):
        other = own * torch.randn(episodes, 1, generator=generator)
        special = 0.5 * torch.randn(images, generator=generator)
        chance = (ease + by_image + special + 0.5 * by_episode + other).sigmoid()
        right = torch.rand(chance.shape, generator=generator) < chance
        tallies[name] = {"1-shot linear": [Accuracy.of_episodes(right.sum(1), right.sum(0))]}
    return tallies


@pytest.mark.parametrize("images, episodes", [(1000, 8), (80, 100)])
def test_intervals_of_differences_hold_the_truth(images, episodes, found):
    generator = torch.Generator().manual_seed(0)
    large = simulated(generator, 20_000, 400)
    truth = large[OWN]["1-shot linear"][0].top1 - large[RAW]["1-shot linear"][0].top1
    held, without = 0, 0
    for _ in range(300):
        made = replace(
            found,
            accuracy=simulated(generator, images, episodes),
            protocols={"1-shot linear": "x"},
            test_images=images,
        )
        (one,) = differences(noted(made))
        assert one.paired and one.episodes > 0 and one.sampling > 0
        held += one.low <= truth <= one.high
        without += abs(one.points - truth) <= one.sampling
    assert 276 <= held <= 299  # 95 % of 300 are 285
    assert episodes > 8 or without < 250  # the draws do matter


def test_the_verdict_names_the_error_of_the_draws(found):
    assert isinstance(found, Evaluation)
    (how,) = [line for line in verdict(noted(found)) if line.startswith("Decided by")]
    assert "(paired by image: ± " in how and " points), of the draws of labels (± " in how
    assert " points) and of seeds (± " in how
    (one,) = [
        d.to_json()
        for d in differences(noted(found))
        if (d.protocol, d.baseline) == ("5-shot linear", RAW)
    ]
    assert one["episodes"] > 0 and one["seeds"] == 0
