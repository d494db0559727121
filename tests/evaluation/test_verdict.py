"""The verdict: intervals by hand and by simulation, words, and what old or partial records say."""

import math

import pytest
import torch

from effssl.evaluation._difference import differences, paired_error
from effssl.evaluation._notes import named, protocol_notes
from effssl.evaluation._tables import accuracy_table, verdict_text
from effssl.evaluation._verdict import headline, not_better, verdict
from effssl.records import EvaluationRecord


def record(images=2000, **top1):
    """A record of numbers by encoder and protocol: raw, random, ours."""
    names = {"raw": "raw pixels", "random": "random weights", "ours": "pretrained"}
    rows = {names[key]: row for key, row in top1.items()}
    protocols = {name: f"as {name}" for row in rows.values() for name in row}
    seeds = {name: [0, 1, 2] for name in protocols}
    return EvaluationRecord(test_images=images, top1=rows, protocols=protocols, seeds=seeds)


def test_an_interval_is_that_of_two_binomials_and_of_the_seeds():
    found = record(raw={"linear": [80.0]}, ours={"linear": [81.0, 83.0, 85.0]})
    (one,) = differences(found)
    assert one.points == pytest.approx(3.0) and not one.paired

    def variance(share, n=2000):
        share = (share * n + 1) / (n + 2)
        return 1e4 * share * (1 - share) / (n + 2)

    sampling, seeds = variance(0.8) + variance(0.83), 4.0 / 3
    freedom = (sampling + seeds) ** 2 / (seeds**2 / 2)
    assert 9 < freedom < 10  # the quantile of 97.5 % of t with 9 is 2.26
    assert one.high - one.low == pytest.approx(2 * 2.26 * math.sqrt(sampling + seeds), rel=1e-6)
    assert one.sampling == pytest.approx(2.26 * math.sqrt(sampling))
    assert (one.low + one.high) / 2 == pytest.approx(3.0 * 2000 / 2002)
    assert one.decided == "undecided"
    (one,) = differences(record(raw={"linear": [80.0]}, ours={"linear": [83.0]}))
    assert one.high - one.low == pytest.approx(2 * 1.96 * math.sqrt(sampling))
    assert one.seeds == 0 and one.decided == "better"


@pytest.mark.parametrize("images", [60, 500])
def test_paired_intervals_hold_the_truth_and_are_the_narrower_ones(images):
    generator = torch.Generator().manual_seed(0)
    truth, held, widths = 5.0, 0, []
    for _ in range(400):
        # both fail on the same images, but for a few
        draw = torch.rand(images, generator=generator)
        theirs = draw < 0.7
        ours = theirs.where(torch.rand(images, generator=generator) > 0.1, draw < 1)
        truth = 100 * 0.1 * 0.3
        tops = [100 * some.double().mean().item() for some in (theirs, ours)]
        found = record(images, raw={"k-NN 1": tops[:1]}, ours={"k-NN 1": tops[1:]})
        (alone,) = differences(found)
        error = paired_error([ours], [theirs])
        found.paired_errors = {"raw pixels": {"k-NN 1": error}}
        (one,) = differences(found)
        assert one.paired
        held += one.low <= truth <= one.high
        widths.append((one.high - one.low) / (alone.high - alone.low))
    assert held > 0.93 * 400 and max(widths) < 0.75


def test_errors_of_several_seeds_are_those_of_the_mean_by_image():
    ours = [torch.tensor([1, 1, 0, 1]).bool(), torch.tensor([1, 0, 0, 1]).bool()]
    theirs = [torch.tensor([0, 1, 0, 1]).bool()]
    each = torch.tensor([1.0, -0.5, 0.0, 0.0, 1.0, -1.0])  # and one for and against
    expected = 100 * each.std(correction=0).item() / 6**0.5
    assert paired_error(ours, theirs) == pytest.approx(expected, rel=1e-6)
    assert paired_error(ours, [None]) is None
    assert paired_error(ours, [torch.ones(5).bool()]) is None  # of other images


def test_a_few_images_decide_nothing():
    found = record(4, raw={"linear": [50.0]}, ours={"linear": [100.0]})
    assert differences(found)[0].decided == "undecided"
    assert differences(record(0, raw={"linear": [50.0]}, ours={"linear": [90.0]})) == []
    broken = record(103, raw={"linear": [50.0]}, ours={"linear": [60.0]})
    broken.left_out = {"test": {"broken": 3}}
    whole = record(100, raw={"linear": [50.0]}, ours={"linear": [60.0]})
    assert differences(broken) == differences(whole)


