"""model_cards/results.md: its tables are those of results.csv, and what it says of them is so."""

import dataclasses
import itertools
import re
import statistics
from pathlib import Path

import pytest
from PIL import Image
from scipy import stats

import effssl
from effssl.local import MOVED_SAMPLE, SAMPLE
from effssl.loss_specs import LOSSES
from effssl.loss_weights import barlow_twins_lambd
from effssl.timm_backbone import BACKBONE_ARGS

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
RESULTS = (ROOT / "model_cards" / "results.md").read_text()


def test_the_tables_come_from_the_results(reproduce, results, cpu_results):
    tables, scales = reproduce.tables, reproduce.scales
    choice = [row for key, some in results.items() if key[0] == "choice" for row in some]
    for study in ("choice", "tuning"):
        assert tables.choice_table(choice, study) in RESULTS
    others = [
        row for row in cpu_results[scales.MOVED] if row["encoder"] not in ("pretrained", "lightly")
    ]
    assert tables.features_table(others) in RESULTS
    for part, of_part in cpu_results.items():
        assert tables.claims_of_the_method(part, of_part) in RESULTS
        assert tables.claims(part, of_part) in RESULTS
        linear = tables.steady_runs(part, of_part, "linear")
        assert tables.time_table(part, linear) in RESULTS
    moved = cpu_results[scales.MOVED]
    few = tables.steady_runs(scales.MOVED, moved, "10-shot")
    assert tables.time_table(scales.MOVED, few) in RESULTS
    for part in (scales.MOVED, scales.MOVED_RESNET):
        assert tables.correlations_table(part, cpu_results[part]) in RESULTS
        assert tables.losses_table(part, cpu_results[part]) in RESULTS
    assert tables.lightly_table(scales.MOVED, moved) in RESULTS
    assert tables.losses_table(scales.LOSS_SCALE, results["losses", SAMPLE]) in RESULTS


