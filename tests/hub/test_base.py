"""Weights that a model went on from: read from a Hub, named in its card, with their license."""

import json

import pytest
import timm
import torch
from clients import IMAGES, attempt, client, push_all

import effssl
from effssl import PretrainConfig
from effssl.hub._base import license_of_weights, license_warning
from effssl.hub._license import License, known_licenses
from effssl.hub._model_config import read_config
from effssl.hub.push import prepare
from effssl.naming import Base

TINY = {
    **{"img_size": 32, "preset": "cifar", "projector_dim": 16, "views": 2, "batch_size": 8},
    **{"split": "train[:16]", "precision": "fp32", "cpu": True, "epochs": 1, "max_steps": 1},
    "evaluate_every": 0,
}


def train(init, output):
    return attempt(lambda: str(effssl.pretrain(PretrainConfig(init=init, output=output, **TINY))))


def first_features(init, output):
    """The features of the weights that a run begins with, whose first step goes nowhere."""
    config = PretrainConfig(init=init, output=output, lr=1e-30, weight_decay=0.0, **TINY)
    return effssl.from_pretrained(effssl.pretrain(config)).backbone.conv1(IMAGES)


def save_resnet18(folder, license):
    torch.manual_seed(3)
    model = timm.create_model("resnet18", num_classes=7)
    model.pretrained_cfg["license"] = license
    timm.models.save_for_hf(model, folder, safe_serialization=True)
    return model


def test_a_repository_of_timm_is_gone_on_from_and_named_in_the_card(tmp_path, hub):
    model = save_resnet18(tmp_path / "r", "cc-by-nc-4.0")
    hub.add_repo("timm/resnet18.mine", tmp_path / "r")
    found = client(tmp_path, hub, first_features, "hf-hub:timm/resnet18.mine", str(tmp_path / "a"))
    with torch.no_grad():
        assert torch.equal(found, model.conv1(IMAGES))
    config = read_config(tmp_path / "a" / "model")
    assert config.base == Base("timm/resnet18.mine", "cc-by-nc-4.0")
    cfg = timm.get_pretrained_cfg("resnet18")
    for key in ("mean", "std", "interpolation", "crop_pct"):
        value = getattr(cfg, key)
        expected = list(value) if isinstance(value, tuple) else value
        assert config.pretrained_cfg[key] == expected
    training = json.loads((tmp_path / "a" / "model" / "training.json").read_text())
    assert training["config"]["init"] == "hf-hub:timm/resnet18.mine"
    (said,) = client(tmp_path, hub, push_all, [(tmp_path / "a" / "model", "org/from-resnet18")])
    assert said.startswith(hub.url), said
    card = hub.repos["org/from-resnet18"].at("main").files["README.md"].decode()
    assert "\nlicense: cc-by-nc-4.0\n" in card
    assert "\nbase_model: timm/resnet18.mine\n" in card
    # and that repository of effssl is gone on from, with its projector
    folder = client(tmp_path, hub, train, "org/from-resnet18", str(tmp_path / "b"))
    assert folder == str(tmp_path / "b" / "model")
    assert read_config(tmp_path / "b" / "model").base == Base("org/from-resnet18", "cc-by-nc-4.0")


def test_the_license_of_a_repository_may_stand_in_its_card_alone(tmp_path, hub):
    save_resnet18(tmp_path / "r", None)
    (tmp_path / "r" / "README.md").write_text("---\nlicense: mit\ntags:\n- timm\n---\n# Mine\n")
    hub.add_repo("org/r", tmp_path / "r")
    client(tmp_path, hub, train, "org/r", str(tmp_path / "a"))
    config = read_config(tmp_path / "a" / "model")
    assert (config.base, config.license) == (Base("org/r", "mit"), {"license": "mit"})


def saved(tmp_path, base, license=None):
    torch.manual_seed(0)
    model = effssl.create_model("test_resnet", projector_dim=8, img_size=32)
    model.set_input(32, (0.5,) * 3, (0.5,) * 3)
    model.base = base
    effssl.save_pretrained(model, tmp_path / "m", license=license)
    return tmp_path / "m"


RESTRICTED = [
    *("cc-by-nc-4.0", "cc-by-nc-sa-3.0", "cc-by-nd-4.0", "dinov3-license", "seer-license", "gemma"),
    *("fair-noncommercial-research-license", "apple-amlr", "openrail", "openrail++", "llama3.1"),
    *("creativeml-openrail-m", "bigscience-bloom-rail-1.0", "intel-research", "h-research"),
]


@pytest.mark.parametrize("license", RESTRICTED)
def test_weights_whose_license_restricts_use_are_one_warning(tmp_path, caplog, license):
    base, known = Base("timm/x.y", license), license in known_licenses()
    other = {"license_name": license, "license_link": "https://example.org/LICENSE"}
    said = License(license) if known else License("other", *other.values())
    warning = license_warning(base, said)
    assert warning == (
        f"these weights were trained from those of timm/x.y, whose license {license} restricts use:"
        " what it forbids with those it forbids with these"
    )
    prepare(saved(tmp_path, base, license if known else None), "org/m")
    records = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    assert len(records) == 1 and "timm/x.y" in records[0]


