"""A run renews its model folder while others load and push it: never a mix, never a false alarm."""

import json
import time
from pathlib import Path

import pytest
import torch
from clients import save_model
from forked import Forked
from safetensors.torch import load_file

import effssl
from effssl.hub._folder import add_evaluation, read_training
from effssl.hub._model_config import read_config
from effssl.hub._renewal import read_whole
from effssl.hub._weights import describe_file
from effssl.hub.push import files_to_send, prepared
from effssl.records import EvaluationRecord

SEEDS = (0, 1)


def renew(folder, stop, pause):
    """Save two models in turn until told to stop; return how often."""
    models = [save_model(Path(stop).with_name(f"seed-{seed}"), seed) for seed in SEEDS]
    count = 0
    while not Path(stop).exists():
        effssl.save_pretrained(models[count % 2], folder, training={"step": count % 2})
        count += 1
        time.sleep(pause)
    return torch.tensor(count)


@pytest.fixture
def renewed(tmp_path):
    """A folder that another process renews, a function that ends it, and both states."""
    folder, stop = tmp_path / "run" / "model", tmp_path / "stop"
    writer = Forked(tmp_path / "writer.log", renew, str(folder), str(stop), 0.002)
    while not folder.exists():
        assert writer.alive(), writer.log()
        time.sleep(0.01)

    def end():
        stop.touch()
        return int(writer.result())

    yield folder, end, [tmp_path / f"seed-{seed}" for seed in SEEDS]
    stop.touch()
    writer.wait()


def sums(folder):
    names = ("model.safetensors", "projector.safetensors")
    return {name: describe_file(folder / name) for name in names}


@pytest.mark.parametrize("loads", [60, pytest.param(1000, marks=pytest.mark.slow)])
def test_a_load_gives_one_of_the_models_whole(renewed, loads):
    folder, end, states = renewed
    whole = [load_file(state / "model.safetensors") for state in states]
    heads = [load_file(state / "projector.safetensors") for state in states]
    found = []
    for _ in range(loads):
        model = effssl.from_pretrained(folder)
        backbone, projector = model.backbone.state_dict(), model.projector.state_dict()
        of = [
            seed
            for seed in SEEDS
            if all(torch.equal(backbone[name], whole[seed][name]) for name in backbone)
            and all(torch.equal(projector[name], heads[seed][name]) for name in projector)
        ]
        assert len(of) == 1
        found += of
    assert set(found) == set(SEEDS) and end() > loads / 4


@pytest.mark.parametrize("pushes", [8, pytest.param(100, marks=pytest.mark.slow)])
def test_what_a_push_sends_is_one_model(renewed, pushes):
    folder, end, states = renewed
    expected = [sums(state) for state in states]
    found = []
    for _ in range(pushes):
        with prepared(folder, "org/m") as copy:
            time.sleep(0.05)  # in which the folder is renewed
            files = files_to_send(copy)
            said = json.loads(files["config.json"].read_text())["effssl"]["files"]
            step = json.loads(files["training.json"].read_text())["step"]
            assert sums(copy) == said == expected[step]
            for file in said.values():
                assert file["sha256"] in files["README.md"].decode()
        found.append(step)
    assert end() > pushes
    assert effssl.from_pretrained(folder)


def test_a_file_that_is_damaged_is_told_at_once(tmp_path):
    save_model(tmp_path / "m", 0)
    calls = []

    def read():
        calls.append(None)
        raise ValueError("damaged")

    with pytest.raises(ValueError, match="damaged"):
        read_whole(tmp_path / "m", read)
    assert len(calls) == 1


def test_a_folder_that_never_rests_is_one_line(tmp_path):
    save_model(tmp_path / "m", 0)

    def read():
        (tmp_path / "m" / "new").write_text("{}")
        (tmp_path / "m" / "new").replace(tmp_path / "m" / "config.json")
        raise ValueError("a mix")

    with pytest.raises(ValueError, match="m is renewed all the time; at last: a mix"):
        read_whole(tmp_path / "m", read)


def test_the_bytes_that_are_hashed_are_those_that_are_loaded(tmp_path, monkeypatch):
    """Whoever changes a file in place after its header was read is found out."""
    from effssl.hub import _folder

    save_model(tmp_path / "m", 0)
    path = tmp_path / "m" / "model.safetensors"
    check = _folder.check_weights

    def change(file, *args, **options):
        check(file, *args, **options)
        if file.path == path:
            content = bytearray(path.read_bytes())
            content[-1] ^= 1
            path.write_bytes(content)

    monkeypatch.setattr(_folder, "check_weights", change)
    with pytest.raises(ValueError, match="model.safetensors is damaged, or was changed"):
        effssl.from_pretrained(tmp_path / "m")


def test_numbers_of_earlier_weights_are_not_noted_beside_later_ones(tmp_path):
    save_model(tmp_path / "m", 0)
    measured = read_config(tmp_path / "m").files
    about = {"dataset": None, "train_split": None, "train_images": 0, "test_split": "test"}
    about |= {"test_images": 4, "digest": "0" * 16, "classes": 0, "protocols": {}, "seeds": {}}
    about |= {"of": "seeds", "top1": {}, "top5": {}, "spectrum": {}, "precision": "fp32"}
    record = EvaluationRecord.from_json(about)
    add_evaluation(tmp_path / "m", record, files=measured)
    noted = read_training(tmp_path / "m")["evaluation"]
    assert len(noted) == 1
    save_model(tmp_path / "m", 1)
    with pytest.raises(OSError, match="renewed in the meantime.*evaluate again"):
        add_evaluation(tmp_path / "m", record, files=measured)
    assert not read_training(tmp_path / "m").get("evaluation")
