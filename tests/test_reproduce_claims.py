"""examples/reproduce: comparisons, whose intervals hold together, and what the tables show."""

import dataclasses

import numpy as np
import pytest
from scipy import stats
from synthetic_runs import fields_of, row, rows_of

import effssl


def test_the_verdicts_follow_from_the_pooled_spread(reproduce):
    a, b, c = (effssl.PretrainConfig(views=views) for views in (2, 4, 8))
    rows = [row(value, seed, views=2) for seed, value in enumerate((80.0, 81.0, 82.0))]
    rows += [row(value, seed, views=4) for seed, value in enumerate((90.0, 93.0))]
    rows += [row(81.2, views=8)]
    runs = reproduce.runs_table.Runs(rows)
    # variance 1 with 2 degrees of freedom and 4.5 with 1; t of 3 degrees at 97.5 % is 3.1824
    std, freedom = runs.spread(a)
    assert freedom == 3 and std == pytest.approx(((2 * 1 + 4.5) / 3) ** 0.5)
    half = 3.1824 * std * (1 / 3 + 1 / 2) ** 0.5
    assert runs.half_width(b, a) == pytest.approx(half, rel=1e-4)
    # at 1 - 0.025 / 5 it is 5.8409
    assert runs.half_width(b, a, comparisons=5) == pytest.approx(half / 3.1824 * 5.8409, rel=1e-4)

    def verdict(first, second, together=1, **better):
        return reproduce.comparisons.Comparison("x", first, second, **better).verdict(
            runs, together
        )

    assert verdict(b, a, better=True) == (f"+10.5 ± {half:.1f}", "holds")
    assert verdict(a, b)[1] == verdict(a, b, better=True)[1] == "does not hold"
    assert verdict(c, a)[1] == verdict(c, a, better=True)[1] == "undecided"
    assert verdict(b, a, together=100_000, better=True)[1] == "undecided"
    assert verdict(a, dataclasses.replace(a, lr=1.0)) == ("", "")


def test_a_wide_projector_has_a_spread_of_its_own(reproduce):
    """By Welch and Satterthwaite, as scipy has it."""
    narrow, wide = effssl.PretrainConfig(), effssl.PretrainConfig(projector_dim=8192)
    first, second = (80.0, 80.5, 81.5), (40.0, 44.0, 51.0, 47.0)
    rows = [row(value, seed) for seed, value in enumerate(first)]
    rows += [row(value, seed, projector_dim=8192) for seed, value in enumerate(second)]
    runs = reproduce.runs_table.Runs(rows)
    expected = stats.ttest_ind(first, second, equal_var=False).confidence_interval()
    assert runs.half_width(narrow, wide) == pytest.approx((expected.high - expected.low) / 2)
    assert np.isnan(reproduce.runs_table.Runs(rows[:4]).half_width(narrow, wide))


def test_intervals_of_a_table_cover_together(reproduce):
    """All intervals cover in 95 of 100 repetitions, whether means are shared or not."""
    generator, repetitions, seeds, configs = np.random.default_rng(0), 4000, 3, 20
    values = generator.standard_normal((repetitions, configs, seeds))
    means = values.mean(2)
    freedom = configs * (seeds - 1)
    std = np.sqrt(values.var(2, ddof=1).mean(1))  # pooled: every group has as many seeds
    error = std * (2 / seeds) ** 0.5

    def covered(differences, comparisons):
        half = reproduce.runs_table.quantile(freedom, comparisons) * error
        return (np.abs(differences) < half[:, None]).all(1).mean()

    apart = means[:, ::2] - means[:, 1::2]
    to_one = means[:, 1:] - means[:, :1]
    noise = 3 * (0.95 * 0.05 / repetitions) ** 0.5
    assert 0.95 - noise < covered(apart, 10) < 0.96 + noise, "and not wider than they need to be"
    assert covered(to_one, 19) > 0.95 - noise
    assert covered(apart, 1) < 0.75, "which is why they are corrected"
    assert abs(covered(apart[:, :1], 1) - 0.95) < noise


