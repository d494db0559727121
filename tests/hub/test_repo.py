"""Publishing and loading over HTTP, from a server in this process to clients in others."""

import contextlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
from clients import IMAGES, attempt, client, features_of, push_all
from huggingface_hub import HfApi
from safetensors.torch import load_file, save_file
from server import HubServer

import effssl
from effssl.cli import main
from effssl.hub._card import compose_card, write_card
from effssl.hub._weights import describe_file


def push_by_command(folder, repo_id):
    with contextlib.redirect_stdout(io.StringIO()) as shown:
        main(["push", str(folder), repo_id])
    return shown.getvalue()


def test_a_fresh_process_with_an_empty_cache_gets_the_same_features(tmp_path, hub, old_and_new):
    _, new, expected = old_and_new
    shutil.copytree(new, tmp_path / "run" / "model")

    # as a user does it, by the command and the lines that it prints
    shown = client(tmp_path, hub, push_by_command, tmp_path / "run", "org/fresh")
    assert shown.startswith(f"{hub.url}/org/fresh/commit/")
    code = shown.partition("\n\n")[2] + (
        "import sys\n"
        "from safetensors.torch import load_file, save_file\n"
        "features = model(load_file(sys.argv[1])['images'])\n"
        "save_file({'features': features}, sys.argv[2])"
    )
    save_file({"images": IMAGES}, tmp_path / "in")
    result = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "in", tmp_path / "out"],
        env=os.environ | hub.environment(tmp_path / "pulling", token=None),
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    assert torch.allclose(load_file(tmp_path / "out")["features"], expected, atol=1e-6)


def push_and_look(folder, repo_id):
    """What a user finds after each of several pushes."""

    def info(revision="main"):
        return HfApi().model_info(repo_id, revision=revision)

    found = {"first": effssl.push_to_hub(folder, repo_id, private=True, license="mit")}
    found["head"] = info().sha
    found["again"] = effssl.push_to_hub(folder, repo_id)
    found["head again"] = info().sha
    found["branch"] = effssl.push_to_hub(folder, repo_id, revision="epoch-100")
    found["branch head"] = info("epoch-100").sha
    os.remove(folder / "linear_probe.safetensors")
    found["request"] = effssl.push_to_hub(folder, repo_id, create_pr=True, commit_message="Less")
    found["head after request"] = info().sha
    found["less"] = effssl.push_to_hub(folder, repo_id, revision="epoch-100")
    found["files"] = sorted(file.rfilename for file in info("epoch-100").siblings)
    old = effssl.from_pretrained(repo_id, revision=found["head"])(IMAGES)
    by_prefix = effssl.from_pretrained(f"hf-hub:{repo_id}@epoch-100")(IMAGES)
    found["same features"] = torch.equal(old, by_prefix)
    return found


def test_pushing_again_changes_nothing_and_branches_and_requests_leave_main(
    tmp_path, hub, old_and_new
):
    folder = shutil.copytree(old_and_new[1], tmp_path / "model")
    probe = {"weight": torch.zeros(10, 96), "bias": torch.zeros(10)}
    save_file(probe, folder / "linear_probe.safetensors")
    for leftover in ("pytorch_model.bin", ".DS_Store", "notes.txt"):
        (folder / leftover).write_text("not to be published")
    found = client(tmp_path, hub, push_and_look, folder, "org/again")
    address = f"{hub.url}/org/again"
    assert found["first"] == f"{address}/commit/{found['head']}"
    assert found["again"] == address and found["head again"] == found["head"]
    assert found["branch"] == address and found["branch head"] == found["head"]
    assert found["request"] == f"{address}/discussions/1"
    assert found["head after request"] == found["head"]
    assert found["less"].startswith(f"{address}/commit/")
    assert found["files"] == [
        *(".gitattributes", "README.md", "config.json"),
        *("model.safetensors", "projector.safetensors"),
    ]
    assert found["same features"]
    repo = hub.repos["org/again"]
    assert repo.private and "linear_probe.safetensors" in repo.at("main").files
    assert json.loads(repo.at("main").files["config.json"])["pretrained_cfg"]["license"] == "mit"
    messages = [commit.message for commit in repo.commits]
    assert "Less" in messages and "Upload test_resnet with effssl" in messages


def push_model(repo_id):
    model = effssl.create_model("test_resnet", projector_dim=8, img_size=32)
    effssl.push_to_hub(model, repo_id)
    return torch.equal(effssl.from_pretrained(repo_id)(IMAGES), model.eval()(IMAGES))


def test_a_model_is_pushed_without_a_folder(tmp_path, hub):
    assert client(tmp_path, hub, push_model, "org/model")
    assert b"pretrained without labels" not in hub.repos["org/model"].at("main").files["README.md"]


