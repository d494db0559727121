"""Folders from anybody: refused with a ValueError before anything is unpickled or allocated."""

import copy
import json
import shutil
import struct
import tracemalloc

import pytest
import timm
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

import effssl
from effssl import cli
from effssl.hub._folder import build_sketch
from effssl.hub._model_config import ModelConfig, read_config
from effssl.hub._weights import describe_file


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    model = effssl.create_model("test_resnet", projector_dim=8, img_size=32)
    folder = tmp_path_factory.mktemp("saved") / "model"
    config = {"backbone": "test_resnet", "loss": "bt", "projector_dim": 8, "views": 2}
    effssl.save_pretrained(model, folder, training={"config": config})
    return folder


@pytest.fixture
def folder(saved, tmp_path):
    """A copy to break."""
    return shutil.copytree(saved, tmp_path / "model")


def change_config(folder, change):
    config = json.loads((folder / "config.json").read_text())
    change(config)
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "checkpoint.pth"])
def test_pickled_weights_are_never_opened(folder, name):
    (folder / "model.safetensors").unlink()
    # whoever unpickles this file makes another one
    (folder / name).write_bytes(b"cos\nsystem\n(S'touch " + bytes(folder / "run") + b"'\ntR.")
    with pytest.raises(ValueError, match=f"{name}, a pickle.*convert it: safetensors.torch.save_f"):
        effssl.from_pretrained(folder)
    assert not (folder / "run").exists()


def test_a_pooling_that_gives_no_features_of_the_width_is_refused(folder):
    change_config(folder, lambda c: c["model_args"].update(global_pool=""))
    with pytest.raises(ValueError, match="config.json: test_resnet with .* features of shape"):
        effssl.from_pretrained(folder)


def test_a_pooling_that_gives_features_of_the_width_is_let_pass(folder):
    change_config(folder, lambda c: c["model_args"].update(global_pool="max"))
    model = effssl.from_pretrained(folder)
    assert model(torch.zeros(1, 3, 32, 32)).shape == (1, model.num_features)


@pytest.mark.parametrize("shape", [[10**18, 0], [10**30, 0]])
def test_an_empty_probe_of_huge_sides_is_one_line(folder, shape, capsys):
    header = {"weight": {"dtype": "F32", "shape": shape, "data_offsets": [0, 0]}}
    header["bias"] = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
    text = json.dumps(header).encode()
    (folder / "linear_probe.safetensors").write_bytes(struct.pack("<Q", len(text)) + text)
    with pytest.raises(SystemExit):
        cli.main(["push", str(folder), "org/m", "--dry-run"])
    shown = capsys.readouterr().err
    assert "linear_probe.safetensors is truncated or not" in shown and "Traceback" not in shown


PATHS = ["../../etc/passwd", "/etc/passwd", "local-dir:/etc", "hf-hub:org/name", "a\\..\\b"]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    "put",
    [
        lambda c, path: c.update(architecture=path),
        lambda c, path: c["pretrained_cfg"].update(file=path),
        lambda c, path: c["pretrained_cfg"].update(crop_mode=path),
        lambda c, path: c["pretrained_cfg"].update(url=path),
        lambda c, path: c["pretrained_cfg"].update(hf_hub_id=path),
        lambda c, path: c["model_args"].update(checkpoint_path=path),
        lambda c, path: c["model_args"].update(pretrained_cfg={"file": path}),
        lambda c, path: c["effssl"]["files"].update({path: {"bytes": 1, "sha256": ""}}),
        lambda c, path: c["effssl"].update(name=path),
    ],
)
def test_paths_and_addresses_in_a_config_are_refused(folder, put, path):
    change_config(folder, lambda config: put(config, path))
    with pytest.raises(ValueError, match="config.json: "):
        effssl.from_pretrained(folder)