@pytest.mark.parametrize(
    "license", ["mit", "apache-2.0", "bsd-3-clause", "cc-by-4.0", "apple-ascl"]
)
def test_a_license_that_restricts_nothing_is_no_warning_unless_another_is_given(
    tmp_path, caplog, license
):
    folder = saved(tmp_path, Base("timm/x.y", license), license)
    prepare(folder, "org/m")
    assert not caplog.records
    prepare(folder, "org/m", "wtfpl")
    (record,) = caplog.records
    assert record.getMessage() == (
        f"these weights were trained from those of timm/x.y, whose license {license} is not the "
        "wtfpl that they are published under: make sure that it allows that"
    )


def test_weights_of_no_others_or_of_an_unknown_license_are_no_warning():
    assert license_warning(None, License("mit")) is None
    assert license_warning(Base("timm/x.y"), License("mit")) is None


def test_a_license_that_the_hub_does_not_know_is_named_with_the_page_of_the_weights():
    found = license_of_weights({"license": "dinov3-license"}, "timm/x.y")
    assert found == License("other", "dinov3-license", "https://huggingface.co/timm/x.y")
    assert license_of_weights({"license": "dinov3-license"}, None) is None
    assert license_of_weights({"license": ["mit"]}, "timm/x.y") is None
    assert license_of_weights({}, "timm/x.y") is None
    assert license_of_weights({"license": "mit"}, None) == License("mit")


def test_every_license_of_timms_weights_can_stand_in_a_card():
    found = {timm.get_pretrained_cfg(name).license for name in timm.list_pretrained()}
    assert len(found) > 10
    for license in found - {None}:
        assert license_of_weights({"license": license}, "timm/x.y") is not None


def test_a_license_of_ones_own_is_kept_when_a_model_goes_on(tmp_path):
    link = "https://example.org/terms"
    folder = saved(tmp_path, None)
    effssl.save_pretrained(
        effssl.from_pretrained(folder),
        folder,
        license="other",
        license_name="my-terms",
        license_link=link,
    )
    config = PretrainConfig(init=str(folder), output=str(tmp_path / "run"), **TINY)
    found = read_config(effssl.pretrain(config))
    assert found.license == {"license": "other", "license_name": "my-terms", "license_link": link}
    assert found.base == Base("test_resnet", "my-terms")


# What a stranger's config.json may say


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"projector_layers": 4}, "projector_layers must be 1, 2 or 3, is 4"),
        ({"projector_layers": True}, "projector_layers must be 1, 2 or 3, is True"),
        ({"projector_layers": "3"}, "projector_layers must be 1, 2 or 3, is '3'"),
        ({"projector_hidden": 0}, "projector_hidden must be 1 to 65536, is 0"),
        ({"projector_hidden": 10**9}, "projector_hidden must be 1 to 65536"),
        ({"projector_hidden": 8.0}, "projector_hidden must be 1 to 65536, is 8.0"),
        ({"projector_hidden": 8, "projector_layers": 1}, "is 8, and projector_layers is 1"),
        ({"projector_layers": 3}, "does not fit the model of config.json: lacks 4."),
        ({"projector_hidden": 9}, "does not fit the model of config.json: 0.weight is 8x"),
        ({"base": "timm/x"}, "base must be the name and the license of weights"),
        ({"base": {}}, "base must be the name"),
        ({"base": {"model": "/etc/passwd"}}, "base must be the name"),
        ({"base": {"model": "a/b/c"}}, "base must be the name"),
        ({"base": {"model": "x" * 1000}}, "base must be the name"),
        ({"base": {"model": "a/b", "license": "x\ny"}}, "base must be the name"),
        ({"base": {"model": "a/b", "url": "https://x"}}, "base must be the name"),
    ],
)
def test_a_projector_or_a_base_out_of_bounds_is_refused(tmp_path, changes, message):
    folder = saved(tmp_path, None)
    about = json.loads((folder / "config.json").read_text())
    about["effssl"] |= changes
    (folder / "config.json").write_text(json.dumps(about))
    with pytest.raises(ValueError, match=message):
        effssl.from_pretrained(folder)


@pytest.mark.parametrize("layers, hidden", [(1, None), (2, None), (2, 24), (3, None), (3, 24)])
def test_projectors_of_any_layers_and_widths_load_as_they_were_saved(tmp_path, layers, hidden):
    torch.manual_seed(0)
    options = {"projector_layers": layers, "projector_hidden": hidden}
    model = effssl.create_model("test_resnet", projector_dim=8, img_size=32, **options).eval()
    model.base = Base("timm/x.y", "mit")
    effssl.save_pretrained(model, tmp_path / "m")
    found = effssl.from_pretrained(tmp_path / "m")
    with torch.no_grad():
        assert torch.equal(found(IMAGES, project=True), model(IMAGES, project=True))
    width = hidden or (None if layers == 1 else 8)
    assert (found.projector_layers, found.projector_hidden) == (layers, width)
    assert found.base == model.base
    ours = json.loads((tmp_path / "m" / "config.json").read_text())["effssl"]
    assert ("projector_layers" in ours) == (layers != 2)
    assert ("projector_hidden" in ours) == (hidden is not None)
    prepare(tmp_path / "m", "org/m")
