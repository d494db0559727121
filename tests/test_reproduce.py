"""examples/reproduce: the plans hold what they say, runs are made once, the verdicts are right."""

import dataclasses
from typing import get_args

import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

import effssl
from effssl.data import load_source


def some(scale):
    yield scale.run(views=3)


@pytest.fixture
def tiny(reproduce, tmp_path, monkeypatch):
    """Runs the plan of two runs on 60 + 30 images; returns the lines of its table."""
    for split, rows in {"train": "train[:60]", "test": "test[:30]"}.items():
        images = load_source("fashion-mnist-sample", rows, in_chans=1).dataset
        (tmp_path / "data").mkdir(exist_ok=True)
        images.to_parquet(tmp_path / "data" / f"{split}.parquet")
    reference = effssl.PretrainConfig(
        backbone="test_resnet",
        in_chans=1,
        img_size=32,
        preset="grey",
        projector_dim=8,
        views=2,
        dataset=str(tmp_path / "data"),
        batch_size=20,
        epochs=2,
        evaluate_every=0,
        cpu=True,
    )
    scale = reproduce.experiments.Scale(reference, 60, "test", 20, studies=("first", "some"))
    monkeypatch.setitem(reproduce.experiments.STUDIES, "some", some)
    monkeypatch.setitem(reproduce.run.SCALES, "cpu", (scale,))
    results = tmp_path / "results.csv"

    def run(**options):
        runs = tmp_path / "runs"
        reproduce.run.main(
            runs=runs, results=results, seeds=(0,), study=("first", "some"), **options
        )
        return reproduce.run.read_results(results)

    return run


def test_runs_are_collected_and_made_once(tiny, reproduce, tmp_path, capsys):
    assert (
        tiny(dry_run=True) == []
        and "6 steps, 360 views: effssl pretrain" in capsys.readouterr().out
    )
    rows = tiny()
    assert [row["encoder"] for row in rows] == [
        *("raw pixels", "random initialisation", "pretrained", "pretrained")
    ]
    assert [row["views_seen"] for row in rows[2:]] == ["360", "240"]
    for row in rows:
        assert all(0 <= float(row[name]) <= 100 for name in ("linear", "k-NN 1", "k-NN 20"))
        assert row["k-NN 200"] == "" and float(row["rankme"]) > 1 and row["torch"]
    weights = sorted((tmp_path / "runs").glob("cpu/*/model/model.safetensors"))
    before = [file.stat().st_mtime_ns for file in weights]
    assert tiny() == rows
    assert len(before) == 2 and before == [file.stat().st_mtime_ns for file in weights]

    table = tmp_path / "results.csv"
    lines = table.read_text().splitlines(keepends=True)
    table.write_text("".join(lines[:-1]))
    again = tiny()
    assert again == rows, "the line that was lost comes from the model that is there"


def test_a_command_in_the_table_makes_the_same_run_again(reproduce):
    rows = reproduce.run.read_results(reproduce.run.RESULTS)
    assert len(rows) > 50
    for row in rows:
        if row["encoder"] == "pretrained":
            config = reproduce.tables.parse(row["command"])
            assert reproduce.run.command(config) == row["command"]
            assert str(config.seed) == row["seed"] and config.name == row["model"]
            seen = int(row["steps"]) * config.batch_size * config.views
            assert int(row["views_seen"]) == seen


def test_every_study_can_be_named_and_is_one_of_a_scale(reproduce):
    experiments = reproduce.experiments
    assert set(get_args(experiments.Study)) == set(experiments.STUDIES)
    used = {
        name for parts in experiments.SCALES.values() for part in parts for name in part.studies
    }
    assert used == set(experiments.STUDIES)


@pytest.mark.parametrize("name", ["readme", "cpu", "losses", "gpu", "paper"])
def test_every_configuration_of_a_scale_can_be_built(reproduce, name):
    for scale in reproduce.experiments.SCALES[name]:
        plan = reproduce.experiments.plan(scale)
        assert len(plan) == len(set(plan)) and {config.seed for config in plan} == {0, 1, 2}
        shapes = {
            (c.backbone, c.patch_size, c.in_chans, c.img_size, c.projector_dim): c for c in plan
        }
        for config in shapes.values():
            with torch.device("meta"):
                model = effssl.create_model(
                    config.backbone,
                    patch_size=config.patch_size,
                    in_chans=config.in_chans,
                    img_size=config.img_size,
                    projector_dim=config.projector_dim,
                )
                images = torch.zeros(2, config.in_chans, config.img_size, config.img_size)
                assert model(images, project=True).shape == (2, config.projector_dim)
            effssl.MultiView(config.preset, views=config.views, size=config.img_size)


