"""README and results: their tables are those of results.csv, the first screen is what CI types."""

import dataclasses
import re
import statistics
from pathlib import Path

import pytest
from PIL import Image

import effssl
from effssl.local import MOVED_SAMPLE, SAMPLE
from effssl.loss_specs import LOSSES
from effssl.loss_weights import barlow_twins_lambd

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
RESULTS = (ROOT / "model_cards" / "results.md").read_text()
TRAINING = (ROOT / "docs" / "training.md").read_text()


@pytest.fixture(scope="module")
def rows(reproduce):
    """The lines of the table, by scale and data set."""
    found = {}
    for row in reproduce.run.read_results(reproduce.run.RESULTS):
        found.setdefault((row["scale"], row["dataset"]), []).append(row)
    return found


def test_the_table_of_the_first_command_is_that_of_its_runs(reproduce, rows):
    part, first = reproduce.scales.MOVED, reproduce.scales.FIRST
    of_part = rows["cpu", MOVED_SAMPLE]
    pretrained = reproduce.tables.Runs(of_part).rows[first]
    others = [row for row in of_part if row["encoder"] not in ("pretrained", "lightly")]
    assert len(pretrained) >= 3
    above = [row for row in others if row["encoder"] != "supervised"]
    ceiling = [row for row in others if row["encoder"] == "supervised"]
    table = reproduce.tables.features_table([*above, *pretrained, *ceiling])
    assert table in README and table in RESULTS
    (line,) = re.findall(r"^effssl pretrain --dataset fashion-mnist-moved.*$", README, re.M)
    config = reproduce.tables.parse(line)
    for name in ("seed", "cpu", "evaluate_every", "output"):  # none of which the weights show
        config = effssl.PretrainConfig(**{**vars(config), name: getattr(first, name)})
    assert config == first
    # at least this much above raw pixels, in points
    pixels = [row for row in others if row["encoder"] == "raw pixels"]
    for name, least in (("linear", 25), ("10-shot", 15), ("k-NN 20", 4)):
        ours, theirs = ([float(row[name]) for row in some] for some in (pretrained, pixels))
        assert statistics.fmean(ours) - statistics.fmean(theirs) >= least
    assert f"all labels for {part.supervised_epochs} epochs" in " ".join(README.split())


def test_what_the_method_gives_is_what_decides_its_claims(reproduce, rows):
    text = " ".join(README.split())
    deciding, steady_runs = reproduce.comparisons.deciding, reproduce.tables.steady_runs
    linear = {
        part: steady_runs(part, rows["cpu", part.reference.dataset], "linear")
        for part in reproduce.scales.SCALES["cpu"]
    }
    verdicts = {
        part: [claim.verdict(runs, 3, pooled=False) for claim in deciding(part)]
        for part, runs in linear.items()
    }
    part = reproduce.scales.MOVED
    (width, wide), (views, more), (data, fewer) = verdicts[part]
    times = reproduce.times.family_times(part, linear[part])
    two = times[reproduce.runs_table.Family("bt", 2)]
    assert (wide, more, fewer) == ("holds", "holds", "undecided")
    assert f"128 wide against one 8192 wide: {width} points" in text
    assert f"as far after {100 * two.of_reference.share.low:.0f} % of the minutes" in text
    assert two.of_reference.interval.high <= 0.5, "half of the time of the reference"
    assert f"4 views against 2 at equal epochs: {views} points" in text
    assert f"against 2 of all, at equal views: {data} points, undecided" in text
    # at equal views, for about equal minutes
    for views in (4, 8):
        minutes = linear[part].minutes(part.run(views=views, epochs=2 / views))
        assert minutes == pytest.approx(linear[part].minutes(part.run()), rel=0.2), views
    fixed = dataclasses.replace(part.run(), loss_weight=barlow_twins_lambd(8192))
    lost = linear[part].mean(part.run()) - linear[part].mean(fixed)
    assert f"with that of 8192, 128 dimensions lose {lost:.1f} points" in text
    theirs = reproduce.tables.Runs(rows["cpu", MOVED_SAMPLE], "linear", "lightly")
    (eight,) = (key for key in theirs.rows if "--epochs 8 " in key)
    two = part.run(epochs=2)
    assert two.epochs == 8
    said = (theirs.mean(eight), theirs.minutes(eight))
    assert "its 8 epochs reach {:.1f} % in {:.1f} minutes".format(*said) in text
    said = (linear[part].mean(two), linear[part].minutes(two))
    assert "those of 2 views here {:.1f} % in {:.1f}".format(*said) in text
    assert {said for _, said in verdicts[reproduce.scales.CPU]} == {"undecided"}


