"""Models of a training loop of one's own: what a saved folder says of them."""

import json
import logging

import pytest
import timm
import torch

import effssl
from effssl.cli import main
from effssl.hub._card_content import card_content
from effssl.hub._folder import read_record
from effssl.hub._license import License
from effssl.hub._model_config import read_config

PACKAGED = "test_convnext2-spectral-p256-aug4-fashion-mnist-sample"


def saved_config(folder):
    return json.loads((folder / "config.json").read_text())


def normalization(model):
    transform = effssl.create_transform(model)
    return tuple(transform.mean), tuple(transform.std), transform.channels


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("preset", ["cifar", "imagenet", "grey"])
def test_a_model_that_was_told_of_its_views_normalizes_as_they_do(
    tmp_path, caplog, preset, channels
):
    views = effssl.MultiView(preset, views=2, size=48)
    model = effssl.create_model("test_resnet", in_chans=channels, projector_dim=8, views=views)
    effssl.save_pretrained(model, tmp_path / "m")
    loaded = effssl.from_pretrained(tmp_path / "m")
    assert normalization(loaded) == (*views.options.channel_stats(channels), channels)
    assert loaded.backbone.pretrained_cfg["input_size"] == [channels, 48, 48]
    # a view without any change is what the transform makes of the image
    plain = effssl.views.ViewOptions(
        scale=(1.0, 1.0), ratio=(1.0, 1.0), flip=0.0, jitter=0.0, grey=0.0,
        mean=views.options.mean, std=views.options.std,
    )  # fmt: skip
    image = torch.randint(0, 256, (channels, 48, 48), dtype=torch.uint8)
    view = effssl.MultiView(plain, views=1, size=48)(image[None])[0, 0]
    torch.testing.assert_close(effssl.create_transform(loaded)(image), view, atol=1e-4, rtol=0)
    assert not caplog.records


def test_views_give_the_size_of_a_backbone_that_is_built_for_one():
    views = effssl.MultiView("cifar", views=2, size=32)
    model = effssl.create_model("vit_tiny_patch16_224", patch_size=4, views=views)
    assert model.backbone_args["img_size"] == 32
    assert effssl.create_model("test_resnet", img_size=32, views=views).input_is_set
    with pytest.raises(ValueError, match="img_size 64 is not the 32 px of the views"):
        effssl.create_model("test_resnet", img_size=64, views=views)
    for wrong in (4, "cifar"):
        with pytest.raises(TypeError, match="views must be a MultiView, .*; got (int|str)"):
            effssl.create_model("test_resnet", views=wrong)


def test_a_model_that_nobody_told_of_its_views_is_not_saved_in_silence(tmp_path, caplog):
    model = effssl.create_model("test_resnet", projector_dim=8)
    effssl.save_pretrained(model, tmp_path / "m")
    (said,) = caplog.messages
    assert "mean 0.5, 0.5, 0.5 and std 0.5, 0.5, 0.5 of the model are defaults" in said
    assert "effssl.create_model(views=...)" in said and "\n" not in said
    caplog.clear()
    model.set_input(32, (0.5,) * 3, (0.5,) * 3)
    effssl.save_pretrained(model, tmp_path / "m")
    effssl.save_pretrained(effssl.from_pretrained(tmp_path / "m"), tmp_path / "n")
    assert not caplog.records


@pytest.fixture
def loaded(tmp_path):
    """A model of another license, as it is loaded, and its folder."""
    model = effssl.create_model("test_resnet", projector_dim=8)
    model.set_input(32, (0.3, 0.4, 0.5), (0.2, 0.2, 0.3), background="#ff8800")
    made = {"backbone": "test_resnet", "loss": "vicreg", "projector_dim": 8, "views": 6}
    folder = tmp_path / "loaded"
    options = {"license_name": "mine-1.0", "license_link": "https://example.org/mine"}
    effssl.save_pretrained(model, folder, training={"config": made}, license="other", **options)
    (folder / "training.json").unlink()  # which is of a whole run
    return effssl.from_pretrained(folder), folder


@pytest.mark.parametrize("trained", [False, True])
def test_a_model_that_was_loaded_keeps_what_it_is_when_it_is_saved(loaded, tmp_path, trained):
    model, folder = loaded
    if trained:  # a loop of one's own on other views
        views = effssl.MultiView("cifar", views=2, size=48)
        model.train().requires_grad_(True)
        model.set_views(views)
        x = views(torch.zeros(4, 3, 40, 40, dtype=torch.uint8))
        model(x.flatten(0, 1), project=True).square().mean().backward()
        torch.optim.SGD(model.parameters(), 0.1).step()
    effssl.save_pretrained(model, tmp_path / "again")
    before, after = saved_config(folder), saved_config(tmp_path / "again")
    for key in ("name", "license_name", "license_link", "background", "projector_dim"):
        assert after["effssl"][key] == before["effssl"][key], key
    assert after["effssl"]["name"] == "test_resnet-vicreg-p8-aug6"
    for key in ("tag", "paper_ids", "license"):
        assert after["pretrained_cfg"][key] == before["pretrained_cfg"][key], key
    if trained:
        stats = views.options.channel_stats(3)
        assert normalization(effssl.from_pretrained(tmp_path / "again"))[:2] == stats
    else:
        assert after == before
    cards = [
        card_content(read_config(f), read_record(f), "me/model", License("other", "x", "y"))
        for f in (folder, tmp_path / "again")
    ]
    for key in ("title", "loss", "views", "citations"):
        assert cards[1][key] == cards[0][key], key
    assert cards[1]["views"] == 6 and len(cards[1]["citations"]) == 2


def test_a_license_or_training_that_is_given_wins(loaded, tmp_path):
    model, _ = loaded
    made = {"backbone": "test_resnet", "loss": "bt", "projector_dim": 8, "views": 2}
    effssl.save_pretrained(model, tmp_path / "m", training={"config": made}, license="mit")
    config = saved_config(tmp_path / "m")
    assert config["effssl"]["name"] == "test_resnet-bt-p8-aug2"
    assert config["pretrained_cfg"]["license"] == "mit"
    assert not {"license_name", "license_link"} & config["effssl"].keys()


def test_the_packaged_model_is_saved_and_published_again(tmp_path, capsys):
    effssl.save_pretrained(effssl.from_pretrained(PACKAGED), tmp_path / "m")
    main(["push", str(tmp_path / "m"), "me/again", "--dry-run"])
    card = (tmp_path / "m" / "README.md").read_text()
    assert "license: apache-2.0" in card and "2312.10725" in card
    assert saved_config(tmp_path / "m")["effssl"]["name"] in card


def test_a_color_as_background_is_published(loaded, tmp_path, capsys):
    main(["push", str(loaded[1]), "me/again", "--dry-run"])
    assert "nothing was sent" in capsys.readouterr().out


def test_models_to_fine_tune_are_plain_timm_models(loaded):
    net = effssl.from_pretrained(loaded[1], num_classes=5)
    assert type(net) is type(timm.create_model("test_resnet"))
    assert not hasattr(net, "license") and not hasattr(net, "input_is_set")


def test_loading_and_saving_logs_nothing(loaded, tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        effssl.save_pretrained(loaded[0], tmp_path / "m")
    assert not caplog.records