def test_views_and_images_are_traded_as_the_studies_say(reproduce):
    scale = reproduce.experiments.CPU

    def views_seen(config):
        images = int(config.split.partition(":")[2].strip("]") or 10_000)
        steps = config.epochs * (images // config.batch_size)
        assert config.max_steps is None or steps >= config.max_steps
        return (config.max_steps or steps) * config.batch_size * config.views, images

    all_of_it = views_seen(scale.reference)[0]
    for part in (2, 4, 16):
        for views in (2, 4, 8):
            config = scale.share(part, views=views)
            assert views_seen(config) == (all_of_it, 10_000 // part) and config.views == views
    assert views_seen(scale.run(views=8, epochs=1 / 4))[0] == all_of_it
    assert views_seen(scale.run(views=4))[0] == 2 * all_of_it
    assert scale.run(projector_dim=8192) == scale.reference


def fields_of(config):
    fields = dataclasses.asdict(config)
    del fields["seed"]
    return fields


def row(linear, seed=0, minutes=1.0, **fields):
    config = effssl.PretrainConfig(seed=seed, **fields)
    command = " ".join(["effssl pretrain", *config.flags()])
    return {"encoder": "pretrained", "command": command, "linear": linear, "minutes": minutes}


def test_the_verdicts_follow_from_the_pooled_spread(reproduce):
    tables = reproduce.tables
    a, b, c = (effssl.PretrainConfig(views=views) for views in (2, 4, 8))
    rows = [row(value, seed, views=2) for seed, value in enumerate((80.0, 81.0, 82.0))]
    rows += [row(value, seed, views=4) for seed, value in enumerate((90.0, 93.0))]
    rows += [row(81.2, views=8)]
    runs = tables.Runs(rows)
    # variance 1 with 2 degrees of freedom and 4.5 with 1; t of 3 degrees at 97.5 % is 3.1824
    assert runs.freedom == 3 and runs.std == pytest.approx(((2 * 1 + 4.5) / 3) ** 0.5)
    half = 3.1824 * runs.std * (1 / 3 + 1 / 2) ** 0.5
    assert runs.half_width(b, a) == pytest.approx(half, rel=1e-4)

    def verdict(first, second, **better):
        return tables.Comparison("x", first, second, **better).verdict(runs)

    assert verdict(b, a, better=True) == (f"+10.5 ± {half:.1f}", "holds")
    assert verdict(a, b)[1] == verdict(a, b, better=True)[1] == "does not hold"
    assert verdict(c, a)[1] == verdict(c, a, better=True)[1] == "undecided"
    assert verdict(a, dataclasses.replace(a, lr=1.0)) == ("", "")


def test_the_time_to_the_reference_is_that_of_the_shortest_run_as_good(reproduce):
    scale = reproduce.experiments.CPU
    rows = []
    for config, linear, minutes in (
        (scale.reference, 85.0, 10.0),
        (scale.run(), 84.0, 1.0),
        (scale.run(epochs=2), 85.5, 3.0),
        (scale.run(views=4, epochs=1 / 2), 85.0, 2.0),
        (scale.run(views=4), 86.0, 4.0),
        (scale.run(views=4, multiview="mean"), 99.0, 0.1),  # another loss, and no schedule of it
    ):
        line = reproduce.run.command(config)
        found = {"linear": linear, "minutes": minutes}
        rows.append({"encoder": "pretrained", "command": line} | found)
    lines = reproduce.tables.time_to_reference(scale, reproduce.tables.Runs(rows)).splitlines()
    assert lines[2:] == ["| bt, 2, 256 | 3.0 | 0.30 |", "| bt, 4, 256 | 2.0 | 0.20 |"]


def test_the_front_holds_what_nothing_beats(reproduce):
    points = [(1.0, 5.0), (1.0, 6.0), (2.0, 5.0), (3.0, 4.0), (4.0, 4.5)]
    assert reproduce.figures.front(points) == [(1.0, 5.0), (3.0, 4.0)]


def test_figures_show_the_means_of_the_table(reproduce):
    scale = reproduce.experiments.CPU
    rows = [row(80.0 + seed, seed, **fields_of(scale.reference)) for seed in (0, 1)]
    rows += [row(90.0, 0, **fields_of(scale.run(projector_dim=64)))]
    axes = Figure().subplots()
    reproduce.figures.draw_width(axes, scale, reproduce.tables.Runs(rows))
    assert axes.lines[0].get_xydata().tolist() == [[64.0, 90.0], [8192.0, 80.5]]


def test_figures_are_drawn_from_the_table(reproduce, tmp_path):
    (tmp_path / "results.csv").write_text(reproduce.run.RESULTS.read_text())
    reproduce.figures.main("cpu", results=tmp_path / "results.csv")
    drawn = sorted((tmp_path / "figures").glob("cpu-*.png"))
    kept = sorted((reproduce.run.RESULTS.parent / "figures").glob("cpu-*.png"))
    assert [file.name for file in drawn] == [file.name for file in kept] and len(kept) == 4
    for file in drawn:
        with Image.open(file) as image:
            assert image.width > 900
    reproduce.figures.main("losses", results=tmp_path / "results.csv")
    (losses,) = (tmp_path / "figures").glob("losses-*.png")
    assert (reproduce.run.RESULTS.parent / "figures" / losses.name).is_file()
    with pytest.raises(ValueError, match="no run of the reference of the scale 'gpu'"):
        reproduce.figures.main("gpu", results=tmp_path / "results.csv")


def test_a_loss_whose_seeds_collapse_is_shown_by_seed_and_widens_no_interval(reproduce):
    experiments, tables = reproduce.experiments, reproduce.tables
    scale = experiments.LOSS_SCALE

    def rows(label, values):
        config = experiments.with_loss(scale, label, 64)
        found = [row(value, seed, **fields_of(config)) for seed, value in enumerate(values)]
        return [line | {"k-NN 20": line["linear"]} for line in found]

    some = rows("bt", (80.0, 82.0)) + rows("sigreg", (70.0, 72.0))
    table = tables.losses_table(scale, some + rows("wmse", (20.0, 84.0))).splitlines()
    assert table[2:] and "| wmse | 20.0, 84.0 |  | 20.0, 84.0 |  |" in table
    half = 4.3027 * 2**0.5 / 2**0.5  # Student's t of 2 degrees, over the root of 2 seeds
    assert f"| bt | 81.0 ± {half:.1f} |  | 81.0 ± {half:.1f} |  |" in table
    assert experiments.with_loss(scale, "wmse", 256) is None