@pytest.mark.parametrize(
    "put, message",
    [
        (lambda c: c["effssl"].update(projector_dim=10**9), "projector_dim must be 1 to 65536"),
        (lambda c: c["effssl"].update(projector_dim=65536), "projector.safetensors does not fit"),
        (lambda c: c["model_args"].update(in_chans=10**12), "in_chans of model_args must be"),
        (lambda c: c["model_args"].update(in_chans=-3), "in_chans of model_args must be"),
        (lambda c: c["pretrained_cfg"].update(mean=[0.5] * 10**6), "bytes; 4,000,000 are read at"),
        (lambda c: c["pretrained_cfg"].update(mean=[0] * 10**6), "mean of pretrained_cfg cannot"),
        (lambda c: c["pretrained_cfg"].update(std=[0.5, 0.5, float("nan")]), "std of pretrained"),
        (lambda c: c["pretrained_cfg"].update(std=[0, 0, 0]), "std of pretrained_cfg cannot"),
        (lambda c: c["pretrained_cfg"].update(mean=[0.5]), "must be of the 3 channels"),
        (lambda c: c["pretrained_cfg"].update(input_size=[3, 10**7, 10**7]), "input_size of pretr"),
        (lambda c: c["pretrained_cfg"].update(crop_pct=1e-300), "crop_pct of pretrained"),
        (
            lambda c: c["pretrained_cfg"].update(input_size=[3, 8192, 8192], crop_pct=0.1),
            "ask to resize every image to 81,920 pixels; 12,000 are allowed",
        ),
        (
            lambda c: c["pretrained_cfg"].update(input_size=[3, 8192, 8192], crop_pct=1.0),
            "asks for images of 8192 x 8192 pixels; sides up to 2048 are allowed",
        ),
        (
            lambda c: c["pretrained_cfg"].update(test_input_size=[3, 1, 2048], crop_pct=1.0),
            "asks for images of 1 x 2048 pixels; .* one at most 2 times the other",
        ),
        (lambda c: c["pretrained_cfg"].update(interpolation="random"), "interpolation of pretrain"),
        (lambda c: c.update(architecture="vit_giant_patch14_dinov2"), "model.safetensors does not"),
        (lambda c: c["effssl"].pop("files"), "files must be model.safetensors and projector"),
        (lambda c: c["effssl"]["files"]["model.safetensors"].pop("sha256"), "sha256 of every file"),
        (lambda c: c.update(effssl=[1]), "'effssl' must be an object"),
        *(
            (lambda c, to=to: c["effssl"].update(value_range=to), "value_range must be two rising")
            for to in (
                [1],
                [2, 1],
                [0, float("nan")],
                [0, 10**60],
                [False, True],
                "auto",
                [[0], 1],
            )
        ),
    ],
)
def test_what_is_too_large_or_no_number_is_refused_before_anything_is_allocated(
    folder, put, message
):
    change_config(folder, put)
    timm.create_model("test_resnet")  # what timm keeps of its own
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=message):
            effssl.from_pretrained(folder)
        # Python's own memory; tensors on meta have none
        assert tracemalloc.get_traced_memory()[1] < 60e6
    finally:
        tracemalloc.stop()


def test_a_vision_transformer_for_huge_images_needs_a_huge_file(tmp_path):
    model = effssl.create_model("vit_tiny_patch16_224", img_size=32, projector_dim=8)
    effssl.save_pretrained(model, tmp_path / "model")
    sizes = {"img_size": 8192, "patch_size": 1}  # a position embedding of 51 GB
    change_config(tmp_path / "model", lambda c: c["model_args"].update(sizes))
    with pytest.raises(ValueError, match="pos_embed is 1x5x192, not 1x67108865x192"):
        effssl.from_pretrained(tmp_path / "model")


def test_tables_that_are_made_and_not_saved_may_not_be_huge(tmp_path):
    # attention masks of Swin: 19 GB beside weights of 2 MB
    sizes = {"img_size": 8192, "patch_size": 1}
    config = ModelConfig("swin_tiny_patch4_window7_224", sizes, {"input_size": [3, 32, 32]}, 8, {})
    sketch = build_sketch(config)
    folder = tmp_path / "model"
    folder.mkdir()
    model = effssl.create_model("swin_tiny_patch4_window7_224", img_size=56, projector_dim=8)
    effssl.save_pretrained(model, folder)
    assert sum(b.nbytes for b in sketch.buffers()) > 10e9
    weights = model.backbone.state_dict()
    for name, tensor in sketch.backbone.state_dict().items():
        if tensor.shape != weights[name].shape:
            weights[name] = torch.zeros(tensor.shape)
    save_file(weights, folder / "model.safetensors")
    told = describe_file(folder / "model.safetensors")
    change_config(folder, lambda c: c["model_args"].update(sizes))
    change_config(folder, lambda c: c["effssl"]["files"].update({"model.safetensors": told}))
    with pytest.raises(ValueError, match="asks for tables of .* bytes beside the weights"):
        effssl.from_pretrained(folder)


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf"), 1e38, -1e30])
@pytest.mark.parametrize("file", ["model.safetensors", "projector.safetensors"])
def test_weights_of_which_no_feature_can_be_computed_are_refused(folder, number, file):
    weights = load_file(folder / file)
    name = max(weights, key=lambda name: weights[name].is_floating_point())
    weights[name].view(-1)[-1] = number
    save_file(weights, folder / file, metadata={"format": "pt"})
    told = describe_file(folder / file)
    change_config(folder, lambda c: c["effssl"]["files"].update({file: told}))
    with pytest.raises(ValueError, match=f"{file}: {name} has numbers from .*no feature can be"):
        effssl.from_pretrained(folder)


