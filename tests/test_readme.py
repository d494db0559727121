"""README and results: their tables are those of results.csv, the first screen is what CI types."""

import re
from pathlib import Path

import pytest
from PIL import Image

import effssl

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
