"""PretrainConfig: every field is documented, bounded and named in its error."""

import dataclasses
import json
import random
import subprocess
import sys
from typing import get_args, get_origin, get_type_hints

import pytest
import tyro

from effssl import PretrainConfig
from effssl.cli import expand_config
from effssl.views import ViewOptions

# of each field values that are not its default
OTHERS = {
    "backbone": ["resnet50", "vit_tiny_patch16_224"],
    "pretrained": [True],
    "init": ["timm", "runs/mine", "hf-hub:timm/resnet18.a1_in1k", "local-dir:/data/ä"],
    "init_projector": ["off"],
    "in_chans": [1, 13],
    "img_size": [32],
    "patch_size": [4],
    "projector_dim": [64, 8192],
    "projector_layers": [1, 3],
    "projector_hidden": [32, 2048],
    "drop_path": [0.1, 1.0],
    "loss": ["vicreg", "coding_rate"],
    "multiview": ["mean"],
    "dataset": ["my photos/it's 'one'.tar", "user/name", "/data/**/*.jpg", ""],
    "split": ["train[:10%]", "validation"],
    "image_column": ["image", "none"],
    "label_column": ["class label"],
    "background": ["black", "#ff8800", "drop"],
    "value_range": ["auto", (0.0, 4095.0), (-1024.0, 3071.5), (0.0, 1e-3)],
    "max_pixels": [1, 400_000_000],
    "streaming": [True],
    "workers": [0, 3],
    "cache_gb": [0.0, 0.5, 1e-9],
    "max_broken": [0, 0.5, 1.0],
    "views": [2, 8],
    "local_views": [1, 6],
    "local_size": [16, 32],
    "local_scale": [(0.05, 0.4), (1 / 3, 1.0)],
    "local_pairs": [True],
    "preset": ["cifar", "grey"],
    "view": [
        ViewOptions(flip=0.0, quarter_turns=True, per_channel=False),
        ViewOptions(scale=(0.2, 1.0), blur=(0.5, 0.1), mean=(-0.5,), std=(1 / 3,)),
    ],
    "batch_size": [2, 4096],
    "micro_batch": [1, 128],
    "epochs": [1, 1000],
    "max_steps": [1, 10**9],
    "max_minutes": [0.02, 1e-7, 240.0],
    "optimizer": ["lars"],
    "lr": [0.1 + 0.2, 5e-324, 1e22, 1 / 3],
    "lr_scaling": ["linear", "sqrt"],
    "weight_decay": [0.0, 1e-6],
    "warmup_epochs": [0.0, 2.5],
    "loss_weight": [0.02, 25.0],
    "layer_decay": [0.75, 1.0],
    "freeze_epochs": [1, 5],
    "ema": [0.999, 0.0],
    "grad_clip": [1.0, 1e-3],
    "grad_checkpointing": [True],
    "precision": ["fp16", "fp64"],
    "compile": [True],
    "deterministic": [True],
    "seed": [1, 2**63],
    "cpu": [True],
    "output": ["runs/x y", "/absolute/ä"],
    "resume": [True],
    "overwrite": [True],
    "checkpoint_steps": [1, 500],
    "checkpoint_minutes": [None, 0.5],
    "keep_checkpoints": [1, 10],
    "stop_when_disk_full": [True],
    "timeout_minutes": [0.1, 600.0],
    "evaluate_every": [0, 1],
    "log_every": [1],
    "tracker": ["wandb", "tensorboard"],
}
FIELDS = get_type_hints(PretrainConfig)


def kinds(field):
    """The types of a field, NoneType among them if it may be None."""
    hint = FIELDS[field]
    return {hint} if get_origin(hint) is tuple else set(get_args(hint) or [hint])


NUMBERS = [field for field in FIELDS if kinds(field) & {int, float}]


def some_configs():
    """Two with all fields at other values but for those that exclude another; many with some."""
    draw = random.Random(0)
    for number, share in enumerate((1, 1, *[0.3] * 30)):
        values = {name: draw.choice(v) for name, v in OTHERS.items() if draw.random() < share}
        values.pop(("resume", "overwrite")[number % 2], None)
        if {"loss", "multiview"} <= values.keys():  # which is of the default loss alone
            del values[("loss", "multiview")[number % 2]]
        if "img_size" in values:  # local views are no larger
            values.setdefault("local_size", 16)
        yield PretrainConfig(**values)