def test_a_repository_of_timms_is_a_backbone_without_projector(tmp_path, hub):
    model = timm.create_model("test_resnet", num_classes=7).eval()
    timm.models.save_for_hf(model, tmp_path / "timm", safe_serialization=True)
    hub.add_repo("timm/test_resnet.any", tmp_path / "timm")
    found = client(tmp_path, hub, features_of, "hf-hub:timm/test_resnet.any", token=None)
    with torch.no_grad():
        expected = model.forward_head(model.forward_features(IMAGES), pre_logits=True)
    assert torch.allclose(found, expected, atol=1e-6)
    (line,) = client(tmp_path, hub, push_all, [(tmp_path / "timm", "org/x")])
    assert re.match("ValueError: .* is timm's own: push it with timm.models.push_to_hf_hub", line)


def run_lines(code):
    names = {}
    exec(code, names)
    widths = {name: names[name].eval()(IMAGES).shape[1] for name in ("model", "classifier")}
    return widths, type(names["same"]).__name__


def test_the_lines_of_the_docs_load_what_was_published(tmp_path, hub, old_and_new):
    docs = (Path(__file__).parents[2] / "docs" / "hub.md").read_text()
    (code,) = [c for c in re.findall(r"```python\n(.*?)```", docs, re.S) if "AutoModel" in c]
    (repo_id,) = set(re.findall(r"org/[\w-]+", code))
    hub.add_repo(repo_id, old_and_new[1])
    found = client(tmp_path, hub, run_lines, code)
    assert found == ({"model": 96, "classifier": 10}, "TimmWrapperModel")


def edit(hub, repo_id, change):
    """Write in a card as a user does on the Hub's own pages."""
    repo = hub.repos[repo_id]
    files = dict(repo.at("main").files)
    files["README.md"] = change(files["README.md"].decode()).encode()
    repo.commit("main", files, "written by hand")


def test_what_is_written_around_the_generated_block_is_kept(tmp_path, hub, old_and_new):
    folder = shutil.copytree(old_and_new[0], tmp_path / "model")
    newer = shutil.copytree(old_and_new[1], tmp_path / "newer")
    client(tmp_path, hub, push_all, [(folder, "org/edited")])
    edit(
        *(hub, "org/edited"),
        lambda card: (
            card.replace("<!-- effssl", "Read me first.\n\n<!-- effssl", 1)
            .replace("## Facts", "## Lies")
            .replace("tags:\n", "language: fr\ntags:\n- mine\n- 2024\n")
            + "\nWritten below.\n"
        ),
    )
    (result,) = client(tmp_path, hub, push_all, [(newer, "org/edited")])
    assert result.startswith(hub.url), result
    card = hub.repos["org/edited"].at("main").files["README.md"].decode()
    assert card.index("Read me first.") < card.index("## Facts") < card.index("Written below.")
    assert "## Lies" not in card and "language: fr" in card and "- mine" in card
    assert card == (newer / "README.md").read_text()
    assert describe_file(newer / "model.safetensors")["sha256"] in card

    # here, after the two were the same
    (newer / "README.md").write_text(card.replace("Written below.", "Written again."))
    client(tmp_path, hub, push_all, [(newer, "org/edited")])
    card = hub.repos["org/edited"].at("main").files["README.md"].decode()
    assert "Written again." in card and "Written below." not in card
    assert "Read me first." in card and "language: fr" in card

    # in metadata alone, there
    edit(hub, "org/edited", lambda card: card.replace("language: fr", "language: en"))
    client(tmp_path, hub, push_all, [(newer, "org/edited")])
    card = hub.repos["org/edited"].at("main").files["README.md"].decode()
    assert "language: en" in card

    # both were written in since
    edit(hub, "org/edited", lambda card: card + "\nAnd again.\n")
    (newer / "README.md").write_text(card + "\nNo, this.\n")
    (result,) = client(tmp_path, hub, push_all, [(newer, "org/edited")])
    assert result.startswith("ValueError") and "were both written in by hand" in result
    (newer / "README.md").unlink()
    client(tmp_path, hub, push_all, [(newer, "org/edited")])
    card = hub.repos["org/edited"].at("main").files["README.md"].decode()
    assert "And again." in card and "No, this." not in card


def try_to_load(names, cache):
    return [attempt(effssl.from_pretrained, name, cache_dir=cache) for name in names]


