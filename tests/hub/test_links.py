"""A push sends files of the model only, each of them what it claims to be."""

import json
import os
import shutil
import socket
from pathlib import Path

import pytest
import torch
from clients import client, push_all, save_model
from huggingface_hub import snapshot_download
from safetensors.torch import save_file

import effssl
from effssl.hub._folder import add_evaluation
from effssl.hub.push import files_to_send, prepare, prepared
from effssl.records import EvaluationRecord

NAMES = (
    "config.json",
    "model.safetensors",
    "projector.safetensors",
    "training.json",
    "linear_probe.safetensors",
    "README.md",
)
PROBE = {"weight": torch.zeros(10, 96), "bias": torch.zeros(10)}


@pytest.fixture
def folder(tmp_path):
    save_model(tmp_path / "m", 0)
    (tmp_path / "m" / "training.json").write_text("{}")
    save_file(PROBE, tmp_path / "m" / "linear_probe.safetensors")
    (tmp_path / "m" / "README.md").write_text("by hand")
    return tmp_path / "m"


def sent(folder):
    """The content of each file that a push would send."""
    with prepared(folder, "org/m") as copy:
        files = files_to_send(copy).items()
        return {n: f if isinstance(f, bytes) else f.read_bytes() for n, f in files}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("by", ["absolute", "relative", "chain", "folder"])
def test_a_link_out_of_the_folder_is_refused_whatever_is_there(folder, tmp_path, name, by):
    outside = tmp_path / "outside"
    outside.mkdir()
    target = shutil.move(folder / name, outside / name)  # a valid file, even
    if by == "chain":
        (outside / "link").symlink_to(target)
    if by == "folder":
        (folder / "inner").symlink_to(outside)
    places = {
        "absolute": target,
        "relative": f"../outside/{name}",
        "chain": outside / "link",
        "folder": f"inner/{name}",
    }
    (folder / name).symlink_to(places[by])
    with pytest.raises(ValueError, match=f"m/{name} is a link to something outside of the folder"):
        prepare(folder, "org/m")
    assert os.listdir(outside)  # and nothing was written there
    assert not (folder / "loss.png").exists()


def test_links_within_the_folder_are_followed(folder):
    for name in NAMES:
        (folder / "files").mkdir(exist_ok=True)
        (folder / name).rename(folder / "files" / name)
        (folder / name).symlink_to(f"files/{name}")
    assert set(sent(folder)) == set(NAMES)


def load_push_again(repo_id, other):
    effssl.from_pretrained(repo_id)
    return push_all([(snapshot_download(repo_id), other)])


def test_a_model_in_the_cache_of_the_hub_can_be_pushed_on(tmp_path, hub, folder):
    client(tmp_path, hub, push_all, [(folder, "org/first")])
    (result,) = client(tmp_path, hub, load_push_again, "org/first", "org/second")
    assert result.startswith(hub.url), result
    files = [hub.repos[f"org/{name}"].at("main").files for name in ("first", "second")]
    assert files[0]["model.safetensors"] == files[1]["model.safetensors"]


def test_a_link_out_of_the_cache_is_refused(tmp_path, folder):
    repo = tmp_path / "hub" / "models--org--m"
    (repo / "snapshots").mkdir(parents=True)
    (repo / "blobs").mkdir()
    (tmp_path / "token").write_text("hf_secret")
    inside = shutil.move(folder, repo / "snapshots" / "0123")
    (repo / "blobs" / "abc").write_text("a card")
    (Path(inside) / "README.md").unlink()
    (Path(inside) / "README.md").symlink_to("../../blobs/abc")
    prepare(Path(inside), "org/m")
    (repo / "blobs" / "def").symlink_to(tmp_path / "token")
    (Path(inside) / "README.md").unlink()
    (Path(inside) / "README.md").symlink_to("../../blobs/def")
    with pytest.raises(ValueError, match="README.md is a link to something outside"):
        prepare(Path(inside), "org/m")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", ["pipe", "socket", "device", "loop", "dangling", "folder"])