def parse(args):
    return tyro.cli(PretrainConfig, args=args, config=(tyro.conf.FlagCreatePairsOff,))


@pytest.mark.parametrize(
    "field, value, message",
    [
        ("views", 1, "views must be 2 or more"),
        ("loss", "swav", "loss must be one of bt, vicreg, .*, wmse, or .*; got 'swav'"),
        ("multiview", "all", "multiview must be one of pairs, mean"),
        ("preset", "gray", "preset must be one of cifar, stl, imagenet, grey, .*; got 'gray'"),
        ("precision", "fp8", "precision must be one of auto, fp32, bf16, fp16"),
        ("batch_size", 1, "batch_size must be 2 or more"),
        ("epochs", 0, "epochs must be 1 or more; got 0"),
        ("max_steps", 0, "max_steps must be 1 or more"),
        ("lr", 0.0, "lr must be above 0"),
        ("lr", float("nan"), "lr must be above 0; got nan"),
        ("weight_decay", -1.0, "weight_decay must be 0 or more"),
        ("seed", -1, "seed must be 0 or more"),
        ("tracker", "mlflow", "tracker must be one of tensorboard, trackio, wandb"),
        ("lr_scaling", "square", "lr_scaling must be one of none, linear, sqrt; got 'square'"),
        ("micro_batch", 0, "micro_batch must be 1 or more; got 0"),
        ("checkpoint_steps", 0, "checkpoint_steps must be 1 or more; got 0"),
        ("keep_checkpoints", 0, "keep_checkpoints must be 1 or more; got 0"),
        ("log_every", 0, "log_every must be 1 or more; got 0"),
        ("evaluate_every", -1, "evaluate_every must be 0 or more; got -1"),
        ("workers", -1, "workers must be 0 or more; got -1"),
        ("max_broken", -0.1, "max_broken must be 0 to 1; got -0.1"),
        ("max_broken", 1.5, "max_broken must be 0 to 1; got 1.5"),
        ("cache_gb", -0.1, "cache_gb must be 0 or more; got -0.1"),
        ("max_minutes", 0.0, "max_minutes must be above 0; got 0.0"),
        ("checkpoint_minutes", 0.0, "checkpoint_minutes must be above 0; got 0.0"),
        ("timeout_minutes", 0.0, "timeout_minutes must be above 0; got 0.0"),
        ("grad_clip", 0.0, "grad_clip must be above 0; got 0.0"),
        ("loss_weight", 0.0, "loss_weight must be above 0; got 0.0"),
        ("value_range", "full", "value_range must be two numbers, or one of auto, or None; got"),
        ("value_range", (0.0,), "value_range must be two numbers"),
        ("value_range", (0.0, float("nan")), "value_range must be two numbers"),
        ("value_range", (0.0, "1"), "value_range must be two numbers"),
        ("value_range", (9.0, 9.0), r"value_range must rise from LOW to HIGH; got \(9.0, 9.0\)"),
        ("background", "wite", "background must be a color such as white, .*; got 'wite'"),
        ("background", "#fff", "background must be a color"),
        ("local_views", -1, "local_views must be 0 or more; got -1"),
        ("local_scale", (0.05,), "local_scale must be two numbers; got"),
        ("local_scale", 0.05, "local_scale must be two numbers; got 0.05"),
        ("local_scale", (0.0, 0.25), "local_scale must be two shares .*; got 0 0.25"),
        ("local_scale", (0.3, 0.25), "local_scale must be two shares .*; got 0.3 0.25"),
        ("local_scale", (0.05, 1.5), "local_scale must be two shares .*; got 0.05 1.5"),
        ("max_pixels", 0, "max_pixels must be 1 or more; got 0"),
        ("grad_clip", float("inf"), "grad_clip must be above 0.*; got inf"),
    ],
)
def test_a_value_out_of_bounds_is_named(field, value, message):
    with pytest.raises(ValueError, match=message):
        PretrainConfig(**{field: value})