def test_three_comparisons_decide_and_are_named_in_advance(reproduce):
    scale = reproduce.scales.MOVED
    width, views, data = reproduce.comparisons.deciding(scale)
    assert (width.first.projector_dim, width.second.projector_dim) == (128, 8192)
    assert width.first.loss_weight is None and width.first.views == width.second.views == 2
    assert views.better and (views.first.views, views.second.views) == (4, 2)
    assert views.first.epochs == views.second.epochs
    assert (data.first.split, data.second.split) == ("train[:5000]", "train")
    assert (data.first.views, data.second.views) == (4, 2)
    assert not width.better and not data.better
    text = [comparison.text.partition(":")[0] for comparison in (width, views, data)]
    assert text == ["width", "views", "data"]
    every = reproduce.comparisons.comparisons(scale)
    pairs = {(c.first, c.second, c.better) for c in every}
    assert {(c.first, c.second, c.better) for c in (width, views, data)} <= pairs
    own = [c for c in every if "its own settings" in c.text]
    assert [(c.first.projector_dim, c.second.projector_dim, c.better) for c in own] == [
        (128, 8192, False)
    ]
    assert own[0].second == scale.wide and own[0].second.loss_weight == 2e-4
    small = reproduce.comparisons.comparisons(reproduce.scales.MOVED_RESNET)
    small = [c for c in small if c.text.startswith("2 + 6 local views")]
    assert [(c.first.local_views, c.second.views, c.better) for c in small] == [
        (6, 4, False),
        (6, 2, True),
    ]
    of_cpu = reproduce.comparisons.comparisons(reproduce.scales.CPU)
    assert len(of_cpu) == 17 and not any(c.first.local_views for c in of_cpu)


def cells(line):
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_a_table_is_corrected_for_the_comparisons_that_it_shows(reproduce):
    comparisons, scale = reproduce.comparisons, reproduce.scales.CPU
    shares = [scale.share(2, views=4), scale.run(), scale.run(views=4), scale.reference]
    rows = [
        row(80.0 + i + seed, seed, **fields_of(config))
        for i, config in enumerate(shares)
        for seed in (0, 1)
    ]
    rows[0]["10-shot"], rows[2]["10-shot"] = 40.0, 41.0  # of two configurations, no seed twice
    runs = reproduce.runs_table.Runs(rows)
    lines = comparisons.claims(scale, rows).splitlines()
    assert cells(lines[0]) == ["comparison", "seeds", "linear", "", "10-shot", ""]
    assert [cells(line)[0] for line in lines[2:]] == [
        "256 wide, weight from the width, as good as 8192 wide",
        "equal epochs: 4 views better than 2",
        "4 views of half of the images as good as 2 of all",
    ]
    assert comparisons.shown(scale, rows, "linear") == 3
    half = runs.half_width(shares[1], shares[2], comparisons=3)
    assert cells(lines[3])[1:] == ["2, 2", f"+1.0 ± {half:.1f}", "undecided", "", ""]
    first = comparisons.claims_of_the_method(scale, rows[2:]).splitlines()
    assert cells(first[0])[2] == "linear, which decides" and len(first) == 4
    # two are there, and the third counts too
    runs = reproduce.runs_table.Runs(rows[2:])
    half = runs.half_width(shares[1], shares[2], comparisons=3)
    assert cells(first[3])[2] == f"+1.0 ± {half:.1f}"


def test_a_loss_whose_seeds_collapse_is_shown_by_seed_and_widens_no_interval(reproduce):
    experiments, tables = reproduce.experiments, reproduce.tables
    scale = reproduce.scales.LOSS_SCALE

    def rows(label, values):
        config = experiments.with_loss(scale, label, 64)
        found = [row(value, seed, **fields_of(config)) for seed, value in enumerate(values)]
        return [line | {"k-NN 20": line["linear"]} for line in found]

    some = rows("bt", (80.0, 82.0)) + rows("sigreg", (70.0, 72.0))
    collapsed = rows("wmse", (20.0, 84.0))
    table = tables.losses_table(scale, some + collapsed).splitlines()
    assert table[2:] and "| wmse | 20.0, 84.0 |  | 20.0, 84.0 |  |" in table
    half = 4.3027 * 2**0.5 / 2**0.5  # Student's t of 2 degrees, over the root of 2 seeds
    assert f"| bt | 81.0 ± {half:.1f} |  | 81.0 ± {half:.1f} |  |" in table
    assert experiments.with_loss(scale, "wmse", 256) is None
    comparison = reproduce.comparisons.Comparison(
        "x", *(experiments.with_loss(scale, label, 64) for label in ("bt", "sigreg"))
    )
    steady = reproduce.runs_table.steady_runs(scale, some + collapsed, "linear")
    assert comparison.verdict(steady) == (f"+10.0 ± {4.3027 * 2**0.5:.1f}", "holds")


def test_runs_of_one_seed_have_no_interval(reproduce):
    scale = reproduce.scales.MOVED
    rows = [line for line in rows_of(reproduce, scale) if line["seed"] == "0"]
    text = reproduce.tables.part_text(scale, rows)
    assert "nan" not in text and "standard deviation over seeds" not in text
    bt = next(line for line in text.splitlines() if line.startswith("| bt | "))
    assert "±" not in bt and len(bt.split("|")) == 9