def test_what_is_said_of_the_runs_on_the_moved_sample_is_so(reproduce, results, cpu_results):
    part = reproduce.scales.MOVED
    of_part = cpu_results[part]
    text = " ".join(RESULTS.split())
    knn = reproduce.tables.steady_runs(part, of_part, "k-NN 20")
    random = [float(r["k-NN 20"]) for r in of_part if r["encoder"] == "random weights"]
    assert knn.mean(part.reference) < statistics.fmean(random)  # below random weights by k-NN
    held_out = reproduce.scales.CHOICE[0]
    of_choice = reproduce.tables.Runs(results["choice", MOVED_SAMPLE])
    study = [run for run in reproduce.experiments.tuning(held_out) if of_choice.of(run)]
    for dim in (128, 8192):  # what is best for a width is what it was given
        of_width = [run for run in study if run.projector_dim == dim]
        assert max(of_width, key=of_choice.mean) == held_out.run(
            projector_dim=dim, **part.tuned[dim]
        )
    linear = reproduce.tables.steady_runs(part, of_part, "linear")
    own = [linear.mean(part.tuned_run(dim)) for dim in (8192, 128)]
    assert (
        "8192 dimensions have {:.1f} % on the test images and 128 have {:.1f} %".format(*own)
        in text
    )
    width = linear.mean(part.run()) - linear.mean(part.reference)
    count = reproduce.comparisons.shown(part, of_part, "linear")
    verdicts = {
        claim.text: claim.verdict(linear, count)
        for claim in reproduce.comparisons.comparisons(part)
    }
    first = next(iter(verdicts))
    assert f"so that {verdicts[first][0][1:]} of the {width:.1f} points are left" in text
    verdicts = {text: verdict for text, (_, verdict) in verdicts.items()}
    two, four, eight = (
        reproduce.times.family_times(part, linear)[reproduce.runs_table.Family("bt", views)]
        for views in (2, 4, 8)
    )
    saved = [100 * (1 - share) for share in (two.of_wide.share.low, *two.of_wide.interval[::-1])]
    said = (
        "most of the time, {:.0f} % of it by linear probe with an interval from {:.0f} to {:.0f} %"
    )
    assert said.format(*saved) in text
    for time, said in ((four, "4 take {} times the minutes of 2"), (eight, "8 take {} times")):
        share, (low, high) = f"{time.of_two.share.low:.2f}", time.of_two.interval
        assert f"({low:.2f} to {high:.2f})" in text and said.format(share) in text
    by_knn = reproduce.times.family_times(part, knn)
    assert by_knn and all(time.minutes.low == 0 for time in by_knn.values())
    assert "By k-NN the shortest schedules reach the goal already" in text
    # at equal views, for about equal minutes
    for views in (4, 8):
        minutes = linear.minutes(part.run(views=views, epochs=2 / views))
        assert minutes == pytest.approx(linear.minutes(part.run()), rel=0.2), views
    assert verdicts["equal views: 8 as good as 2"] == "does not hold"  # 8 are worse than 2
    assert verdicts["equal views: 4 as good as 2"] == "undecided"
    wide, narrow = (linear.spread(run) for run in (part.reference, part.run()))
    ratio = (wide.std / narrow.std) ** 2  # by linear probe seeds of 8192 differ more
    assert stats.f.sf(ratio, wide.freedom, narrow.freedom) < 0.001
    best = {loss: of_choice.mean(held_out.run(views=4, loss=loss)) for loss in ("bt", "spectral")}
    assert best["bt"] - best["spectral"] == pytest.approx(20, abs=1)
    resnet = reproduce.experiments.RESNET | {"views": 4, "batch_size": 64}
    for fields in ({}, {"epochs": 2}, {"epochs": 2, "lr": 4e-3}):
        small = {name: held_out.run(loss=name, **resnet, **fields) for name in ("bt", "spectral")}
        assert of_choice.mean(small["spectral"]) >= of_choice.mean(small["bt"])
    chosen = dataclasses.replace(reproduce.scales.FIRST, split=held_out.reference.split)
    others = [run for run in reproduce.experiments.choice(held_out) if run.loss == "coding_rate"]
    others = [run for run in others if run.backbone == chosen.backbone and of_choice.of(run)]
    more = {}
    for name in ("linear", "k-NN 20", "10-shot"):
        runs = reproduce.tables.Runs(results["choice", MOVED_SAMPLE], name)
        for run in others:
            more.setdefault(run, []).append(runs.mean(run) - runs.mean(chosen))
    assert f"have at most {max(max(some) for some in more.values()):.1f} points more" in text
    for run, some in more.items():
        assert run == chosen or min(some) < 0 or run.epochs > chosen.epochs
    pixels = [row for row in results["choice", SAMPLE] if row["encoder"] == "raw pixels"][0]
    aligned, names = dataclasses.replace(chosen, dataset=SAMPLE), ("k-NN 20", "10-shot", "linear")
    ours = [reproduce.tables.Runs(results["choice", SAMPLE], name).mean(aligned) for name in names]
    said = (
        "have {:.1f} % by k-NN, {:.1f} % with ten labels and {:.1f} % by linear probe on held-out"
    )
    assert said.format(*ours) in text
    theirs = [float(pixels[name]) for name in names]
    assert "raw pixels have {:.1f}, {:.1f} and {:.1f} %".format(*theirs) in text


def test_what_is_said_of_the_runs_on_all_moved_images_is_so(reproduce, results):
    part, tables, text = reproduce.scales.WHOLE, reproduce.tables, " ".join(RESULTS.split())
    of_part = results["whole", part.reference.dataset]
    others = [row for row in of_part if row["encoder"] != "pretrained"]
    assert tables.features_table(others) in RESULTS
    assert tables.claims_of_the_method(part, of_part) in RESULTS
    assert tables.claims(part, of_part) in RESULTS
    linear, knn = (tables.steady_runs(part, of_part, name) for name in ("linear", "k-NN 20"))
    configs = [part.run(), *(part.share(images, views=2) for images in (2, 4, 16))]
    shares = [f"{linear.mean(config):.1f}" for config in configs]
    said = "2 views of all, a half, a quarter and a sixteenth of them have {}, {}, {} and {} %"
    assert said.format(*shares) in text
    pixels = statistics.fmean(float(r["k-NN 20"]) for r in others if r["encoder"] == "raw pixels")
    ours = [knn.mean(part.run(views=views)) for views in (2, 4)]
    assert (
        "raw pixels have {:.1f} %, 2 views {:.1f} and 4 views {:.1f}".format(pixels, *ours) in text
    )
    deciding = reproduce.comparisons.deciding(part)
    verdicts = [claim.verdict(linear, 3, pooled=False) for claim in deciding]
    assert [said for _, said in verdicts] == ["undecided", "holds", "undecided"]
    said = "one epoch: width {}, undecided; views {}; images {}, undecided."
    assert said.format(*(points for points, _ in verdicts)) in " ".join(README.split())
    wide = [float(row["linear"]) for row in linear.rows[part.reference]]
    assert f"dimensions differ by {max(wide) - min(wide):.0f} points" in text
    half, steps = part.share(2, views=4), part.run(views=4, epochs=1 / 2)
    reach = abs(linear.mean(half) - linear.mean(part.run()))
    reach += linear.half_width(half, part.run(), comparisons=3, pooled=False)
    assert 0.5 < reach < 1 and "within 1 point of 2 views of all by linear probe" in text
    few = tables.steady_runs(part, of_part, "10-shot")
    behind = [few.mean(part.run()) - few.mean(config) for config in (half, steps)]
    said = (
        "With few labels they are {:.1f} points behind, as are 4 views of all images at equal views"
    )
    assert said.format(behind[0]) + f" ({behind[1]:.1f})" in text