def test_the_verdict_in_words():
    knn = {"k-NN 1": [80.0], "k-NN 20": [82.0], "linear": [85.0]}
    ours = {"k-NN 1": [84.0], "k-NN 20": [90.0], "linear": [85.5]}
    random = {"k-NN 1": [90.0], "k-NN 20": [70.0], "linear": [71.0]}
    found = record(raw=knn, random=random, ours=ours)
    said = verdict(found)
    assert said[:2] == [
        "Against raw pixels the pretrained features are better by k-NN 1/20 (+4.0 to +8.0 points); "
        "it is undecided by linear (+0.5 points).",
        "Against random weights the pretrained features are better by k-NN 20 and linear (+14.5 to "
        "+20.0 points); worse by k-NN 1 (-6.0 points).",
    ]
    assert said[2].startswith(
        "Decided by intervals of 95 %: of the sampling of 2,000 test images (as two independent "
        "binomials: ± "
    )
    assert len(said) == 3 and "of seeds" not in said[2]
    tie = record(raw={"linear": [70.0]}, ours={"linear": [69.5]})
    assert verdict(tie)[0] == (
        "Whether the pretrained features are better than raw pixels is undecided by linear (-0.5 "
        "points)."
    )
    assert all(line in verdict_text(found) for line in said)
    assert headline(found) == (
        "by k-NN 20 they classify 90.0 % of 2,000 test images right, better than raw pixels with "
        "82.0 %"
    )
    assert not_better(found) == [
        ("undecided", "By linear the pretrained features may be no better than raw pixels"),
        ("worse", "By k-NN 1 the pretrained features are worse than random weights"),
    ]
    found.seeds |= {"linear": [0, 1]}
    found.top1["pretrained"]["linear"] = [85.0, 86.0]
    assert " and of seeds (± 0.0 to " in verdict(found)[2]


def test_baselines_that_are_missing_are_said():
    alone = record(ours={"k-NN 5": [80.0]})
    assert verdict(alone) == ["Not measured beside them: raw pixels and random weights."]
    assert headline(alone).endswith("; no baseline was measured beside them")
    tuned = record(ours={"fine-tuned 10 %": [80.0]}, random={"fine-tuned 10 %": [70.0]})
    assert len(verdict(tuned)) == 2 and not any("Not measured" in x for x in verdict(tuned))
    assert verdict(EvaluationRecord(test_images=9)) == [] and not headline(EvaluationRecord())
    assert verdict_text(EvaluationRecord(test_images=9)) == ""


def test_fewer_than_100_steps_of_fine_tuning_conclude_nothing():
    names = ("fine-tuned 100 %", "fine-tuned 1 %")
    found = record(
        random=dict.fromkeys(names, [10.0]), ours=dict(zip(names, ([90.0], [90.0]), strict=True))
    )
    found.tuning_steps = {names[0]: 100, names[1]: 99}
    assert [one.decided for one in differences(found)] == ["better", "too few steps"]
    assert verdict(found)[0].count("fine-tuned") == 1
    assert verdict(found)[-1] == (
        "fewer than 100 steps of fine-tuning: too few to conclude (fine-tuned 1 %: 99)"
    )
    found.tuning_steps = dict.fromkeys(names, 5)
    assert verdict(found)[0].endswith(
        "better than random weights is undecided after too few steps."
    )
    found.tuning_steps = {}  # of a record that does not know
    assert [one.decided for one in differences(found)] == ["better", "better"]
    assert not any("fewer" in line for line in verdict(found))


def test_notes_are_one_for_protocols_that_differ_by_numbers_and_name_seeds_that_matter():
    found = record(ours={"k-NN 1": [1.0], "k-NN 5": [1.0], "linear": [1.0, 2.0, 3.0]})
    found.protocols |= {f"k-NN {k}": f"the nearest {k}, exp(x / 0.07)" for k in (1, 5)}
    assert protocol_notes(found) == [
        ("k-NN 1/5", "the nearest 1/5, exp(x / 0.07)"),
        ("linear", "as linear; seeds 0, 1, 2"),
    ]
    found.seeds["k-NN 5"] = [7]
    assert [name for name, _ in protocol_notes(found)] == ["k-NN 1", "k-NN 5", "linear"]
    assert protocol_notes(found)[1][1].endswith("; seed 7")
    found.protocols |= {"k-NN #": "the nearest #, exp(x / 0.07)"}  # by others
    assert len(protocol_notes(found)) == 4
    assert named(["k-NN 1", "k-NN 5", "linear"]) == "k-NN 1/5 and linear"
    assert named(["linear"]) == "linear" and named(["a", "b", "c 1"]) == "a, b and c 1"


def test_a_table_says_what_the_spread_is_of_only_if_there_is_one():
    assert "deviation" not in accuracy_table(record(ours={"linear": [1.0]}))
    assert "mean ± standard deviation of seeds" in accuracy_table(
        record(ours={"linear": [1.0, 2.0, 3.0]})
    )
