"""README: its numbers are those of results.csv, its first screen is what CI types."""

import dataclasses
import re
import statistics
from pathlib import Path

import pytest

import effssl
from effssl.local import SAMPLE

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
RESULTS = (ROOT / "model_cards" / "results.md").read_text()
TRAINING = (ROOT / "docs" / "training.md").read_text()


def test_the_table_of_the_first_command_is_that_of_its_runs(reproduce, cpu_results):
    part, first = reproduce.scales.MOVED_RESNET, reproduce.scales.FIRST
    of_part = cpu_results[part]
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


def test_what_the_method_gives_is_what_decides_its_claims(reproduce, cpu_results):
    text = " ".join(README.split())
    deciding, steady_runs = reproduce.comparisons.deciding, reproduce.tables.steady_runs
    linear = {part: steady_runs(part, of_part, "linear") for part, of_part in cpu_results.items()}
    verdicts = {
        part: [claim.verdict(runs, 3, pooled=False) for claim in deciding(part)]
        for part, runs in linear.items()
    }
    part = reproduce.scales.MOVED
    (width, wide), (views, more), (data, fewer) = verdicts[part]
    assert (wide, more, fewer) == ("holds", "holds", "undecided")
    assert f"8192 wide after as many epochs: {width} points with settings that both share" in text
    count = reproduce.comparisons.shown(part, cpu_results[part], "linear")
    others = {
        claim.text: claim.verdict(linear[part], count)
        for claim in reproduce.comparisons.comparisons(part)
    }
    points, said = others["128 wide as good as 8192 wide, each with its own settings"]
    assert said == "undecided"
    assert f"weight of those tried for each, {points}, undecided" in text
    lost, said = others["128 wide: weight from the width better than that of 8192"]
    assert said == "holds" and f"With the weight of 8192 they lose {lost[1:]} points" in text
    two, four, eight = (
        reproduce.times.family_times(part, linear[part])[reproduce.runs_table.Family("bt", views)]
        for views in (2, 4, 8)
    )
    share, (low, high) = two.of_wide.share.low, two.of_wide.interval
    assert high <= 0.5, "half of the time of the widest projector"
    said = f"as these in {100 * share:.0f} % of the minutes ({100 * low:.0f} to {100 * high:.0f} %)"
    assert said in text
    assert f"4 views against 2 at equal epochs: {views} points" in text
    low, high = four.of_two.interval
    said = f"they take {four.of_two.share.low:.2f} times the minutes of 2 ({low:.2f} to {high:.2f})"
    assert f"{said}, and 8 views {eight.of_two.share.low:.2f} times" in text
    assert eight.of_two.interval.low > 1
    assert f"against 2 of all, at equal views: {data} points, undecided" in text
    theirs = reproduce.tables.Runs(cpu_results[part], "linear", "lightly")
    (eight,) = (key for key in theirs.rows if "--epochs 8 " in key)
    two = part.run(epochs=2)
    assert two.epochs == 8
    said = (theirs.mean(eight), theirs.minutes(eight))
    assert "lightly has {:.1f} % after 8 epochs ({:.1f} minutes)".format(*said) in text
    said = (linear[part].mean(two), linear[part].minutes(two))
    assert "effssl with 2 views {:.1f} % ({:.1f} minutes)".format(*said) in text
    assert {said for _, said in verdicts[reproduce.scales.CPU]} == {"undecided"}


def test_what_is_said_of_the_aligned_sample_is_so(reproduce, results):
    text = " ".join(README.split())
    kept, first = reproduce.scales.CHOICE[1], reproduce.scales.FIRST
    images = {"dataset": SAMPLE, "split": kept.reference.split}
    held_out = dataclasses.replace(first, **images)
    ahead = {}
    for name in ("k-NN 20", "linear"):
        (ours,) = reproduce.tables.Runs(results["choice", SAMPLE], name).of(held_out)
        pixels = [r for r in results["choice", SAMPLE] if r["encoder"] == "raw pixels"]
        ahead[name] = ours - float(pixels[0][name])
    assert 0 <= ahead["k-NN 20"] < 0.5  # as good as they
    assert f"by k-NN and {-ahead['linear']:.1f} points below by linear probe, on held-out" in text
    scale, of_losses = reproduce.scales.LOSS_SCALE, results["losses", SAMPLE]
    pixels = [row for row in of_losses if row["encoder"] == "raw pixels"]

    def pair(some):
        measures = ("k-NN 20", "linear")
        means = (statistics.fmean(float(row[name]) for row in some) for name in measures)
        return tuple(round(mean, 1) for mean in means)

    runs = reproduce.tables.Runs(of_losses).rows
    means = {"pixels": pair(pixels)}
    for loss in ("coding_rate", "spectral"):
        means[loss] = pair(runs[reproduce.experiments.with_loss(scale, loss, 256)])
    said = "raw pixels have {} and {} % by k-NN and linear probe"
    assert said.format(*means["pixels"]) in text
    said = "{} and {} % with `coding_rate`, and {} and {} % with `spectral`, the last within chance"
    assert said.format(*means["coding_rate"], *means["spectral"]) in text
    for loss in ("coding_rate", "spectral"):
        assert all(a > b for a, b in zip(means[loss], means["pixels"], strict=True))


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