@pytest.mark.parametrize("value", [-1, float("nan"), float("inf")])
@pytest.mark.parametrize("field", NUMBERS)
def test_every_number_is_bounded(field, value):
    with pytest.raises(ValueError, match=f"^{field} must be "):
        PretrainConfig(**{field: value})


def test_resume_and_overwrite_exclude_each_other():
    with pytest.raises(ValueError, match="exclude each other"):
        PretrainConfig(resume=True, overwrite=True)


def test_local_views_are_no_larger_than_the_others():
    config = PretrainConfig(img_size=64, local_size=96)  # without local views it does not matter
    with pytest.raises(ValueError, match="local_size must be at most img_size, 64,.*; got 96"):
        dataclasses.replace(config, local_views=6)
    assert dataclasses.replace(config, local_views=6, local_size=64).all_views == 10


def test_the_run_folder_names_the_model():
    config = PretrainConfig(backbone="resnet50", projector_dim=64, views=8)
    assert config.run_folder.as_posix() == "runs/resnet50-bt-p64-aug8"
    config = PretrainConfig(backbone="resnet50", projector_dim=64, views=2, local_views=6)
    assert config.run_folder.as_posix() == "runs/resnet50-bt-p64-aug8"
    assert PretrainConfig(output="elsewhere").run_folder.as_posix() == "elsewhere"


def test_the_configuration_is_plain_json():
    config = PretrainConfig(loss="vicreg", max_steps=3)
    assert PretrainConfig(**json.loads(json.dumps(dataclasses.asdict(config)))) == config


def test_every_field_is_a_documented_flag():
    help_text = subprocess.run(
        [sys.executable, "-m", "effssl.cli", "pretrain", "--help"],
        capture_output=True,
        text=True,
        check=True,
        env={"COLUMNS": "400"},
    ).stdout
    for field in dataclasses.fields(PretrainConfig):
        flag = "--" + field.name.replace("_", "-")
        line = help_text.split(flag, 1)[1].split("--", 1)[0]
        documented = line.split("(default")[0].replace("│", "").split()
        assert len(documented) >= 4, f"{flag}: {line}"


# The flags and the file that make a configuration


def test_view_options_are_the_same_from_flags_a_file_and_python(tmp_path):
    made = PretrainConfig(view=ViewOptions(flip=0, blur=(0.5, 0), quarter_turns=True, scale=[1, 1]))
    flags = (
        "--view.flip 0 --view.blur 0.5 0 --view.quarter-turns True --view.scale 1 1".split(),
        "--view.scale 1 1.0 --view.blur 0.5 0.0 --view.quarter-turns True --view.flip 0.0".split(),
    )
    made.save(tmp_path / "made.json")
    for args in flags:
        assert parse(args) == made
        parse(args).save(tmp_path / "parsed.json")
        assert (tmp_path / "parsed.json").read_bytes() == (tmp_path / "made.json").read_bytes()
    saved = json.loads((tmp_path / "made.json").read_text())
    view = {"scale": [1.0, 1.0], "flip": 0.0, "quarter_turns": True, "blur": [0.5, 0.0]}
    assert saved["view"] == view and list(saved["view"]) == list(view)
    assert PretrainConfig.load(tmp_path / "made.json") == made
    assert PretrainConfig(view=view) == made
    assert made.view.over(made.preset).jitter == 0.8


def test_a_file_without_view_options_is_that_of_the_preset(tmp_path):
    file = tmp_path / "config.json"
    PretrainConfig(preset="stl").save(file)
    saved = json.loads(file.read_text())
    assert saved.pop("view") == {}
    file.write_text(json.dumps(saved))
    assert PretrainConfig.load(file) == PretrainConfig(preset="stl")


def test_a_flag_changes_one_view_option_of_a_file_and_none_is_again_that_of_the_preset(tmp_path):
    file = tmp_path / "config.json"
    PretrainConfig(view=ViewOptions(flip=0, jitter=0.5)).save(file)
    for value, flip in (("0.25", 0.25), ("None", None)):
        args = expand_config(["--config", str(file), "--view.flip", value])
        assert parse(args).view == ViewOptions(flip=flip, jitter=0.5)