SIZES = [
    {"img_size": 1},
    {"patch_size": 1},
    {"img_size": 1, "patch_size": 1024},
    {"in_chans": 1024},
]
SIZES += [{"global_pool": "nonsense"}, {"class_token": False}, {"dynamic_img_size": True}]


@pytest.mark.parametrize("every", [60, pytest.param(5, marks=pytest.mark.slow)])
def test_any_architecture_with_any_arguments_is_a_value_error_or_built(every):
    outcomes = []
    for name in timm.list_models(exclude_filters="*_giant*")[::every]:
        for args in SIZES:
            channels = args.get("in_chans", 3)
            config = ModelConfig(name, args, {"input_size": [channels, 1, 1]}, 8, {})
            try:
                build_sketch(config)
                outcomes.append(True)
            except ValueError as error:
                assert "\n" not in str(error) and len(str(error)) < 1000
                outcomes.append(False)
    assert 0.1 < sum(outcomes) / len(outcomes) < 0.9


def test_a_zero_division_of_timms_names_the_arguments():
    config = ModelConfig("gcvit_xxtiny", {"img_size": 1}, {"input_size": [3, 1, 1]}, 8, {})
    with pytest.raises(ValueError, match="timm cannot build .*gcvit_xxtiny.* division by zero"):
        build_sketch(config)
    with pytest.raises(ValueError, match="timm cannot build .*gcvit_xxtiny.* division by zero"):
        effssl.create_model("gcvit_xxtiny", img_size=1)


def test_the_architecture_is_that_which_was_checked(folder):
    change_config(folder, lambda c: c["pretrained_cfg"].update(architecture="local-dir:/etc"))
    model = effssl.from_pretrained(folder)
    assert model.backbone.pretrained_cfg["architecture"] == "test_resnet"


def test_a_strangers_training_opens_nothing_here(folder, tmp_path, capsys):
    (tmp_path / "photos").mkdir()
    for dataset in (str(tmp_path / "photos"), "/**", ["x"], None):
        (folder / "training.json").write_text(json.dumps({"config": {"dataset": dataset}}))
        with pytest.raises(SystemExit):
            cli.main(["evaluate", str(folder)])
        assert "does not name public images: give --dataset" in capsys.readouterr().err


def test_a_file_that_was_changed_is_named_though_it_fits(folder):
    weights = load_file(folder / "model.safetensors")
    weights["bn1.weight"][0] += 1
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match="model.safetensors is damaged, or was changed"):
        effssl.from_pretrained(folder)


@pytest.mark.parametrize(
    "content", ["[" * 100_000, '{"a": ' * 50_000, "1" * 10_000, "\x00", "", "[]", "null", '"x"']
)
def test_json_that_is_none_or_too_deep_is_a_value_error(folder, content):
    (folder / "config.json").write_text(content)
    with pytest.raises(ValueError, match="config.json"):
        effssl.from_pretrained(folder)


def test_what_timm_writes_of_every_backbone_is_let_pass(tmp_path):
    names = timm.list_models()
    assert len(names) > 1000
    for name in names:
        cfg = timm.get_pretrained_cfg(name)
        cfg = json.loads(json.dumps(cfg.to_dict() if cfg else {}))
        (tmp_path / "config.json").write_text(
            json.dumps({"architecture": name, "pretrained_cfg": cfg})
        )
        assert read_config(tmp_path).architecture == name


# --- fuzzing: any change of config.json, any bytes in the header of the weights

