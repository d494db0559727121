"""Runs with crops of two sizes: what is drawn, the same weights however it runs, and its record."""

import json
from dataclasses import replace

import pytest
import timm
import torch
from runs import (
    EVERY_STEP,
    TINY,
    Killed,
    assert_equal,
    check_resumed,
    kill,
    metrics,
    tiny,
)
from test_processes import EXACT, difference, train

import effssl
from effssl import PretrainConfig
from effssl.batch_norm import make_global
from effssl.data._loader import BatchShard, collate
from effssl.hub._card import compose_card
from effssl.hub._folder import read_training, save_pretrained
from effssl.training._checkpoint import load_checkpoint
from effssl.training._staging import Stager
from effssl.training._views import create_views
from effssl.views import _plan as rows

LOCAL = {"local_views": 6, "local_size": 16}


def test_global_views_start_where_local_ones_end_unless_the_preset_starts_above():
    config = PretrainConfig(img_size=64, local_views=6, local_size=32, local_scale=(0.1, 0.3))
    for preset, lowest in {"imagenet": 0.3, "stl": 0.3, "grey": 0.4}.items():
        whole, local = create_views(replace(config, preset=preset))
        assert (whole.views, whole.size, whole.options.scale) == (4, 64, (lowest, 1.0))
        assert (local.views, local.size, local.options.scale) == (6, 32, (0.1, 0.3))
        assert replace(whole.options, scale=(0.1, 0.3)) == local.options
    (alone,) = create_views(replace(config, local_views=0))
    assert alone.options.scale == (0.08, 1.0)


def staged(config):
    batch = collate(list(torch.zeros(8, 1, 40, 48, dtype=torch.uint8)), 1)
    stage = Stager(create_views(config), BatchShard(8), config.seed, torch.device("cpu"))
    return stage(batch, 3).chunks[0].plans


def test_local_views_leave_the_draws_of_the_others_as_they_are():
    config = PretrainConfig(**TINY | {"preset": "multispectral"})
    (alone,), (whole, local) = staged(config), staged(replace(config, **LOCAL))
    same = [row for row in range(len(alone)) if not rows.TOP <= row <= rows.CROP_WIDTH]
    assert torch.equal(whole[same], alone[same]) and not torch.equal(whole, alone)
    assert whole.shape[1] == 2 * 8 and local.shape[1] == 6 * 8
    assert not torch.equal(local[rows.FACTORS, :16], whole[rows.FACTORS])
    share = local[rows.CROP_HEIGHT] * local[rows.CROP_WIDTH] / (40 * 48)
    assert 0.04 < share.min() and share.max() < 0.27  # the sides are rounded to pixels
    share = whole[rows.CROP_HEIGHT] * whole[rows.CROP_WIDTH] / (40 * 48)
    assert 0.23 < share.min() < 0.4


@pytest.mark.parametrize("loss", ["bt", "vicreg"])
def test_processes_end_with_the_weights_of_one(tmp_path, loss):
    changes = {"views": "2", "local_views": "6", "local_size": "16", "max_steps": "6", "loss": loss}
    runs = {count: train(tmp_path / str(count), count, **changes) for count in (1, 2, 4)}
    found = {count: difference(runs[count], runs[1]) for count in (2, 4)}
    print(f"{loss}, 2 + 6 views, 6 steps: " + ", ".join(f"{w}: {d:.1e}" for w, d in found.items()))
    assert max(found.values()) <= EXACT


@pytest.mark.parametrize("changes", [{}, {"micro_batch": 4}, {"local_pairs": True}], ids=str)
def test_a_killed_run_goes_on_to_the_same_bits(tmp_path, monkeypatch, changes):
    options = EVERY_STEP | LOCAL | changes
    check_resumed(tmp_path, monkeypatch, options)


def test_a_run_from_before_local_views_is_resumed(tmp_path, monkeypatch):
    whole = effssl.pretrain(tiny(tmp_path / "whole", **EVERY_STEP))
    with monkeypatch.context() as patch:
        kill(patch, "step", 5)
        with pytest.raises(Killed):
            effssl.pretrain(tiny(tmp_path, **EVERY_STEP))
    file = tmp_path / "run" / "config.json"
    before = {k: v for k, v in json.loads(file.read_text()).items() if not k.startswith("local_")}
    file.write_text(json.dumps(before))
    assert PretrainConfig.load(file).local_views == 0
    effssl.pretrain(tiny(tmp_path, resume=True, **EVERY_STEP))
    assert_equal(load_checkpoint(tmp_path / "run")["model"], load_checkpoint(whole.parent)["model"])


def test_a_resume_with_other_local_views_is_refused(tmp_path):
    effssl.pretrain(tiny(tmp_path, max_steps=1, evaluate_every=0, **LOCAL))
    with pytest.raises(ValueError, match="local_scale"):
        effssl.pretrain(tiny(tmp_path, resume=True, local_scale=(0.1, 0.2), **LOCAL))


