"""The README: its table is that of results.csv, its flags exist, its snippets run."""

import re
from pathlib import Path

import pytest
import torch
from PIL import Image

import effssl

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def test_the_tables_come_from_the_results(reproduce):
    rows = reproduce.run.read_results(reproduce.run.RESULTS)
    first = [row for row in rows if row["scale"] == "readme"]
    assert len(first) == 9 and reproduce.tables.features_table(first) in README
    scale, rows = reproduce.experiments.CPU, [row for row in rows if row["scale"] == "cpu"]
    assert reproduce.tables.claims(scale, rows) in README
    linear, knn = (reproduce.tables.Runs(rows, name) for name in ("linear", "k-NN 20"))
    assert reproduce.tables.time_to_reference(scale, linear) in README
    text = " ".join(README.split())
    packaged = scale.run(views=4, loss="spectral")
    assert f"k-NN {knn.mean(packaged):.1f} %, linear {linear.mean(packaged):.1f} %" in text
    strong = [scale.run(loss_weight=weight) for weight in (0.32, 1.28)]
    assert "({:.1f} and {:.1f} %, one seed)".format(*map(linear.mean, strong)) in text
    of_linear, of_knn = map(reproduce.tables.correlations, (linear, knn))
    assert f"(Spearman {of_linear['alpha']:.2f} and {of_linear['rankme']:.2f} over all" in text
    assert f"RankMe goes with k-NN ({of_knn['rankme']:.2f})" in text


def test_every_figure_in_the_readme_is_there():
    figures = re.findall(r"!\[.+?\]\((.+?)\)", README)
    assert len(figures) >= 3
    for figure in figures:
        with Image.open(ROOT / figure) as image:
            assert image.width > 400


def test_every_flag_in_the_readme_is_a_field():
    fields = set(effssl.PretrainConfig.__dataclass_fields__)
    table = README.split("| flag | meaning |")[1].split("\n\n")[0]
    flags = re.findall(r"`--([a-z-]+)`", table)
    assert len(flags) >= 8 and {flag.replace("-", "_") for flag in flags} <= fields


def snippets():
    return [code for code in re.findall(r"```python\n(.*?)```", README, re.S)]


def test_the_first_snippet_prints_what_it_says(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    model = effssl.create_model("convnext_zepto_rms", patch_size=4, img_size=32, in_chans=1)
    effssl.save_pretrained(model, "runs/first/model")
    code = snippets()[0]
    exec(code, {})
    assert capsys.readouterr().out.strip() == "torch.Size([1, 256])" and "[1, 256]" in code
    with torch.no_grad():
        fine = effssl.from_pretrained("runs/first/model", num_classes=10)
        assert fine(torch.rand(2, 1, 32, 32)).shape == (2, 10)


def test_the_second_snippet_runs_on_a_small_backbone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for i in range(8):
        (tmp_path / "path/to/images").mkdir(parents=True, exist_ok=True)
        Image.effect_noise((40, 40), 60 + i).convert("RGB").save(f"path/to/images/{i}.png")
    (code,) = [code for code in snippets() if "effssl.pretrain(" in code]
    assert code.count("resnet50") == 1
    code = code.replace("resnet50", "test_resnet").replace(
        'output="runs/mine"',
        'output="runs/mine", backbone="test_resnet", batch_size=4, max_steps=1, cpu=True',
    )
    images = torch.randint(0, 256, (4, 3, 60, 50), dtype=torch.uint8)
    names = {"images": images}
    exec(code, names)
    assert names["features"].shape == (8, 96)
    assert names["model"].projector[0].weight.grad.abs().sum() > 0


def test_the_examples_are_short_and_say_how_to_run_them():
    examples = sorted((ROOT / "examples").glob("*.py"))
    assert len(examples) >= 2
    for example in examples:
        text = example.read_text()
        assert f"examples/{example.name}" in text.split('"""')[1], example
    assert len((ROOT / "examples" / "pretrain.py").read_text().splitlines()) <= 60


@pytest.mark.parametrize("name", ["LICENSE", "train.parquet", "test.parquet"])
def test_the_sample_and_its_licence_are_in_the_package(name):
    assert (Path(effssl.__file__).parent / "data" / "sample" / name).stat().st_size > 500