def test_what_is_said_of_the_runs_with_the_small_resnet_is_so(reproduce, cpu_results):
    scales, text = reproduce.scales, " ".join(RESULTS.split())
    part = scales.MOVED_RESNET
    linear = reproduce.tables.steady_runs(part, cpu_results[part], "linear")
    small_crops, _, two, four = reproduce.experiments.local(part)
    less, more = linear.mean(four) - linear.mean(small_crops), linear.mean(small_crops)
    more -= linear.mean(two)
    assert f"{less:.1f} points less than 4 views by linear probe, {more:.1f} more than 2" in text
    minutes = [  # of the same seeds
        [float(row["minutes"]) for row in linear.rows[config][:3]] for config in (small_crops, four)
    ]
    assert statistics.median(minutes[0]) == pytest.approx(statistics.median(minutes[1]), rel=0.1)
    by_length = [linear.mean(part.run(views=4, epochs=2**k)) for k in range(-2, 5)]
    shown = ", ".join(f"{accuracy:.1f}" for accuracy in by_length[:-1])
    assert f"have {shown} and {by_length[-1]:.1f} % after 1, 2, 4, 8, 16, 32 and 64 epochs" in text
    first = linear.mean(scales.FIRST)
    assert first == pytest.approx(by_length[-1], abs=0.5) and scales.FIRST.epochs == 8
    gains = []
    for name in ("k-NN 20", "10-shot"):
        runs = reproduce.tables.steady_runs(part, cpu_results[part], name)
        of = [runs.mean(part.run(views=4, epochs=2**k)) for k in range(-2, 5)]
        gains.append([more - less for less, more in itertools.pairwise(of)])
    said = "each doubling gives {:.1f} to {:.1f} points more, the last one {:.1f} and {:.1f}"
    least, most = min(map(min, gains)), max(map(max, gains))
    assert said.format(least, most, *(of[-1] for of in gains)) in text
    minutes = linear.minutes(part.run(views=4, epochs=16))
    assert f"64 epochs, which take {minutes:.0f} minutes on a core" in text
    found = {}
    for name in ("MOVED", "MOVED_RESNET"):
        runs = reproduce.tables.Runs(cpu_results[getattr(scales, name)], "linear")
        found[name] = reproduce.tables.correlations(runs, "bt")
    of = [found[name][measure] for measure in ("rankme", "alpha") for name in found]
    assert f"with the ConvNeXt ({of[0]:.2f}) and against it with the ResNet ({of[1]:.2f})" in text
    assert f"with the ResNet ({of[3]:.2f}), hardly does with the ConvNeXt ({of[2]:.2f})" in text
    elsewhere = [row for some in cpu_results.values() for row in some if row["torch"][:4] == "2.11"]
    dims = {reproduce.tables.parse(row["command"]).projector_dim for row in elsewhere}
    assert dims == {64, 256} and part.small_width == scales.MOVED.small_width == 128


def test_what_is_said_of_the_losses_on_the_moved_sample_is_so(reproduce, cpu_results):
    scales, text = reproduce.scales, " ".join(RESULTS.split())
    mean = {}
    for part in (scales.MOVED, scales.MOVED_RESNET):
        for measure in ("linear", "k-NN 20", "10-shot"):
            runs = reproduce.tables.Runs(cpu_results[part], measure)
            for label in reproduce.experiments.LOSS_ROWS:
                for dim in (64, 256):
                    config = reproduce.experiments.with_loss(part, label, dim)
                    if config is not None:
                        key = (part.reference.backbone, measure, dim)
                        mean.setdefault(key, {})[label] = runs.mean(config)
    for (backbone, _, dim), of in mean.items():
        if backbone == "test_resnet" or dim == 64:
            assert max(of, key=of.get) == "coding_rate"
    convnext, resnet = (
        [mean[part.reference.backbone, "linear", dim] for dim in (64, 256)]
        for part in (scales.MOVED, scales.MOVED_RESNET)
    )
    ahead = [of["coding_rate"] - of["bt"] for of in resnet]
    assert "{:.1f} and {:.1f} points above `bt` by linear".format(*ahead) in text
    assert f"it is {convnext[1]['bt'] - convnext[1]['coding_rate']:.1f} points behind `bt`" in text
    behind = [of["bt"] - of["spectral"] for of in convnext]
    assert "`spectral` is {:.1f} and {:.1f} points behind".format(*behind) in text
    collapsed = [convnext[0][label] for label in ("wmse", "wmse, 1024 hidden")]
    assert max(collapsed) < 35 and min(min(of.values()) for of in resnet) > 60


