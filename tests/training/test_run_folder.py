"""A run touches what it wrote: nothing behind a link, and nothing that has only a similar name."""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from runs import metrics, steps_of_checkpoints, tiny

import effssl
from effssl import PretrainConfig
from effssl.cli import main
from effssl.training._checkpoint import checkpoints, load_checkpoint, save_checkpoint
from effssl.training._run_folder import check_run_folder

SHORT = {"epochs": 1, "evaluate_every": 0, "log_every": 1}
NEAR = (
    *("step_best", "step_00000002_backup", "step_2", "step_000000002", "step_0000000２"),
    *("Step_00000002", "step_00000002.old", "step_00000001.partial.mine", ".git", "wandb"),
)


def pretrain(tmp_path, **changes):
    return effssl.pretrain(tiny(tmp_path, **SHORT | changes))


def weights(run):
    return (run / "model" / "model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    pretrain(folder)
    return folder / "run"


@pytest.fixture
def run(trained, tmp_path):
    return Path(shutil.copytree(trained, tmp_path / "run"))


def content(folder):
    """Every path below a folder, with the bytes of files and the targets of links."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink():
            found[name] = os.readlink(path)
        else:
            found[name] = path.read_bytes() if path.is_file() else None
    return found


# Names


def test_only_exact_names_of_real_folders_are_checkpoints(tmp_path):
    inside = tmp_path / "checkpoints"
    for name in NEAR:
        (inside / name).mkdir(parents=True)
        torch.save({"step": 2, "mine": True}, inside / name / "state.pt")
    (inside / "step_00000007").write_text("a file")
    (inside / "step_00000008").symlink_to(inside / "step_best")
    (inside / "notes.txt").write_text("mine")
    before = content(inside)
    assert checkpoints(tmp_path) == [] and load_checkpoint(tmp_path) is None
    for step in range(1, 6):
        save_checkpoint(tmp_path, step, {"model": {}}, keep=1)
    assert [folder.name for folder in checkpoints(tmp_path)] == ["step_00000005"]
    assert load_checkpoint(tmp_path) == {"step": 5, "model": {}}
    after = content(inside)
    assert {name: after.pop(name) for name in before} == before
    assert after.keys() == {"step_00000005", "step_00000005/state.pt"}


def test_what_killed_runs_left_of_checkpoints_is_deleted(tmp_path):
    for name in (".step_00000003.0123abcd.partial", "step_00000002.partial"):
        (tmp_path / "checkpoints" / name).mkdir(parents=True)
    save_checkpoint(tmp_path, 9, {}, keep=2)
    assert os.listdir(tmp_path / "checkpoints") == ["step_00000009"]


def test_a_checkpoint_that_cannot_be_deleted_is_an_error_that_names_it(tmp_path, monkeypatch):
    old, rmtree = save_checkpoint(tmp_path, 1, {}, keep=1), shutil.rmtree

    def refuse(folder, *args, **options):
        if folder == old:
            raise PermissionError(13, "Permission denied", "state.pt")
        rmtree(folder, *args, **options)

    monkeypatch.setattr(shutil, "rmtree", refuse)
    with pytest.raises(OSError, match=f"cannot delete {old}: .*Permission denied: 'state.pt'"):
        save_checkpoint(tmp_path, 2, {}, keep=1)


def test_a_run_goes_on_from_its_own_checkpoint_beside_others(run):
    for name in NEAR:
        shutil.copytree(run / "checkpoints" / "step_00000005", run / "checkpoints" / name)
        state = run / "checkpoints" / name / "state.pt"
        torch.save(torch.load(state, weights_only=True) | {"step": 99}, state)
    pretrain(run.parent, resume=True, max_steps=7, epochs=2)
    assert metrics(run)[-1]["step"] == 7
    for name in NEAR:
        shutil.rmtree(run / "checkpoints" / name)
    assert steps_of_checkpoints(run) == [5, 7]


# Overwriting


def test_overwriting_does_not_resume_whatever_stays(run, tmp_path, monkeypatch):
    """As where the checkpoints of the earlier run cannot be deleted and that is not noticed."""
    earlier = weights(run)
    monkeypatch.setattr("effssl.training._run_folder.delete_checkpoints", lambda folder: None)
    pretrain(tmp_path, overwrite=True, seed=7)
    pretrain(tmp_path / "other", seed=7)
    assert weights(run) == weights(tmp_path / "other" / "run") != earlier
    assert [line["step"] for line in metrics(run)] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("name", ["checkpoints", "model"])
def test_overwriting_raises_what_a_deletion_raises(run, tmp_path, monkeypatch, name):
    rmtree = shutil.rmtree

    def refuse(folder, *args, **options):
        if name in Path(folder).parts:
            if options.get("ignore_errors") or args:
                return
            raise PermissionError(13, "Permission denied", str(folder))
        rmtree(folder, *args, **options)

    monkeypatch.setattr(shutil, "rmtree", refuse)
    with pytest.raises(OSError, match=f"Permission denied: '{run / name}"):
        pretrain(tmp_path, overwrite=True, seed=7)
    assert json.loads((run / "config.json").read_text())["seed"] == 0


def test_overwriting_leaves_what_others_put_beside_the_checkpoints(run, tmp_path):
    (run / "checkpoints" / "step_best").mkdir()
    (run / "checkpoints" / "step_best" / "mine").write_text("1")
    (run / "notes.txt").write_text("2")
    pretrain(tmp_path, overwrite=True, seed=7, max_steps=1)
    assert sorted(os.listdir(run / "checkpoints")) == ["step_00000001", "step_best"]
    assert (run / "checkpoints/step_best/mine").read_text() == "1"
    assert (run / "notes.txt").read_text() == "2"


@pytest.mark.parametrize("name", [".git", "notes.txt", "model.safetensors.backup"])
def test_overwriting_refuses_to_delete_what_others_put_into_the_model_folder(run, tmp_path, name):
    (run / "model" / name).mkdir()
    before = content(tmp_path)
    with pytest.raises(FileExistsError, match=f"holds {name}, which no run has written") as info:
        pretrain(tmp_path, overwrite=True)
    assert len(str(info.value).splitlines()) == 1 and content(tmp_path) == before


def test_a_new_model_folder_keeps_what_others_put_into_the_earlier_one(run, tmp_path):
    shutil.copytree(run / "checkpoints", run / "model" / ".git")
    (run / "model" / "notes.txt").write_text("mine")
    (run / "model" / "linear_probe.safetensors").write_text("of the earlier weights")
    kept, earlier = content(run / "model" / ".git"), weights(run)
    pretrain(tmp_path, resume=True, epochs=3)
    assert weights(run) != earlier and content(run / "model" / ".git") == kept
    assert (run / "model" / "notes.txt").read_text() == "mine"
    assert not (run / "model" / "linear_probe.safetensors").exists()


# Links


@pytest.mark.parametrize("flags", [{"overwrite": True}, {"resume": True}, {}], ids=str)
@pytest.mark.parametrize("target", ["elsewhere", "nowhere"])
@pytest.mark.parametrize("name", ["checkpoints", "model"])
def test_a_linked_folder_in_a_run_is_refused_before_anything_changes(
    run, tmp_path, name, target, flags
):
    (run / name).rename(tmp_path / "elsewhere")
    (run / name).symlink_to(tmp_path / target)
    before = content(tmp_path)
    with pytest.raises(FileExistsError, match=f"{run / name} is a link, and a run writes to real"):
        pretrain(tmp_path, seed=7, **flags)
    assert content(tmp_path) == before


def test_a_file_in_place_of_the_checkpoints_is_refused_before_anything_changes(run, tmp_path):
    shutil.rmtree(run / "checkpoints")
    (run / "checkpoints").write_text("mine")
    before = content(tmp_path)
    with pytest.raises(FileExistsError, match="checkpoints is not a folder: move it"):
        pretrain(tmp_path, resume=True)
    assert content(tmp_path) == before


def test_a_model_folder_that_could_not_be_renewed_is_refused_before_anything_changes(run, tmp_path):
    (run / "model" / "model.safetensors").unlink()
    before = content(tmp_path)
    with pytest.raises(FileExistsError, match="model is not a whole model folder: move it"):
        pretrain(tmp_path, resume=True, epochs=2)
    assert content(tmp_path) == before
    shutil.rmtree(run / "model")
    pretrain(tmp_path, resume=True)  # as a kill may leave it
    assert effssl.from_pretrained(run / "model")


def test_a_run_folder_that_is_a_link_to_a_bigger_disk_works(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "run").symlink_to(tmp_path / "disk")
    pretrain(tmp_path, max_steps=2)
    pretrain(tmp_path, max_steps=3, resume=True)
    pretrain(tmp_path, max_steps=2, overwrite=True)
    assert (tmp_path / "run").is_symlink() and steps_of_checkpoints(tmp_path / "disk") == [2]


# Output


@pytest.mark.parametrize("output", ["", " ", "\t", "a\0b"])
def test_an_output_that_names_no_folder_is_refused(output):
    with pytest.raises(ValueError, match="output must be the path of a folder; got "):
        PretrainConfig(output=output)


def test_an_empty_output_is_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        main(["pretrain", "--output", ""])
    assert ended.value.code == 2 and os.listdir(tmp_path) == []
    (line,) = capsys.readouterr().err.splitlines()
    assert line == "effssl: error: --output must be the path of a folder; got ''"


def test_a_tilde_is_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    folder = pretrain(tmp_path, output="~/runs/x", max_steps=1)
    assert folder == tmp_path / "home" / "runs" / "x" / "model"
    assert os.listdir(tmp_path) == ["home"]


def test_the_home_of_a_user_who_is_not_there_is_refused():
    with pytest.raises(ValueError, match="output '~nobody-here/x' is in no folder"):
        PretrainConfig(output="~nobody-here/x")


@pytest.mark.parametrize("output", ["taken", "taken/x", "taken/x/y", "lost", "lost/x"])
def test_a_file_in_the_way_is_named_before_images_are_read(tmp_path, monkeypatch, output):
    (tmp_path / "taken").write_text("mine")
    (tmp_path / "lost").symlink_to("nowhere")
    monkeypatch.setattr("effssl.training._build.load_source", None)
    place = tmp_path / output.partition("/")[0]
    with pytest.raises(FileExistsError, match=f"{place} is a (file|link to nothing): choose") as e:
        pretrain(tmp_path, output=str(tmp_path / output))
    assert str(tmp_path / output) in str(e.value)
    assert sorted(os.listdir(tmp_path)) == ["lost", "taken"]


def test_a_run_that_is_refused_leaves_no_folder(tmp_path):
    with pytest.raises(ValueError, match="unknown backbone"):
        pretrain(tmp_path, output=str(tmp_path / "a" / "b"), backbone="resnet81")
    assert os.listdir(tmp_path) == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "closed").mkdir(mode=0o500)
    with pytest.raises(OSError, match=str(tmp_path / "closed")):
        pretrain(tmp_path, output=str(tmp_path / "closed" / "run"))


def test_checking_a_folder_changes_nothing(run, tmp_path):
    before = content(tmp_path)
    check_run_folder(tiny(tmp_path, **SHORT, resume=True))
    assert content(tmp_path) == before
