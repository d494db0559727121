"""recommend: what it says fits the budget, can be run, and follows the measured speed."""

import shlex

import pytest
import tyro

import effssl
from effssl import cli, recommendation

SPEEDS = {
    "test_convnext2": 1000,
    "convnext_zepto_rms": 400,
    "resnet18_cifar": 100,
    "resnet50_cifar": 1,
    "resnet10t": 50,
    "resnet18": 1,
}


@pytest.fixture
def known_speeds(monkeypatch):
    monkeypatch.setattr(recommendation, "training_speed", lambda config: SPEEDS[config.backbone])


@pytest.mark.parametrize(
    "images, size, minutes, backbone, batch, epochs, max_steps",
    [
        # 10,000 images, 4 views, 10 epochs: 400,000 views; 4 views of 9,984 images are an epoch
        (10_000, 28, 6.0, "test_convnext2", 64, 9, None),  # 360,000 views
        (10_000, 28, 10.0, "test_convnext2", 64, 15, None),  # zepto has time for 240,000
        (10_000, 28, 17.0, "convnext_zepto_rms", 64, 10, None),  # 408,000
        (10_000, 28, 80.0, "resnet18_cifar", 64, 12, None),  # 480,000
        (1000, 32, 5.0, "test_convnext2", 64, 78, None),  # 40,000 are 10 epochs, 160,000 enough
        (50_000, 32, 5.0, "test_convnext2", 128, 1, None),  # 300,000
        (50_000, 32, 2.0, "test_convnext2", 128, 1, 234),  # 120,000 views of 512 a step
        (100_000, 224, 10.0, "resnet10t", 128, 1, 58),  # 30,000 views
        (50, 32, 600.0, "resnet18_cifar", 50, 1000, None),  # more epochs than are known to help
        (10_000_000, 32, 1e6, "resnet18_cifar", 256, 100, None),
    ],
)
def test_the_largest_backbone_that_has_time_and_the_epochs_that_fit(
    known_speeds, images, size, minutes, backbone, batch, epochs, max_steps
):
    found = effssl.recommend(images=images, image_size=size, budget_minutes=minutes)
    config = found.config
    assert (config.backbone, config.batch_size) == (backbone, batch)
    assert (config.epochs, config.max_steps) == (epochs, max_steps)
    assert found.views_per_s == SPEEDS[backbone]
    steps = max_steps or epochs * (images // batch)
    views = steps * batch * config.views
    assert found.minutes == pytest.approx(views / SPEEDS[backbone] / 60)
    assert found.minutes <= minutes
    enough = minutes * 60 * SPEEDS[backbone] >= max(160_000, 10 * images * config.views)
    assert ("the largest that sees" in found.reasons[0]) == enough
    assert ("expect little of it" in found.reasons[0]) == (not enough)


@pytest.mark.parametrize(
    "size, channels, img_size, preset",
    [
        (28, 1, 32, "grey"),
        (32, 3, 32, "cifar"),
        (64, 3, 64, "stl"),
        (96, 3, 96, "stl"),
        (500, 3, 224, "imagenet"),
        (120, 12, 128, "multispectral"),
    ],
)
def test_views_are_those_of_the_images(known_speeds, size, channels, img_size, preset):
    found = effssl.recommend(images=1000, image_size=size, in_chans=channels, budget_minutes=60)
    assert (found.config.img_size, found.config.preset) == (img_size, preset)
    assert found.config.in_chans == channels


def test_the_command_that_it_prints_is_the_configuration(capsys):
    # one backbone is timed for real, and no other has time enough
    flags = ["--images", "1000", "--image-size", "28", "--in-chans", "1", "--cpu"]
    cli.main(["recommend", *flags, "--budget-minutes", "0.1"])
    command, *reasons = capsys.readouterr().out.splitlines()
    arguments = shlex.split(command)
    assert arguments[:2] == ["effssl", "pretrain"] and len(reasons) >= 5
    config = tyro.cli(effssl.PretrainConfig, args=arguments[2:])
    assert (config.backbone, config.views, config.projector_dim) == ("test_convnext2", 4, 256)
    assert config.cpu and config.dataset == "path/to/images"


def test_backbones_are_timed_on_what_they_take():
    for small, backbones in recommendation.BACKBONES.items():
        backbone, patch_size = backbones[0]
        config = effssl.PretrainConfig(
            backbone=backbone, patch_size=patch_size, img_size=32 if small else 96, cpu=True
        )
        speed = recommendation.training_speed(config)
        assert 1 < speed < 1e5


def test_what_it_says_of_the_results_is_so(reproduce):
    scales, results = reproduce.scales, reproduce.run.RESULTS
    parts = dict(reproduce.runs_table.read_scale("cpu", results))
    small = reproduce.tables.Runs(parts.pop(scales.MOVED_RESNET))
    fields = {"views": 4, "projector_dim": 256}
    of = {name: scales.MOVED_RESNET.run(loss=name, **fields) for name in ("coding_rate", "bt")}
    assert round(small.mean(of["coding_rate"]) - small.mean(of["bt"])) == 5
    held_out = {"scale": "choice", "dataset": scales.CHOICE[0].reference.dataset}
    choice = reproduce.run.read_results(results)
    choice = reproduce.tables.Runs([row for row in choice if held_out.items() <= row.items()])
    long = {"loss": "coding_rate", "batch_size": 64, "epochs": 2} | fields
    minutes = [
        choice.minutes(scales.CHOICE[0].run(**long, **changes))
        for changes in (reproduce.experiments.RESNET | {"lr": 4e-3}, {"backbone": "test_convnext2"})
    ]
    assert max(minutes) < 1.2 * min(minutes)
    for scale, of_scale in parts.items():
        linear, knn = (reproduce.tables.Runs(of_scale, name) for name in ("linear", "k-NN 20"))
        spectral, bt = (scale.run(loss=name, **fields) for name in ("spectral", "bt"))
        if scale is scales.MOVED:
            assert round(linear.mean(bt) - linear.mean(spectral)) == 18
        else:
            assert round(knn.mean(spectral) - knn.mean(bt)) == 6
            assert linear.mean(spectral) - linear.mean(bt) > -reproduce.tables.MARGIN
        bt = scale.run(views=4)
        # what is saved by the width alone, and by both; and the accuracy is there
        saved = [linear.minutes(scale.reference) - linear.minutes(c) for c in (scale.run(), bt)]
        assert saved[0] > saved[1] > 0.5 * linear.minutes(scale.reference)
        assert min(map(linear.mean, (scale.run(), bt))) >= linear.mean(scale.reference)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"images": 1}, "images must be 2 or more; got 1"),
        ({"image_size": 4}, "image_size must be 8 or more; got 4"),
        ({"in_chans": 0}, "in_chans must be 1 or more; got 0"),
        ({"budget_minutes": 0}, "budget_minutes must be above 0; got 0"),
        ({"budget_minutes": float("inf")}, "budget_minutes must be above 0; got inf"),
        ({"budget_minutes": 1e-4}, "less than a step of 64 images at 1,000 views a second"),
    ],
)
def test_bad_input_is_one_line(known_speeds, changes, message):
    options = {"images": 1000, "image_size": 32, "budget_minutes": 10}
    with pytest.raises(ValueError, match=message):
        effssl.recommend(**(options | changes))