_KEYS = st.sampled_from(
    "architecture model_args pretrained_cfg effssl in_chans img_size patch_size mean std files "
    "input_size classifier first_conv format projector_dim name sha256 bytes global_pool".split()
)
_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from(["resnet18", "test_resnet", "test_vit", "bicubic", *PATHS]),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(_KEYS | st.text(), inner, max_size=4)
    ),
    max_leaves=8,
)


def places(value, path=()):
    """Where something stands in a nested structure."""
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, item in items if isinstance(value, dict | list) else ():
        yield from places(item, (*path, key)) if isinstance(item, dict | list) else [(*path, key)]


@st.composite
def changed_configs(draw, config):
    config = copy.deepcopy(config)
    for _ in range(draw(st.integers(1, 3))):
        *parents, last = draw(st.sampled_from([p for p in places(config) if p]))
        inside = config
        for key in parents:
            inside = inside[key]
        action = draw(st.sampled_from(["replace", "remove", "add"]))
        if action == "remove":
            del inside[last]
        elif action == "add" and isinstance(inside, dict):
            inside[draw(_KEYS | st.text(max_size=8))] = draw(_VALUES)
        else:
            inside[last] = draw(_VALUES)
    return config


def fuzz(examples):
    return settings(
        max_examples=examples,
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )


def loads_or_is_refused(folder):
    try:
        model = effssl.from_pretrained(folder)
    except ValueError as error:
        assert len(str(error)) < 1000 and str(error).isprintable(), error
        return False
    assert isinstance(model, effssl.SSLModel)
    return True


@pytest.mark.parametrize("examples", [200, pytest.param(2000, marks=pytest.mark.slow)])
def test_any_change_of_a_config_is_a_value_error_or_harmless(saved, folder, examples):
    config = json.loads((saved / "config.json").read_text())
    outcomes = []

    @fuzz(examples)
    @given(changed_configs(config))
    def load(changed):
        (folder / "config.json").write_text(json.dumps(changed))
        outcomes.append(loads_or_is_refused(folder))

    load()
    assert len(outcomes) >= examples and 0 < sum(outcomes) < 0.7 * len(outcomes)


_HEADERS = st.dictionaries(
    st.sampled_from(["bn1.weight", "conv1.0.weight", "__metadata__"]) | st.text(max_size=10),
    st.fixed_dictionaries(
        {
            "dtype": st.sampled_from(["F32", "F64", "BF16", "I64", "F8_E4M3", "BOOL", "X"])
            | st.text(max_size=3),
            "shape": st.lists(st.integers(-1, 2**65), max_size=3),
            "data_offsets": st.lists(st.integers(-1, 2**65), max_size=3),
        }
    )
    | _VALUES,
    max_size=4,
)


@pytest.mark.parametrize("examples", [200, pytest.param(2000, marks=pytest.mark.slow)])
def test_any_header_of_the_weights_is_a_value_error(folder, examples):
    path = folder / "model.safetensors"
    content = path.read_bytes()
    length = struct.unpack("<Q", content[:8])[0]

    @fuzz(examples)
    @given(st.data())
    def load(data):
        kind = data.draw(st.sampled_from(["header", "bytes", "flip", "cut", "length"]))
        if kind == "header":
            header = json.dumps(data.draw(_HEADERS)).encode()
            broken = struct.pack("<Q", len(header)) + header + content[8 + length :]
        elif kind == "bytes":
            broken = data.draw(st.binary(max_size=200))
        elif kind == "flip":
            at = data.draw(st.integers(0, 8 + length - 1))
            broken = bytearray(content)
            broken[at] ^= data.draw(st.integers(1, 255))
        elif kind == "cut":
            broken = content[: data.draw(st.integers(0, len(content) - 1))]
        else:
            broken = struct.pack("<Q", data.draw(st.integers(0, 2**64 - 1))) + content[8:]
        path.write_bytes(bytes(broken))
        if bytes(broken) != content:
            assert not loads_or_is_refused(folder)

    load()


def test_loading_draws_no_random_numbers_and_a_classifier_does(folder):
    torch.manual_seed(0)
    before = torch.get_rng_state()
    effssl.from_pretrained(folder)
    assert torch.equal(torch.get_rng_state(), before)
    heads = [
        effssl.from_pretrained(folder, num_classes=3).get_classifier().weight for _ in range(2)
    ]
    assert not torch.equal(*heads) and heads[0].std() > 0