@pytest.mark.parametrize(
    "name, shown", [("MOVED", "1.9 million"), ("MOVED_RESNET", "0.37 million")]
)
def test_the_size_of_a_backbone_is_as_said(reproduce, name, shown):
    config = getattr(reproduce.scales, name).reference
    model = reproduce.run.untrained(config)
    weights = sum(parameter.numel() for parameter in model.backbone.parameters()) / 1e6
    assert shown.startswith((f"{weights:.1f} ", f"{weights:.2f} "))
    assert f"`{config.backbone}` with {shown} weights" in " ".join(RESULTS.split())


def test_the_size_of_the_widest_projector_is_as_said(reproduce):
    config = reproduce.scales.MOVED.reference
    args = ("projector_dim", "projector_layers", *BACKBONE_ARGS)
    model = effssl.create_model(config.backbone, **{name: getattr(config, name) for name in args})
    projector, backbone = (
        sum(parameter.numel() for parameter in part.parameters())
        for part in (model.projector, model.backbone)
    )
    said = f"which has {projector / backbone:.0f} times the weights of the backbone"
    assert said in " ".join(RESULTS.split())


def test_what_is_said_of_the_weight_and_of_the_recipe_of_lightly_is_so(
    reproduce, results, cpu_results
):
    part, text = reproduce.scales.MOVED, " ".join(RESULTS.split())
    of_part = cpu_results[part]
    linear, knn = (reproduce.tables.Runs(of_part, name) for name in ("linear", "k-NN 20"))

    def lost(runs, dim, weight):
        config = part.run(projector_dim=dim)
        changed = dataclasses.replace(config, loss_weight=weight)
        return runs.mean(config) - runs.mean(changed)

    narrow, fixed = (32, 64, 128, 256, 512), barlow_twins_lambd(8192)
    points = [sorted(lost(runs, dim, fixed) for dim in narrow) for runs in (linear, knn)]
    said = "lose {:.0f} to {:.0f} points by linear probe, and {:.0f} to {:.0f} by k-NN"
    assert said.format(*(end for some in points for end in (some[0], some[-1]))) in text
    large = {dim: lost(linear, dim, round(4 * barlow_twins_lambd(dim), 5)) for dim in narrow}
    least = min(large[dim] for dim in (128, 256, 512))
    assert f"lose {least:.1f} points or more by linear probe, 32 and 64 none" in text
    assert max(large[32], large[64]) <= 0 and "32 and 64 none" in text
    held_out = reproduce.scales.CHOICE[0]
    of_choice = reproduce.tables.Runs(results["choice", MOVED_SAMPLE])

    def less(dim, part, **fields):
        """Return the points that a part of the weight of the law has more, held out."""
        weight = round(barlow_twins_lambd(dim) * part, 6)
        pair = [held_out.run(projector_dim=dim, loss_weight=w, **fields) for w in (weight, None)]
        return of_choice.mean(pair[0]) - of_choice.mean(pair[1])

    assert max(abs(less(dim, 1 / 4)) for dim in (256, 512, 1024, 2048)) <= 2.05
    sixteenth = sorted(-less(dim, 1 / 16) for dim in (256, 512, 1024, 2048))
    assert f"a sixteenth loses {sixteenth[0]:.0f} to {sixteenth[-1]:.0f} points" in text
    wide = less(8192, 1 / 4), less(8192, 1 / 4, lr=8e-3)
    assert "by {:.1f} points at the rate of all and {:.1f} at 0.008".format(*wide) in text
    theirs = reproduce.tables.Runs(of_part, "linear", "lightly")
    longer = [
        theirs.minutes(key) / linear.minutes(part.run(epochs=float(some[0]["epochs"]) / 4))
        for key, some in theirs.rows.items()
    ]
    said = "Its epochs take {:.1f} to {:.1f} times the minutes of those of 2 views"
    assert said.format(min(longer), max(longer)) in text
    peer = reproduce.peer
    held_out = {
        row["command"]: row
        for row in results["choice", MOVED_SAMPLE]
        if row["encoder"] == "lightly"
    }
    chosen, start = (
        float(held_out[peer.Run("choice", recipe, 4, 0).command]["linear"])
        for recipe in (peer.Recipe(), peer.START)
    )
    assert chosen == max(float(row["linear"]) for row in held_out.values())
    assert f"have {start:.1f} % on the held-out images, the chosen ones {chosen:.1f} %" in text


