"""README and results: their tables are those of results.csv, the first screen is what CI types."""

import re
import statistics
from pathlib import Path

import pytest
from PIL import Image

import effssl
from effssl.local import MOVED_SAMPLE, SAMPLE
from effssl.loss_specs import LOSSES

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
    # at equal minutes: 2 views for twice the epochs
    pair = part.run(epochs=2), part.run(views=4)
    assert linear[part].minutes(pair[0]) == pytest.approx(linear[part].minutes(pair[1]), rel=0.1)
    difference = linear[part].mean(pair[0]) - linear[part].mean(pair[1])
    assert abs(difference) < linear[part].half_width(*pair)
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
        "these two are above raw pixels by both"
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
    wide = [held_out.run(projector_dim=8192, lr=lr) for lr in (1e-3, 4e-3)]
    choice = rows["choice", MOVED_SAMPLE]
    found = [
        reproduce.tables.Runs(choice, name).mean(run)
        for name in ("linear", "k-NN 20")
        for run in wide
    ]
    said = "half and twice that rate give 8192 dimensions {:.1f} and {:.1f} % by linear probe, and"
    assert f"{said} {{:.1f}} and {{:.1f}} % by k-NN".format(*found) in text
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
    runs = reproduce.tables.Runs(choice)
    best = {loss: runs.mean(held_out.run(views=4, loss=loss)) for loss in ("bt", "spectral")}
    assert best["bt"] - best["spectral"] == pytest.approx(20, abs=1)
    card = next((ROOT / "model_cards").glob("*-moved-sample/README.md")).read_text()
    (weights,) = re.findall(r"Parameters of the backbone \| ([\d,]+) ", card)
    assert f"with {int(weights.replace(',', '')) / 1e6:.1f} million weights, batch 128" in text


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