def test_what_is_said_of_the_aligned_sample_is_so(reproduce, rows):
    scale, of_losses = reproduce.scales.LOSS_SCALE, rows["losses", SAMPLE]
    pixels = [row for row in of_losses if row["encoder"] == "raw pixels"]

    def pair(some):
        measures = ("k-NN 20", "linear")
        means = (statistics.fmean(float(row[name]) for row in some) for name in measures)
        return tuple(round(mean, 1) for mean in means)

    runs = reproduce.tables.Runs(of_losses).rows
    means = {"pixels": pair(pixels)}
    for loss in ("bt", "coding_rate", "spectral"):
        config = reproduce.experiments.with_loss(scale, loss, 256)
        means[loss] = pair(runs[config])
        assert (config.epochs, config.views, config.batch_size) == (3, 4, 128)
    said = (
        "raw pixels have {} and {} % by k-NN and linear probe. "
        "After 3 epochs of 4 views, 256 wide, in batches of 128, `bt` has {} and {} %, "
        "`coding_rate` {} and {} % and `spectral` {} and {} %: "
        "these two have more than raw pixels by both"
    )
    numbers = [number for both in means.values() for number in both]
    assert said.format(*numbers) in " ".join(README.split())
    for loss in ("coding_rate", "spectral"):
        assert all(a > b for a, b in zip(means[loss], means["pixels"], strict=True))


def test_the_tables_come_from_the_results(reproduce, rows):
    tables, scales = reproduce.tables, reproduce.scales
    choice = [row for key, some in rows.items() if key[0] == "choice" for row in some]
    assert tables.choice_table(choice) in RESULTS
    for part in scales.SCALES["cpu"]:
        of_part = rows["cpu", part.reference.dataset]
        assert tables.claims_of_the_method(part, of_part) in RESULTS
        assert tables.claims(part, of_part) in RESULTS
        linear = tables.steady_runs(part, of_part, "linear")
        assert tables.time_to_reference(part, linear) in RESULTS
    moved = rows["cpu", MOVED_SAMPLE]
    few = tables.steady_runs(scales.MOVED, moved, "10-shot")
    assert tables.time_to_reference(scales.MOVED, few) in RESULTS
    assert tables.correlations_table(scales.MOVED, moved) in RESULTS
    assert tables.lightly_table(scales.MOVED, moved) in RESULTS
    of_losses = rows["losses", SAMPLE]
    assert tables.losses_table(scales.LOSS_SCALE, of_losses) in RESULTS
    check_what_is_said_of_the_losses(reproduce, of_losses)


def test_what_is_said_of_the_runs_on_the_moved_sample_is_so(reproduce, rows):
    part, of_part = reproduce.scales.MOVED, rows["cpu", MOVED_SAMPLE]
    text = " ".join(RESULTS.split())
    knn = reproduce.tables.steady_runs(part, of_part, "k-NN 20")
    random = [float(r["k-NN 20"]) for r in of_part if r["encoder"] == "random initialisation"]
    assert knn.mean(part.reference) < statistics.fmean(random)  # below random weights by k-NN
    held_out = reproduce.scales.CHOICE[0]
    of_choice = reproduce.tables.Runs(rows["choice", MOVED_SAMPLE])
    wide, narrow = (
        [of_choice.mean(held_out.run(projector_dim=dim, lr=lr)) for lr in (1e-3, 2e-3, 4e-3, 8e-3)]
        for dim in (8192, 128)
    )
    assert "they have {:.1f}, {:.1f}, {:.1f} and {:.1f} % by linear".format(*wide) in text
    assert "128 dimensions have {:.1f}, {:.1f}, {:.1f} and {:.1f} %".format(*narrow) in text
    less = held_out.run(projector_dim=8192, loss_weight=barlow_twins_lambd(8192) / 4)
    assert f"and {of_choice.mean(less):.1f} % at 2e-3 with a quarter of the weight" in text
    assert max(*wide, of_choice.mean(less)) < max(narrow)
    linear = reproduce.tables.steady_runs(part, of_part, "linear")
    count = reproduce.comparisons.shown(part, of_part, "linear")
    verdicts = {
        claim.text: claim.verdict(linear, count)[1]
        for claim in reproduce.comparisons.comparisons(part)
    }
    assert verdicts["equal views: 8 as good as 2"] == "does not hold"  # 8 are worse than 2
    assert verdicts["equal views: 4 as good as 2"] == "undecided"
    spreads = [linear.spread(run).std for run in (part.reference, part.run())]
    assert spreads[0] > 3 * spreads[1]  # by linear probe seeds of 8192 differ more
    best = {loss: of_choice.mean(held_out.run(views=4, loss=loss)) for loss in ("bt", "spectral")}
    assert best["bt"] - best["spectral"] == pytest.approx(20, abs=1)
    resnet = reproduce.experiments.RESNET | {"views": 4, "batch_size": 64}
    for fields in ({}, {"epochs": 2}, {"epochs": 2, "lr": 4e-3}):
        small = {name: held_out.run(loss=name, **resnet, **fields) for name in ("bt", "spectral")}
        assert of_choice.mean(small["spectral"]) >= of_choice.mean(small["bt"])
    card = next((ROOT / "model_cards").glob("*-moved-sample/README.md")).read_text()
    (weights,) = re.findall(r"Parameters of the backbone \| ([\d,]+) ", card)
    assert f"with {int(weights.replace(',', '')) / 1e6:.1f} million weights, batch 128" in text


