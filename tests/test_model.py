"""create_model: any timm backbone, its projector, its errors; the small-image ResNets."""

import pytest
import timm
import torch
from huggingface_hub import constants
from huggingface_hub.utils import httpx

import effssl


def test_the_projector_follows_the_paper_but_for_the_last_bias():
    model = effssl.create_model("resnet18", projector_dim=64)
    first, norm, relu, last = model.projector
    assert (first.in_features, first.out_features, first.bias) == (512, 64, None)
    assert (norm.num_features, type(relu)) == (64, torch.nn.ReLU)
    assert (last.in_features, last.out_features, last.bias) == (64, 64, None)
    assert (model.num_features, model.projector_dim) == (512, 64)


def test_features_are_those_of_timm_and_projections_are_theirs():
    model = effssl.create_model("mobilenetv3_small_050", projector_dim=16).eval()
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        features = model.backbone(images)
        assert features.shape == (2, 1024)  # timm calls 288 of these num_features
        assert torch.equal(model(images), features)
        assert torch.equal(model(images, project=True), model.projector(features))


@pytest.mark.parametrize("channels", [1, 4])
def test_channels_set_the_first_layer_and_the_recorded_input(channels):
    model = effssl.create_model("resnet18_cifar", in_chans=channels, img_size=32)
    assert model.backbone.conv1.weight.shape == (64, channels, 3, 3)
    assert model.backbone.pretrained_cfg["input_size"] == (channels, 32, 32)
    assert len(model.backbone.pretrained_cfg["mean"]) == channels


def test_random_weights_do_not_claim_the_origin_of_timms():
    claims = {"tag", "license", "paper_ids", "origin_url", "url", "hf_hub_id"}
    assert claims & set(timm.get_pretrained_cfg("resnet18").to_dict())
    assert not claims & set(effssl.create_model("resnet18").backbone.pretrained_cfg)


def test_a_fixed_size_backbone_is_built_for_the_image():
    model = effssl.create_model("vit_tiny_patch16_224", img_size=32, patch_size=4)
    assert model.backbone.patch_embed.grid_size == (8, 8)
    assert model.backbone_args == {"in_chans": 3, "img_size": 32, "patch_size": 4}


@pytest.mark.parametrize("name, width", [("resnet18_cifar", 512), ("resnet50_cifar", 2048)])
def test_small_image_resnets_keep_the_resolution_of_the_stem(name, width):
    model = timm.create_model(name, features_only=True)
    maps = model(torch.rand(1, 3, 32, 32))
    assert [m.shape[-1] for m in maps] == [32, 32, 16, 8, 4] and maps[-1].shape[1] == width
    assert model.feature_info.reduction() == [1, 1, 2, 4, 8]


def test_list_models_has_timms_and_the_small_image_resnets():
    names = effssl.list_models("resnet*")
    assert {"resnet50", "resnet18_cifar", "resnet34_cifar", "resnet50_cifar"} <= set(names)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"backbone": "resnet81"}, "unknown backbone 'resnet81'; did you mean .*resnet18"),
        ({"backbone": "resnet18.typo"}, "'resnet18' has no weights 'resnet18.typo'; .*a1_in1k"),
        ({"backbone": "resnet18", "patch_size": 4}, "cannot build backbone 'resnet18'.*patch_size"),
        ({"backbone": "resnet18", "projector_dim": 0}, "projector_dim must be 1 or more, got 0"),
        ({"backbone": "resnet18_cifar", "pretrained": True}, "No pretrained weights exist"),
    ],
)
def test_bad_arguments_say_what_is_allowed(arguments, message):
    with pytest.raises(ValueError, match=message):
        effssl.create_model(**arguments)


@pytest.mark.parametrize(
    "name", ["hf-hub:timm/resnet18.a1_in1k", "local-dir:runs/x", "timm/resnet18"]
)
def test_a_repository_or_folder_as_a_backbone_is_named_with_what_is_possible(name):
    with pytest.raises(ValueError, match="give it to init to go on from its weights") as info:
        effssl.create_model(name)
    assert repr(name) in str(info.value) and "with pretrained to start" in str(info.value)
    assert len(str(info.value).splitlines()) == 1


@pytest.mark.parametrize("name", ["resnet18", "resnet18.a1_in1k"])
def test_weights_that_cannot_be_downloaded_are_named_with_the_reason_and_the_cache(name):
    with pytest.raises(FileNotFoundError) as info:  # the tests are offline
        effssl.create_model(name, pretrained=True)
    said = str(info.value)
    assert repr(name) in said and "HF_HUB_OFFLINE is set" in said and "without pretrained" in said
    assert constants.HF_HUB_CACHE in said and len(said.splitlines()) == 1


@pytest.mark.parametrize("error", [httpx.ConnectError, ConnectionResetError, PermissionError])
def test_weights_of_a_host_that_does_not_answer_are_named_with_both(monkeypatch, error):
    def fail(*arguments, **more):
        raise error("Name or service\nnot known")

    monkeypatch.setattr(timm, "create_model", fail)
    monkeypatch.setattr(constants, "is_offline_mode", lambda: False)
    with pytest.raises(FileNotFoundError) as info:
        effssl.create_model("resnet18", pretrained=True)
    said = str(info.value)
    assert (
        f"{constants.ENDPOINT}/timm/resnet18.a1_in1k gives none: Name or service not known" in said
    )
    assert constants.HF_HUB_CACHE in said and len(said.splitlines()) == 1


@pytest.mark.parametrize(
    "in_chans, shape, hint",
    [
        (3, (2, 1, 16, 16), "of gray images make color with images.expand(-1, 3, -1, -1)"),
        (3, (3, 16, 16), "of one image make a batch with image[None]"),
        (3, (2, 16, 16, 3), "channels come before height and width, images.permute(0, 3, 1, 2)"),
        (1, (2, 3, 16, 16), ""),
        (4, (16, 16), ""),
    ],
)
def test_a_tensor_of_another_shape_is_one_line_that_says_what_the_model_takes(
    in_chans, shape, hint
):
    model = effssl.create_model("test_resnet", projector_dim=8, in_chans=in_chans)
    with pytest.raises(ValueError) as caught:
        model(torch.zeros(shape), project=True)
    said = f"this model takes images (N, {in_chans}, H, W), and got a tensor of shape {shape}"
    assert str(caught.value) == said + (f": {hint}" if hint else "")


def test_the_check_of_shapes_is_no_obstacle_to_compilers():
    model = effssl.create_model("test_resnet", projector_dim=8).eval()
    images = torch.rand(2, 3, 16, 16)
    with torch.no_grad():
        features = model(images)
        assert torch.equal(torch.compile(model, backend="eager", fullgraph=True)(images), features)
        assert torch.equal(torch.export.export(model, (images,)).module()(images), features)