def test_what_is_not_there_or_not_allowed_is_one_line_with_the_way_out(tmp_path, hub, old_and_new):
    new = shutil.copytree(old_and_new[1], tmp_path / "new")
    hub.add_repo("org/open", new)
    hub.add_repo("org/hidden", new, private=True)
    hub.add_repo("else/gated", new, gated=True)
    (tmp_path / "pickled").mkdir()
    shutil.copy(new / "config.json", tmp_path / "pickled")
    (tmp_path / "pickled" / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    hub.add_repo("org/pickled", tmp_path / "pickled")
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "README.md").write_text("a model of words")
    hub.add_repo("org/text", tmp_path / "text")
    expected = {
        "org/missing": "FileNotFoundError: no repository 'org/missing' at http.*hf auth login",
        "org/hidden": "FileNotFoundError: no repository 'org/hidden' at .*private.*hf auth login",
        "else/gated": "PermissionError: else/gated is gated: accept its conditions at http",
        "hf-hub:org/open@v9": "FileNotFoundError: org/open has no revision 'v9': give a branch, ta",
        "org/pickled": "ValueError: org/pickled has no model.safetensors.* pickled weights are not",
        "org/text": "FileNotFoundError: org/text is no model of effssl or timm",
        "resnet50": "FileNotFoundError: no model folder 'resnet50'; a repository.*owner/name",
        "org/a--b": "ValueError: 'org/a--b' cannot be the id of a repository",
    }
    cache = str(tmp_path / "cache")
    found = client(tmp_path, hub, try_to_load, list(expected), cache, token=None)
    for line, pattern in zip(found, expected.values(), strict=True):
        assert re.match(pattern, line), line
    (line,) = client(tmp_path, hub, try_to_load, ["org/open"], cache, token="hf_wrong")
    assert re.match(
        "PermissionError: http.* wants a token that it knows: log in with `hf auth", line
    )
    copies = [shutil.copytree(new, tmp_path / name) for name in ("copy", "another")]
    pushes = {
        (new, "else/gated"): "PermissionError: the token does not allow this in else/gated",
        # each its own folder, since they are pushed at the same time
        (copies[0], "else/new"): "PermissionError: the token does not allow this in else/new",
        (copies[1], "no-owner"): "ValueError: 'no-owner' has no owner: give owner/name",
        (tmp_path / "text", "org/x"): "FileNotFoundError: no config.json in",
        (tmp_path / "nothing", "org/x"): "FileNotFoundError: no model folder",
    }
    found = client(tmp_path, hub, push_all, list(pushes))
    for line, pattern in zip(found, pushes.values(), strict=True):
        assert re.match(pattern, line), line


PACKAGED = ["test_convnext2-spectral-p256-aug4-fashion-mnist-sample"]  # is in the list of all
LISTS = [("*", None), ("*-bt-*", None), ("org/*", "org"), ("else/*", None), ("*", "nobody")]


def load_and_list(names):
    found = [attempt(features_of, name) for name in names]
    return found, [effssl.list_pretrained(pattern, author=author) for pattern, author in LISTS]


@pytest.mark.parametrize(
    "offline",
    [
        pytest.param(True, id="told so"),
        # huggingface_hub waits long for a server
        pytest.param(False, id="without an answer", marks=pytest.mark.slow),
    ],
)
def test_without_a_connection_the_cache_is_loaded_and_listed(tmp_path, old_and_new, offline):
    _, new, expected = old_and_new
    names = ["org/a-bt-p8-aug2", "org/b-vicreg-p8-aug2", "else/c-bt-p8-aug2"]
    with HubServer(tmp_path / "large") as hub:
        carded = shutil.copytree(new, tmp_path / "carded")
        write_card(carded, compose_card(carded, "org/x"))
        for name in names:
            hub.add_repo(name, carded)
        hub.add_repo("org/untagged", new)
        hub.add_repo("org/hidden-bt-p8-aug2", carded, private=True)
        features, lists = client(tmp_path, hub, load_and_list, names[:2], token=None)
        assert all(torch.allclose(f, expected, atol=1e-6) for f in features)
        everything = [names[2], *names[:2], *PACKAGED]
        assert lists == [everything, [names[2], names[0]], names[:2], [names[2]], []]
        mine = client(tmp_path, hub, load_and_list, [])[1]
        assert mine[2] == [*names[:2], "org/hidden-bt-p8-aug2"]
    features, lists = client(tmp_path, hub, load_and_list, names, offline=offline)
    assert all(torch.allclose(f, expected, atol=1e-6) for f in features[:2])
    assert re.match(
        "FileNotFoundError: else/c-bt-p8-aug2 is not in the cache and .*: load it once with a "
        "connection, or give a folder that exists",
        features[2],
    )
    assert lists == [[*names[:2], *PACKAGED], names[:1], names[:2], [], []]
    if offline:
        (line,) = client(tmp_path, hub, push_all, [(carded, "org/x")], offline=True)
        assert re.match("ConnectionError: HF_HUB_OFFLINE is set: unset it to reach http", line)