def test_what_is_no_regular_file_is_one_line(folder, name, kind, monkeypatch):
    monkeypatch.chdir(folder)  # for the short path of a socket
    (folder / name).unlink()
    if kind == "pipe":
        os.mkfifo(folder / name)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(name)
    elif kind == "folder":
        (folder / name).mkdir()
    else:
        to = {"device": "/dev/zero", "loop": name, "dangling": "nothing"}[kind]
        (folder / name).symlink_to(to)
    with pytest.raises((ValueError, OSError)) as caught:
        prepare(folder, "org/m")
    assert name in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "tensors, message",
    [
        ({"weight": torch.zeros(10, 95), "bias": torch.zeros(10)}, "weight is 10x95, not 10x96"),
        ({"weight": torch.zeros(10, 96), "bias": torch.zeros(9)}, "bias is 9, not 10"),
        ({"weight": torch.zeros(96), "bias": torch.zeros(1)}, "weight is 96, not 1x96"),
        ({"weight": torch.zeros(10, 96)}, "lacks bias"),
        (PROBE | {"more": torch.zeros(1)}, "has unknown 'more'"),
        (PROBE | {"bias": torch.full((10,), torch.nan)}, "bias has numbers from nan"),
        (PROBE | {"bias": torch.zeros(10).long()}, "bias is of I64"),
    ],
)
def test_a_probe_that_is_no_classifier_of_the_features_is_refused(folder, tensors, message):
    save_file(tensors, folder / "linear_probe.safetensors")
    with pytest.raises(ValueError, match=f"linear_probe.safetensors.* {message}"):
        prepare(folder, "org/m")


def test_a_probe_that_is_not_that_of_its_evaluation_is_refused(folder):
    about = {"dataset": None, "train_images": 9, "test_split": "test", "test_images": 9}
    about |= {"protocols": {}, "seeds": {}, "of": "seeds", "top1": {}, "spectrum": {}}
    add_evaluation(folder, EvaluationRecord.from_json(about), PROBE)
    prepare(folder, "org/m")
    save_file(PROBE | {"bias": torch.ones(10)}, folder / "linear_probe.safetensors")
    with pytest.raises(ValueError, match="is not the one that training.json names"):
        prepare(folder, "org/m")
    (folder / "linear_probe.safetensors").unlink()
    with pytest.raises(ValueError, match="names linear_probe.safetensors, which is missing"):
        prepare(folder, "org/m")


@pytest.mark.parametrize("name", ["linear_probe.safetensors", "model.safetensors"])
@pytest.mark.parametrize("content", [b"", b"hf_secret", b"\x00" * 100, b"\xff" * 100])
def test_a_file_that_holds_no_tensors_is_refused(folder, name, content):
    (folder / name).write_bytes(content)
    with pytest.raises(ValueError, match=f"{name} is truncated or not a safetensors file"):
        prepare(folder, "org/m")


def test_pictures_are_drawn_and_never_those_of_the_folder(folder, tmp_path):
    (tmp_path / "token").write_text("hf_secret")
    (folder / "loss.png").symlink_to(tmp_path / "token")
    (folder / "spectrum.png").write_text("hf_secret")
    assert set(sent(folder)) == set(NAMES)
    history = {"history": {"epoch": [1, 2], "loss": [3.0, 2.0]}}
    (folder / "training.json").write_text(json.dumps(history))
    (folder / "loss.png").symlink_to(tmp_path / "token")
    picture = sent(folder)["loss.png"]
    assert picture.startswith(b"\x89PNG") and len(picture) < 1e6
    assert (tmp_path / "token").read_text() == "hf_secret"
    assert not (folder / "loss.png").is_symlink()


@pytest.mark.parametrize("name", ["README.md", "config.json", "training.json"])
def test_a_huge_file_is_refused_before_it_is_read(folder, name):
    with open(folder / name, "r+b") as file:
        file.truncate(10**12)
    with pytest.raises(ValueError, match=f"m/{name} has more than the .* bytes that it may have"):
        prepare(folder, "org/m")


def test_a_card_edited_during_a_push_is_left(folder, caplog):
    with prepared(folder, "org/m"):
        made = (folder / "README.md").read_text()
    assert "by hand" in made

    from effssl.hub.push import _return_card

    with prepared(folder, "org/m") as copy:
        (folder / "README.md").write_text(made + "\nWritten during the push.\n")
        _return_card(copy, folder, made.encode())
    assert "Written during the push." in (folder / "README.md").read_text()
    assert "was changed during the push and is left" in caplog.text


def test_errors_name_the_folder_and_not_the_copy(folder):
    (folder / "training.json").write_text('{"evaluation": 3}')
    with pytest.raises(ValueError, match="evaluation must be a list") as caught:
        prepare(folder, "org/m")
    assert str(folder / "training.json") in str(caught.value)
    assert "effssl-push" not in str(caught.value)