def test_encoders_without_a_measure_leave_its_cell_empty(reproduce):
    rows = [
        {"encoder": name, "linear": linear, "k-NN 20": knn, "10-shot": shots}
        for name, linear, knn, shots in (
            ("raw pixels", "39.0", "60.9", ""),
            ("raw pixels", "40.0", "60.9", "27.0"),
            ("supervised", "82.0", "", ""),
        )
    ]
    assert reproduce.tables.features_table(rows).splitlines() == [
        "| features | k-NN top-1 | linear top-1 | 10-shot top-1 |",
        "|---|--:|--:|--:|",
        "| raw pixels | 60.9 ± 0.0 | 39.5 ± 0.7 | 27.0 |",
        "| supervised |  | 82.0 |  |",
    ]


def test_correlations_are_of_all_runs_or_one_loss(reproduce):
    scale = reproduce.scales.CPU
    rows = []
    for i, (loss, linear, alpha) in enumerate(
        [("bt", 60, 1.0), ("bt", 61, 1.1), ("bt", 62, 1.2), ("spectral", 50, 3.0)]
    ):
        found = row(float(linear), seed=i, loss=loss)
        found |= {"alpha": alpha, "rankme": -alpha}
        rows.append(found | {"lidar": "" if i == 0 else 10.0 + linear})
    runs = reproduce.runs_table.Runs(rows)
    of_bt = reproduce.tables.correlations(runs, "bt")
    assert of_bt == pytest.approx({"alpha": 1.0, "rankme": -1.0}), "two runs have a lidar"
    of_all = reproduce.tables.correlations(runs)
    assert of_all == pytest.approx({"alpha": -0.2, "rankme": 0.2, "lidar": 1.0})
    table = reproduce.tables.correlations_table(scale, rows).splitlines()
    assert table[2:] == [
        "| alpha | -0.20 | 1.00 |",
        "| rankme | 0.20 | -1.00 |",
        "| lidar | 1.00 |  |",
    ]


def test_everything_of_a_part_is_printed_in_order(reproduce):
    scale = reproduce.scales.MOVED
    text = reproduce.tables.part_text(scale, rows_of(reproduce, scale))
    heads = [
        *(
            "## fashion-mnist-moved-sample, convnext_zepto_rms",
            "| features | k-NN top-1 | linear top-1 | 10-shot",
        ),
        *("| claim of the method |", "| comparison |", "| loss, views, width | minutes to"),
        *(
            "linear, to the accuracy of 8192 dimensions: 128",
            "| loss | k-NN, 64 wide |",
            "| Spearman |",
        ),
        "| trained by | epochs | minutes |",
    ]
    places = [text.index(f"\n{head}" if head[0] == "|" else head) for head in heads]
    assert places == sorted(places)
    assert text.count("| minutes to ") == 3 and "nan" not in text
    assert "| supervised | " in text.split("| claim of")[0] and "| lightly | 2 | 1.0 |" in text


def test_settings_to_choose_from_stand_beside_raw_pixels_and_by_data_set(reproduce):
    rows = []
    for part, plus in zip(reproduce.scales.CHOICE, (0.0, 10.0), strict=True):
        dataset = part.reference.dataset
        pixels = {"dataset": dataset, "encoder": "raw pixels", "command": "", "linear": "30"}
        small = part.run(views=4, loss="vicreg", batch_size=64)
        line = {"dataset": dataset, "command": reproduce.run.command(small)}
        rows += [pixels, line | {"encoder": "pretrained", "linear": str(60 + plus)}]
    head, rule, *lines = reproduce.tables.choice_table(rows, "choice").splitlines()
    assert head.startswith("| settings | k-NN, moved | linear, moved |")
    assert lines == ["| raw pixels |  | 30.0 |  |  | 30.0 |  |"]
    known = part.run(views=4, batch_size=64)  # which is one of the plan
    rows[-1]["command"] = reproduce.run.command(known)
    lines = reproduce.tables.choice_table(rows, "choice").splitlines()
    assert lines[3:] == ["| bt, 4 views, 128 wide, batch 64 |  |  |  |  | 70.0 |  |"]
    # of which the aligned sample has no runs
    head, _, *lines = reproduce.tables.choice_table(rows, "tuning").splitlines()
    assert head == "| settings | k-NN, moved | linear, moved | 10-shot, moved |"
    assert lines == ["| raw pixels |  | 30.0 |  |"]
