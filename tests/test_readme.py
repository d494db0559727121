"""README and results: their tables are those of results.csv, the first screen is what CI types."""

import re
from pathlib import Path

import pytest
from PIL import Image

import effssl
from effssl.loss_specs import LOSSES

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
RESULTS = (ROOT / "model_cards" / "results.md").read_text()
DATASET = "fashion-mnist-sample"
TRAINING = (ROOT / "docs" / "training.md").read_text()


def test_the_tables_come_from_the_results(reproduce):
    rows = reproduce.run.read_results(reproduce.run.RESULTS)
    first = [row for row in rows if row["scale"] == "readme"]
    assert len(first) == 9 and reproduce.tables.features_table(first) in RESULTS
    of_losses = [row for row in rows if row["scale"] == "losses"]
    assert len(of_losses) == 42
    assert reproduce.tables.losses_table(reproduce.experiments.LOSS_SCALE, of_losses) in RESULTS
    check_what_is_said_of_the_losses(reproduce, of_losses)
    scale = reproduce.experiments.CPU
    rows = [row for row in rows if (row["scale"], row["dataset"]) == ("cpu", DATASET)]
    assert reproduce.tables.claims(scale, rows) in RESULTS
    linear, knn = (reproduce.tables.Runs(rows, name) for name in ("linear", "k-NN 20"))
    assert reproduce.tables.time_to_reference(scale, linear) in RESULTS
    text = " ".join(RESULTS.split())
    packaged = scale.run(views=4, loss="spectral")
    assert f"k-NN {knn.mean(packaged):.1f} %, linear {linear.mean(packaged):.1f} %" in text
    strong = [scale.run(loss_weight=weight) for weight in (0.32, 1.28)]
    assert "({:.1f} and {:.1f} %, one seed)".format(*map(linear.mean, strong)) in text
    of_linear, of_knn = map(reproduce.tables.correlations, (linear, knn))
    assert f"(Spearman {of_linear['alpha']:.2f} and {of_linear['rankme']:.2f} over all" in text
    assert f"RankMe goes with k-NN ({of_knn['rankme']:.2f})" in text


def check_what_is_said_of_the_losses(reproduce, rows):
    text, scale = " ".join(RESULTS.split()), reproduce.experiments.LOSS_SCALE
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


def test_the_table_of_the_readme_is_that_of_its_command(reproduce):
    rows = reproduce.run.read_results(reproduce.run.RESULTS)
    rows = [row for row in rows if (row["scale"], row["dataset"]) == ("cpu", DATASET)]
    packaged = reproduce.experiments.CPU.run(views=4, loss="spectral")
    pretrained = reproduce.tables.Runs(rows).rows[packaged]
    baselines = [row for row in rows if row["encoder"] != "pretrained"]
    pretrained = [row | {"encoder": "pretrained"} for row in pretrained]
    assert len(pretrained) == 3
    assert reproduce.tables.features_table(baselines + pretrained) in README
    (line,) = re.findall(r"^effssl pretrain --backbone test_convnext2 .*$", README, re.M)
    config = reproduce.tables.parse(line)
    for name in ("seed", "cpu", "evaluate_every", "output"):  # none of which the weights show
        value = getattr(packaged, name)
        config = effssl.PretrainConfig(**{**vars(config), name: value})
    assert config == packaged


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