def test_records_count_local_views_and_say_their_size(tmp_path):
    folder = effssl.pretrain(tiny(tmp_path, output=str(tmp_path / "run"), log_every=1, **LOCAL))
    training = read_training(folder)
    assert training["views_seen"] == 10 * 8 * 8 and training["images_seen"] == 10 * 8
    assert training["config"]["local_scale"] == [0.05, 0.25]
    assert "--local-views 6 --local-size 16" in training["command"]
    made = json.loads((folder / "config.json").read_text())
    assert made["effssl"]["name"] == "test_resnet-bt-p16-aug8"
    card = " ".join(compose_card(folder, "org/model").split())
    said = "2 of 32 px and 6 local ones of 16 px"
    assert f"with 8 views of each image, {said}, and a projector" in card
    assert f"| preset grey, {said} |" in card
    assert "views of 32 px only, beside local ones of 16 px" in card
    speeds = [line["views_per_s"] for line in metrics(tmp_path / "run")]
    assert all(speed > 0 for speed in speeds)


@pytest.mark.parametrize("backbone", ["convit_tiny", "mixer_s32_224"])
def test_a_backbone_that_takes_one_size_only_is_refused_in_one_line(tmp_path, backbone):
    changes = {"backbone": backbone, "img_size": 64, "local_views": 2, "local_size": 32}
    with pytest.raises(ValueError, match="cannot take images of 32 px: .*; give another local_s"):
        effssl.pretrain(tiny(tmp_path, **changes))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "backbone, sizes",
    [
        ("vit_tiny_patch16_224", (64, 32)),
        ("eva02_tiny_patch14_224", (56, 28)),
        pytest.param("swin_tiny_patch4_window7_224", (64, 32), marks=pytest.mark.slow),
    ],
)
def test_a_backbone_of_any_size_has_the_weights_and_the_features_of_the_plain_one(
    tmp_path, backbone, sizes
):
    torch.manual_seed(0)
    plain = effssl.create_model(backbone, projector_dim=8, img_size=sizes[0])
    torch.manual_seed(0)
    model = effssl.create_model(
        backbone, projector_dim=8, img_size=sizes[0], dynamic_img_size=True
    ).eval()
    assert_equal(model.state_dict(), plain.state_dict())
    save_pretrained(model, tmp_path / "model")
    args = json.loads((tmp_path / "model" / "config.json").read_text())["model_args"]
    assert args == {"in_chans": 3, "img_size": sizes[0]}
    whole, small = (torch.randn(2, 3, size, size) for size in sizes)
    with torch.no_grad():
        expected = model(whole)
        assert model([whole, small]).shape == (4, model.num_features)
        torch.testing.assert_close(model([whole, small]), torch.cat([expected, model(small)]))
    loaded = timm.create_model(f"local-dir:{tmp_path / 'model'}", pretrained=True).eval()
    for other in (loaded, plain.eval(), effssl.from_pretrained(tmp_path / "model")):
        with torch.no_grad():
            assert torch.equal(other(whole), expected)


@pytest.mark.parametrize("made_global", [False, True])
def test_running_statistics_are_those_of_the_first_size(made_global):
    model = effssl.create_model("test_resnet", projector_dim=8, img_size=32).double()
    if made_global:
        make_global(model)
    twin = effssl.create_model("test_resnet", projector_dim=8, img_size=32).double()
    twin.load_state_dict(model.state_dict())
    whole, small = (
        scale * torch.randn(6, 3, size, size).double() for scale, size in ((1, 32), (3, 16))
    )
    found = model.train()([whole, small])
    expected = twin.train()(whole)
    torch.testing.assert_close(found[:6], expected)
    for (name, a), b in zip(model.backbone.named_buffers(), twin.backbone.buffers(), strict=True):
        torch.testing.assert_close(a, b, msg=name)
    torch.testing.assert_close(found[6:], twin(small))  # with the statistics of its own batch
    model.train()(small)
    counts = [b for name, b in model.backbone.named_buffers() if name.endswith("tracked")]
    assert counts and all(count == 2 for count in counts)  # both tracked again


@pytest.mark.parametrize("micro_batch", [None, 4])
def test_blocks_that_are_computed_again_change_nothing_for_views_of_two_sizes(
    tmp_path, micro_batch
):
    found = []
    for again in (False, True):
        config = tiny(
            tmp_path / str(again),
            **LOCAL | {"local_views": 1, "max_steps": 2, "precision": "fp64"},
            micro_batch=micro_batch,
            grad_checkpointing=again,
            evaluate_every=0,
        )
        found.append(effssl.from_pretrained(effssl.pretrain(config)).state_dict())
    for name, value in found[0].items():  # running statistics of batch norms are among them
        torch.testing.assert_close(found[1][name], value, msg=name)