@pytest.mark.parametrize(
    "view, message",
    [
        ({"flip": 2}, "view.flip must be a number, 0 to 1; got 2"),
        ({"flop": 2}, "view.flop is no view option; did you mean 'flip'?"),
        ({"blur": [0.1] * 5}, "view.blur must be one value for each of 4 views"),
        ({"mean": [0.1, 0.2]}, "view.mean must be 1 or 3 values, one a channel; got 2"),
        (["flip"], "view must be ViewOptions or an object of them; got"),
    ],
)
def test_a_wrong_view_option_of_a_file_is_one_line_with_the_name_of_the_file(
    tmp_path, view, message
):
    file = tmp_path / "config.json"
    file.write_text(json.dumps({"view": view}))
    with pytest.raises(ValueError, match=f"config.json: {message}"):
        PretrainConfig.load(file)


def test_the_values_tried_are_those_of_every_field():
    assert OTHERS.keys() == FIELDS.keys()
    for field in dataclasses.fields(PretrainConfig):
        assert field.default not in OTHERS[field.name]


def test_the_flags_of_a_configuration_make_it():
    for config in some_configs():
        assert parse(config.flags()) == config
    assert PretrainConfig().flags() == [] and parse([]) == PretrainConfig()


def test_the_file_of_a_configuration_makes_it_but_for_what_is_of_one_launch(tmp_path):
    for config in some_configs():
        config.save(tmp_path / "config.json")
        loaded = PretrainConfig.load(tmp_path / "config.json")
        assert loaded == dataclasses.replace(config, resume=False, overwrite=False)
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


def test_the_file_of_a_run_from_before_there_was_a_background_drops_transparency(tmp_path):
    file = tmp_path / "config.json"
    PretrainConfig(views=8).save(file)
    values = json.loads(file.read_text())
    assert values.pop("background") == "white"
    file.write_text(json.dumps(values))
    assert PretrainConfig.load(file) == PretrainConfig(views=8, background="drop")
    file.write_text(json.dumps({"views": 8}))  # by hand
    assert PretrainConfig.load(file) == PretrainConfig(views=8)


@pytest.mark.parametrize("style", ["--config {}", "--config={}"])
def test_flags_beside_a_file_win_wherever_they_stand(tmp_path, style):
    file = tmp_path / "config.json"
    config = PretrainConfig(views=8, lr=0.5, tracker="wandb", checkpoint_minutes=None, cpu=True)
    config.save(file)
    given, changed = style.format(file).split(), ["--views", "2", "--tracker", "None", "--resume"]
    expected = dataclasses.replace(config, views=2, tracker=None, resume=True)
    assert parse(expand_config([*given, *changed])) == expected
    assert parse(expand_config([*changed, *given])) == expected
    assert parse(expand_config(given)) == config
    assert expand_config(changed) == changed


@pytest.mark.parametrize("name, value", [("overwrite", True), ("resume", True)])
def test_a_file_does_not_say_what_to_delete_or_to_go_on_with(tmp_path, caplog, name, value):
    file = tmp_path / "config.json"
    file.write_text(json.dumps({"views": 8, name: value}))
    assert PretrainConfig.load(file) == PretrainConfig(views=8)
    assert parse(expand_config(["--config", str(file)])) == PretrainConfig(views=8)
    assert f"{name} of {file} is not taken from the file: set it here" in caplog.text
    given = expand_config(["--config", str(file), f"--{name}"])
    assert parse(given) == PretrainConfig(views=8, **{name: value})


def test_a_file_does_not_say_where_to_write(tmp_path, caplog):
    file = tmp_path / "config.json"
    file.write_text(json.dumps({"views": 8, "output": "/home/friend/thesis"}))
    assert parse(expand_config(["--config", str(file)])) == PretrainConfig(views=8)
    said = f"output '/home/friend/thesis' of {file} is not taken from it: give --output"
    assert [record.getMessage() for record in caplog.records] == [said]
    caplog.clear()
    for given in (["--output", "mine"], ["--output=mine"]):
        args = expand_config(["--config", str(file), *given])
        assert parse(args) == PretrainConfig(views=8, output="mine")
    assert not caplog.records


