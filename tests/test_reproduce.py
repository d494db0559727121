"""examples/reproduce: the plans hold what they say, runs are made once."""

from typing import get_args

import pytest
import torch
from tiny_scale import tiny_reference

import effssl


def some(scale):
    yield scale.reference
    yield scale.run(views=3)


@pytest.fixture
def tiny(reproduce, tmp_path, monkeypatch):
    """Runs the plan of two runs on 60 + 30 images; returns the lines of its table."""
    reference = tiny_reference(tmp_path / "data")
    scale = reproduce.experiments.Scale(
        reference, 60, "test", 20, studies=("some",), supervised_epochs=2
    )
    monkeypatch.setitem(reproduce.experiments.STUDIES, "some", some)
    monkeypatch.setitem(reproduce.run.SCALES, "cpu", (scale,))
    results = tmp_path / "results.csv"

    def run(**options):
        runs = tmp_path / "runs"
        reproduce.run.main(runs=runs, results=results, seeds=(0,), study=("some",), **options)
        return reproduce.run.read_results(results)

    return run


def test_runs_are_collected_and_made_once(tiny, reproduce, tmp_path, capsys):
    assert (
        tiny(dry_run=True) == []
        and "6 steps, 360 views: effssl pretrain" in capsys.readouterr().out
    )
    rows = tiny()
    assert [row["encoder"] for row in rows] == [
        *("raw pixels", "random weights", "pretrained", "pretrained", "supervised")
    ]
    ceiling = rows.pop()
    assert ceiling["epochs"] == "2" and 0 <= float(ceiling["linear"]) <= 100
    assert [row["views_seen"] for row in rows[2:]] == ["360", "240"]
    assert all(1 <= float(row["lidar"]) <= 512 for row in rows[2:])
    for row in rows:
        assert all(0 <= float(row[name]) <= 100 for name in ("linear", "k-NN 1", "k-NN 20"))
        assert row["k-NN 200"] == "" and float(row["rankme"]) > 1 and row["torch"]
    weights = sorted((tmp_path / "runs").glob("cpu/*/model/model.safetensors"))
    before = [file.stat().st_mtime_ns for file in weights]
    assert tiny() == [*rows, ceiling]
    assert len(before) == 2 and before == [file.stat().st_mtime_ns for file in weights]

    table = tmp_path / "results.csv"
    lines = table.read_text().splitlines(keepends=True)
    table.write_text("".join(lines[:-2] + lines[-1:]))
    again = tiny()
    assert again == [*rows, ceiling], "the line that was lost comes from the model that is there"


def test_a_data_set_that_the_scale_does_not_have_is_named(reproduce):
    known = "fashion-mnist-sample and fashion-mnist-moved-sample"
    with pytest.raises(ValueError, match=f"--dataset moved: the scale cpu has {known}"):
        reproduce.run.main("cpu", dataset=("moved",), dry_run=True)


def test_a_command_in_the_table_makes_the_same_run_again(reproduce):
    rows = reproduce.run.read_results(reproduce.run.RESULTS)
    assert len(rows) > 50
    for row in rows:
        if row["encoder"] == "pretrained":
            config = reproduce.runs_table.parse(row["command"])
            assert reproduce.run.command(config) == row["command"]
            assert str(config.seed) == row["seed"] and config.name == row["model"]
            views = config.views + config.local_views
            seen = int(row["steps"]) * config.batch_size * views
            assert int(row["views_seen"]) == seen


def test_every_study_can_be_named_and_is_one_of_a_scale(reproduce):
    experiments = reproduce.experiments
    assert set(get_args(experiments.Study)) == set(experiments.STUDIES)
    scales = [part for parts in reproduce.scales.SCALES.values() for part in parts]
    used = {name for scale in scales for name in scale.studies}
    assert used == set(experiments.STUDIES)
    assert set(get_args(reproduce.scales.ScaleName)) == set(reproduce.scales.SCALES)


@pytest.mark.parametrize("name", ["choice", "cpu", "whole", "losses", "gpu", "paper"])
def test_every_configuration_of_a_scale_can_be_built(reproduce, name):
    for scale in reproduce.scales.SCALES[name]:
        plan = reproduce.experiments.plan(scale)
        assert len(plan) == len(set(plan)) and {config.seed for config in plan} == {0, 1, 2}
        shapes = ("backbone", "patch_size", "in_chans", "img_size", "projector_dim", "local_size")
        of_shape = {tuple(getattr(config, name) for name in shapes): config for config in plan}
        for config in of_shape.values():
            with torch.device("meta"):
                model = effssl.create_model(
                    config.backbone,
                    patch_size=config.patch_size,
                    in_chans=config.in_chans,
                    img_size=config.img_size,
                    projector_dim=config.projector_dim,
                )
                sizes = (config.img_size, *([config.local_size] if config.local_views else []))
                for size in sizes:
                    images = torch.zeros(2, config.in_chans, size, size)
                    assert model(images, project=True).shape == (2, config.projector_dim)
            effssl.MultiView(config.preset, views=config.views, size=config.img_size)


def test_views_and_images_are_traded_as_the_studies_say(reproduce):
    scale = reproduce.scales.CPU

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
    # an eighth of 4 epochs of 156 steps
    assert views_seen(scale.run(views=2, epochs=1 / 8)) == (78 * 64 * 2, 10_000)
