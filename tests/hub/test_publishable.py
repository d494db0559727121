"""Nothing is published but what effssl writes, in the forms that it writes it in."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

import effssl
from effssl.cli import main
from effssl.hub._folder import read_training
from effssl.hub._license import check_license
from effssl.hub._publishable import check_publishable
from effssl.hub._record_keys import CONFIG, VERSIONS
from effssl.hub._record_keys import PRIVATE as PRIVATE_FIELDS
from effssl.hub._weights import describe_file
from effssl.hub.push import prepare
from effssl.training import loop
from effssl.training._fields import names_where
from effssl.training._record import _versions
from effssl.training.config import PretrainConfig

PACKAGED = next((Path(effssl.__file__).parent / "pretrained").glob("*/training.json")).parent


@pytest.fixture
def folder(tmp_path):
    return Path(shutil.copytree(PACKAGED, tmp_path / "m"))


def test_what_effssl_writes_may_be_published(folder):
    check_publishable(folder, folder)
    for other in (Path(effssl.__file__).parents[1] / "model_cards").glob("*/training.json"):
        check_publishable(other.parent, other.parent)


@pytest.mark.parametrize(
    "hardware",
    [
        *("8 x NVIDIA H100 80GB HBM3", "Quadro RTX 6000/8000", "AVX2, 1 threads", "mps, 8 threads"),
        *("NVIDIA GeForce GTX 1080 Ti", "AMD Instinct MI250X / MI250", "Xeon(R) CPU @ 2.20GHz"),
    ],
)
def test_names_of_hardware_may_be_published(folder, hardware):
    put(folder, "training.json", lambda content: content.update(hardware=hardware))
    check_publishable(folder, folder)


def put(folder, name, change):
    content = json.loads((folder / name).read_text())
    change(content)
    (folder / name).write_text(json.dumps(content))


PRIVATE = [
    *("../secret/photos", "~alice/photos", "C:/photos", "C:\\photos", "\\\\server\\share"),
    *("photos (/home/alice)", "a,/home/alice", "a:/home/alice", "file:///home", "./a", "~"),
    *("hf_abcdefghijklmnopqrstuvwxyz", "ghp_abcdefghijklmnopqrstuvwxyz0123", "x /data/y z"),
    *("alice@node17.cluster.local", "https://gitlab.corp/x", "secret/of/mine", "a\nb", "`id`"),
]
PLACES = {
    "command": lambda c, v: c.update(command=f"effssl pretrain --split '{v}'"),
    "hardware": lambda c, v: c.update(hardware=v),
    "versions": lambda c, v: c["versions"].update(torch=v),
    "config": lambda c, v: c["config"].update(split=v),
    "new field of config": lambda c, v: c["config"].update(later=[{"x": v}]),
    "key of config": lambda c, v: c["config"].update({v: 1}),
    "dataset": lambda c, v: c["evaluation"][0].update(dataset=v),
    "protocol": lambda c, v: c["evaluation"][0]["protocols"].update({"k-NN 1": v}),
    "encoder": lambda c, v: c["evaluation"][0]["top1"].update({v: {}}),
    "preset": lambda c, v: c["evaluation"][0]["spectrum"]["features"].update(preset=v),
    "column": lambda c, v: c["history"].update({v: c["history"]["loss"]}),
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("value", PRIVATE)
def test_paths_hosts_and_tokens_are_refused_wherever_they_stand(folder, place, value):
    put(folder, "training.json", lambda content: PLACES[place](content, value))
    with pytest.raises(ValueError, match="training.json: .*take it out") as caught:
        check_publishable(folder, folder)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("value", PRIVATE)
@pytest.mark.parametrize("key", ["tag", "description", "paper_name", "origin_url", "first_conv"])
def test_words_of_a_config_that_may_be_private_are_refused(folder, key, value):
    put(folder, "config.json", lambda content: content["pretrained_cfg"].update({key: value}))
    with pytest.raises(ValueError, match=f"config.json: pretrained_cfg.{key} .*take it out"):
        check_publishable(folder, folder)


@pytest.mark.parametrize(
    "name, change, key",
    [
        ("config.json", lambda c: c.update(notes="mine"), "notes"),
        ("config.json", lambda c: c["effssl"].update(notes="mine"), "effssl.notes"),
        ("training.json", lambda c: c.update(notes="mine"), "notes"),
        ("training.json", lambda c: c["evaluation"][0].update(notes=1), "evaluation.notes"),
    ],
)
def test_other_keys_are_refused(folder, name, change, key):
    put(folder, name, change)
    with pytest.raises(ValueError, match=f"{name}: {key} is nothing that effssl writes"):
        prepare(folder, "org/m")


def test_the_keys_of_a_record_are_those_that_a_run_writes():
    assert PRIVATE_FIELDS == names_where(PretrainConfig, "published", "no")
    assert CONFIG | PRIVATE_FIELDS == PretrainConfig().values().keys()
    assert VERSIONS == _versions().keys()


@pytest.mark.parametrize(
    "change",
    [
        lambda c: c["config"].update(anything="node7.corp.example"),
        lambda c: c["config"].update(output="runs-of-alice"),
        lambda c: c["config"].update(license_link="https://alice:secret@corp.example/x"),
        lambda c: c["versions"].update(host="7.1"),
        lambda c: c["versions"].update(torch="node7.corp.example"),
        lambda c: c["history"].update(secret=c["history"]["loss"]),
        lambda c: c["evaluation"][0]["protocols"].update(license_link="https://a:b@corp.example"),
        lambda c: c.update(hardware="10.1.2.3"),
        lambda c: c.update(hardware="node7.corp.example"),
        *(
            lambda c, key=key, token=token: c.update({key: token})
            for key in ("hardware", "command")
            for token in (
                *(
                    "ghs_abcdefghijklmnopqrst",
                    "ghu_abcdefghijklmnopqrst",
                    "xghr_abcdefghijklmnopq1",
                ),
                *("ahf_abcdefghijklmnopqrst", "1glpat-abcdefghijklmnopqrst", "ask-" + "aB3" * 10),
            )
        ),
        lambda c: c.update(command="effssl pretrain --output runs-of-alice"),
        lambda c: c.update(command="effssl pretrain --secret 1"),
    ],
)
def test_what_a_run_does_not_write_is_refused_in_every_depth(folder, change):
    put(folder, "training.json", change)
    with pytest.raises(ValueError, match="training.json: .*take it out"):
        check_publishable(folder, folder)


@pytest.mark.parametrize("link", ["http://u:hf_secret@h/x", "https://token@corp.example"])
def test_a_link_to_a_license_tells_no_password(folder, link):
    with pytest.raises(ValueError, match="needs a license_link"):
        check_license("other", "a", link)
    put(folder, "config.json", lambda content: content["effssl"].update(license_link=link))
    with pytest.raises(ValueError, match="config.json: effssl.license_link may be private"):
        check_publishable(folder, folder)


def test_a_license_that_is_given_is_checked_like_one_that_is_there(folder, capsys):
    link = "https://corp.example/x?key=hf_abcdefghijklmnopqrstuvwxyz"
    with pytest.raises(SystemExit):
        flags = ["--license", "other", "--license-name", "a", "--license-link", link]
        main(["push", str(folder), "org/m", "--dry-run", *flags])
    assert "effssl.license_link may be private" in capsys.readouterr().err
    assert "hf_" not in (folder / "config.json").read_text()


@pytest.mark.parametrize("file", ["model.safetensors", "linear_probe.safetensors"])
def test_metadata_of_weights_are_refused(folder, file):
    save_file(load_file(folder / file), folder / file, metadata={"by": "alice@node17"})
    told = describe_file(folder / file)
    if file == "model.safetensors":
        put(folder, "config.json", lambda c: c["effssl"]["files"].update({file: told}))
    else:
        put(folder, "training.json", lambda c: c["evaluation"][0].update(probe=told))
    with pytest.raises(ValueError, match=f"{file} has metadata .*alice.*save it without"):
        prepare(folder, "org/m")


@settings(
    max_examples=200,
    deadline=None,
    database=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
@given(
    st.sampled_from(["/", "~/", "~a/", "../", "./", "C:/", "C:\\", "\\\\h\\", "file:", "/h/a"]),
    st.text("ab1 _.-", min_size=1),
    st.sampled_from(["", "x ", "x,", "(", "'", '"', "=", "x=", ":", ";", "[", "\t"]),
)
def test_no_path_passes_behind_anything(tmp_path, start, rest, before):
    copy = tmp_path / "m"
    if not copy.exists():
        shutil.copytree(PACKAGED, copy)
    value = f"{before}{start}{rest.strip() or 'a'}"
    put(copy, "training.json", lambda content: content.update(hardware=value))
    with pytest.raises(ValueError, match="take it out"):
        check_publishable(copy, copy)


def test_the_name_of_private_images_that_move_during_a_run_stays_private(
    tmp_path, image_folder, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(image_folder, tmp_path / "clinic" / "patients")
    saved = []
    save = loop.save_pretrained

    def save_and_move(model, folder, *, training):
        save(model, folder, training=training)
        saved.append(training)
        if len(saved) == 1:
            Path("clinic").rename("moved")

    monkeypatch.setattr(loop, "save_pretrained", save_and_move)
    flags = "--backbone test_resnet --img-size 32 --preset cifar --projector-dim 16 --views 2 "
    flags += "--batch-size 8 --epochs 3 --precision fp32 --cpu --evaluate-every 0 --output run"
    main(["pretrain", *flags.split(), "--dataset", "clinic/patients"])
    assert len(saved) == 3 and not Path("clinic").exists()
    for training in (*saved, read_training("run/model")):
        assert "clinic" not in json.dumps(training) and training["config"]["dataset"] is None
    assert torch.isfinite(torch.tensor(saved[-1]["history"]["loss"])).all()