def test_every_field_of_the_file_of_a_run_is_taken_but_these(tmp_path):
    for config in some_configs():
        config.save(tmp_path / "config.json")
        taken = parse(expand_config(["--config", str(tmp_path / "config.json")]))
        of_here = {"resume": False, "overwrite": False, "output": None}
        assert taken == dataclasses.replace(config, **of_here)


@pytest.mark.parametrize(
    "content, message",
    [
        ('{"viewz": 4}', "'viewz' is not a field of .*; did you mean 'views?'\\? rename or delete"),
        ('{"qqqqqq": 4}', "'qqqqqq' is not a field of this version's PretrainConfig; rename"),
        ('{"views": 4', "config.json is not valid JSON: "),
        ("", "config.json is not valid JSON: "),
        ("[1, 2]", "config.json holds no configuration but list"),
        ("null", "config.json holds no configuration but NoneType"),
        ('{"views": 1}', "views must be 2 or more"),
        ('{"views": "4"}', "views"),
        ('{"lr": "0.1"}', "lr"),
        ('{"lr": null}', "lr"),
        ('{"loss": ["bt"]}', "loss must be one of"),
        ('{"resume": true, "overwrite": true}', "exclude each other"),
    ],
)
def test_a_file_that_is_no_configuration_is_one_clear_error(tmp_path, content, message):
    file = tmp_path / "config.json"
    file.write_text(content)
    with pytest.raises(ValueError, match=message):
        PretrainConfig.load(file)


def test_bytes_that_are_no_text_are_not_json(tmp_path):
    (tmp_path / "config.json").write_bytes(b"\x80\x04\x95\xff")
    with pytest.raises(ValueError, match="config.json is not valid JSON"):
        PretrainConfig.load(tmp_path / "config.json")


def test_a_missing_file_and_a_missing_name_say_what_to_give(tmp_path):
    for path in (tmp_path / "config.json", tmp_path):
        with pytest.raises(FileNotFoundError, match="no configuration .*: give the config.json of"):
            expand_config(["--config", str(path)])
    with pytest.raises(ValueError, match="give the config.json of a run"):
        expand_config(["--views", "2", "--config"])


AT_MOST_ONE = ("max_broken", "layer_decay", "drop_path")
WRONG = [3, 2.5, True, "no", "3", ["a"], {}, None]


@pytest.mark.parametrize("field", FIELDS)
def test_a_value_of_another_type_is_named(tmp_path, field):
    file = tmp_path / "config.json"
    for value in WRONG:
        right = type(value) in kinds(field) or (type(value) is int and float in kinds(field))
        right = right and field != "background"  # none is the name of a color
        right = right and not (field in (*AT_MOST_ONE, "ema") and value in (3, 2.5))
        right = right or (field == "view" and value == {})
        file.write_text(json.dumps({field: value}))
        if right:
            PretrainConfig.load(file)
            continue
        with pytest.raises(ValueError, match=field):
            PretrainConfig.load(file)


@pytest.mark.parametrize(
    "values, message",
    [
        (
            {"loss": "wmse", "projector_dim": 8, "loss_weight": 1.0},
            "the loss wmse has no weight: leave loss_weight out",
        ),
        (
            {"loss": "sigreg", "loss_weight": 1.5},
            "loss_weight is the lambd of the loss sigreg, 0 to 1",
        ),
        (
            {"loss": "simclr", "multiview": "mean"},
            "multiview mean is for the loss bt; simclr has one",
        ),
        (
            {"loss": "wmse", "projector_dim": 256, "batch_size": 256},
            "loss wmse needs 257 or more images in a batch for projector_dim 256; batch_size",
        ),
    ],
)
def test_a_configuration_fits_its_loss(values, message):
    with pytest.raises(ValueError, match=message):
        PretrainConfig(**values)