def test_what_is_said_of_the_weight_and_of_the_recipe_of_lightly_is_so(reproduce, rows):
    part, text = reproduce.scales.MOVED, " ".join(RESULTS.split())
    of_part = rows["cpu", MOVED_SAMPLE]
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
    assert min(large[dim] for dim in (128, 256, 512)) > 13
    assert f"32 and 64 at most {max(large[32], large[64]):.1f}" in text
    assert max(lost(linear, dim, fixed) for dim in (1024, 2048)) < 0
    theirs = reproduce.tables.Runs(of_part, "linear", "lightly")
    longer = [
        theirs.minutes(key) / linear.minutes(part.run(epochs=float(some[0]["epochs"]) / 4))
        for key, some in theirs.rows.items()
    ]
    said = "Its epochs take {:.1f} to {:.1f} times the minutes of those of 2 views"
    assert said.format(min(longer), max(longer)) in text
    peer = reproduce.peer
    held_out = {
        row["command"]: row for row in rows["choice", MOVED_SAMPLE] if row["encoder"] == "lightly"
    }
    chosen, start = (
        float(held_out[peer.Run("choice", recipe, 4, 0).command]["linear"])
        for recipe in (peer.Recipe(), peer.START)
    )
    assert chosen == max(float(row["linear"]) for row in held_out.values())
    assert f"have {start:.1f} % on the held-out images, the chosen ones {chosen:.1f} %" in text


def test_what_is_said_of_the_runs_on_the_aligned_sample_is_so(reproduce, rows):
    scale, of_part = reproduce.scales.CPU, rows["cpu", SAMPLE]
    linear, knn = (reproduce.tables.Runs(of_part, name) for name in ("linear", "k-NN 20"))
    text = " ".join(RESULTS.split())
    packaged = scale.run(views=4, loss="spectral")
    assert f"k-NN {knn.mean(packaged):.1f} %, linear {linear.mean(packaged):.1f} %" in text
    assert linear.mean(scale.run()) >= linear.mean(scale.reference)
    ahead = knn.mean(scale.run(views=4)) - knn.mean(scale.run())
    assert f"4 views are {ahead:.1f} points above 2 by k-NN" in text
    strong = [scale.run(loss_weight=weight) for weight in (0.32, 1.28)]
    assert "({:.1f} and {:.1f} %, one seed)".format(*map(linear.mean, strong)) in text
    of_linear, of_knn = (reproduce.tables.correlations(scale, runs) for runs in (linear, knn))
    assert f"(Spearman {of_linear['alpha']:.2f} and {of_linear['rankme']:.2f} over all" in text
    assert f"RankMe goes with k-NN ({of_knn['rankme']:.2f})" in text


def check_what_is_said_of_the_losses(reproduce, rows):
    text, scale = " ".join(RESULTS.split()), reproduce.scales.LOSS_SCALE
    names = [name for name in LOSSES if name != "wmse"]
    linear, knn = (
        reproduce.tables.steady_runs(scale, rows, measure) for measure in ("linear", "k-NN 20")
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


def test_every_flag_in_the_table_is_a_field():
    fields = set(effssl.PretrainConfig.__dataclass_fields__)
    table = TRAINING.split("| flag | meaning |")[1].split("\n\n")[0]
    flags = re.findall(r"`--([a-z-]+)`", table)
    assert len(flags) >= 8 and {flag.replace("-", "_") for flag in flags} <= fields


def test_the_first_block_is_what_ci_types():
    first = re.search(r"```bash\n(.*?)```", README, re.S)[1].splitlines()
    assert first[0] == "pip install ." and first[1].startswith("effssl pretrain ")
    assert first[2].startswith("effssl evaluate runs/first") and "\n## Test\n" in README


@pytest.mark.parametrize("name", ["LICENSE", "train.parquet", "test.parquet"])
def test_the_sample_and_its_license_are_in_the_package(name):
    assert (Path(effssl.__file__).parent / "data" / "sample" / name).stat().st_size > 500