def test_what_is_said_of_the_runs_on_the_aligned_sample_is_so(reproduce, cpu_results):
    scale = reproduce.scales.CPU
    of_part = cpu_results[scale]
    linear, knn = (reproduce.tables.Runs(of_part, name) for name in ("linear", "k-NN 20"))
    text = " ".join(RESULTS.split())
    packaged = scale.run(views=4, loss="spectral")
    assert f"k-NN {knn.mean(packaged):.1f} %, linear {linear.mean(packaged):.1f} %" in text
    assert linear.mean(scale.run()) >= linear.mean(scale.reference)
    times = reproduce.times.family_times(scale, linear)
    assert times and all(time.of_wide.share.high < 1 / 4 for time in times.values())
    assert "every small projector is there in less than a quarter of the time" in text
    ahead = knn.mean(scale.run(views=4)) - knn.mean(scale.run())
    assert f"4 views are {ahead:.1f} points above 2 by k-NN" in text
    strong = [scale.run(loss_weight=weight) for weight in (0.32, 1.28)]
    assert "({:.1f} and {:.1f} %, one seed)".format(*map(linear.mean, strong)) in text
    of_linear, of_knn = (reproduce.tables.correlations(runs) for runs in (linear, knn))
    assert f"(Spearman {of_linear['alpha']:.2f} and {of_linear['rankme']:.2f} over all" in text
    assert f"RankMe goes with k-NN ({of_knn['rankme']:.2f})" in text


def test_what_is_said_of_the_losses_on_the_aligned_sample_is_so(reproduce, results):
    text, scale = " ".join(RESULTS.split()), reproduce.scales.LOSS_SCALE
    of_losses = results["losses", SAMPLE]
    names = [name for name in LOSSES if name != "wmse"]
    linear, knn = (
        reproduce.tables.steady_runs(scale, of_losses, measure) for measure in ("linear", "k-NN 20")
    )

    def mean(runs, name, dim):
        return runs.mean(reproduce.experiments.with_loss(scale, name, dim))

    gain = {name: mean(knn, name, 256) - mean(knn, name, 64) for name in names}
    assert f"({gain.pop('spectral'):.1f} and {gain.pop('coding_rate'):.1f} points)" in text
    assert f"SIGReg gain at most {max(gain.values()):.1f}" in text
    for dim in (64, 256):
        assert max(names, key=lambda name: mean(knn, name, dim)) == "spectral"
    values = [mean(linear, name, dim) for name in names for dim in (64, 256)]
    assert f"all lie within {max(values) - min(values):.1f} points" in text
    pair = [reproduce.experiments.with_loss(scale, name, 64) for name in ("bt", "vicreg")]
    chance = [runs.half_width(*pair) for runs in (knn, linear)]
    assert "more than {:.1f} (k-NN) or {:.1f} points (linear)".format(*chance) in text
    above = [mean(knn, "sigreg", 64) - mean(knn, n, 64) for n in ("bt", "vicreg", "simclr")]
    assert min(above) > chance[0]
    strong, weak = (
        [mean(linear, name, 256) for name in some]
        for some in (("simclr", "vicreg"), ("sigreg", "spectral"))
    )
    assert min(strong) - max(weak) > chance[1]
    pixels = float(re.search(r"raw pixels have ([\d.]+) and [\d.]+ %", text)[1])
    beat = [(name, dim) for name in names for dim in (64, 256) if mean(knn, name, dim) > pixels]
    assert beat == [("spectral", 64), ("spectral", 256), ("coding_rate", 256)]


def test_every_figure_is_there():
    figures = re.findall(r"!\[.+?\]\((.+?)\)", RESULTS)
    assert len(figures) >= 3
    for figure in figures:
        with Image.open(ROOT / "model_cards" / figure) as image:
            assert image.width > 400
