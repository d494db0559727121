"""Raw pixels and random weights are measured once, and only as far as they are wanted."""

import json
import logging
import os
import sys
import time
from pathlib import Path

import pytest
import torch
from forked import Forked, launch, results

import effssl
from effssl.data import load_source
from effssl.data._cache_list import delete_cache, list_caches
from effssl.evaluation import Accuracy, _baselines, evaluate, record
from effssl.evaluation._measure import FrozenResult
from effssl.evaluation._tables import accuracy_table, class_table, details

RAW, RANDOM, OWN = "raw pixels", "random weights", "pretrained"
SMALL = {"protocols": ("knn", "linear"), "k": (1, 5), "seeds": (0, 1)}
TINY = SMALL | {"protocols": ("knn",), "seeds": (0,)}
module = sys.modules["effssl.evaluation.evaluate"]


@pytest.fixture(scope="module")
def sources():
    return tuple(load_source(split=split, in_chans=1) for split in ("train[:90]", "test[:60]"))


def net(seed=0, backbone="test_resnet", projector_dim=8):
    torch.manual_seed(seed)
    size = {"in_chans": 1, "img_size": 32}
    return effssl.create_model(backbone, projector_dim=projector_dim, **size).eval()


@pytest.fixture
def measured(monkeypatch):
    """Names of the encoders that are measured, in order."""
    found, frozen, tuned = [], module.measure_frozen, module.measure_tuned

    def measure_frozen(model, encoder, *rest):
        found.append(encoder.name)
        return frozen(model, encoder, *rest)

    def measure_tuned(encoder, *rest):
        found.append(f"tuned {encoder.name}")
        return tuned(encoder, *rest)

    monkeypatch.setattr(module, "measure_frozen", measure_frozen)
    monkeypatch.setattr(module, "measure_tuned", measure_tuned)
    return found


def numbers(evaluation):
    return {
        name: {key: [(one.top1, one.top5) for one in values] for key, values in row.items()}
        for name, row in evaluation.accuracy.items()
    }


def test_a_second_evaluation_takes_the_baselines_from_the_file(sources, measured, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    file = tmp_path / "baselines.json"
    first = evaluate(net(), *sources, baselines_file=file, **SMALL)
    assert measured == [RAW, RANDOM, OWN] and "measured before" not in caplog.text
    measured.clear()
    second = evaluate(net(), *sources, baselines_file=file, **SMALL)
    assert measured == [OWN] and numbers(second) == numbers(first)
    assert f"raw pixels and random weights: measured before ({file})" in caplog.messages
    caplog.clear()
    evaluate(net(), None, sources[1], baselines_file=file, protocols=("spectrum",))
    assert "measured before" not in caplog.text, "a spectrum has no baselines"
    assert list(second.accuracy) == [RAW, RANDOM, OWN]
    assert second.accuracy[RAW]["linear"][0].confusion is None
    assert second.accuracy[RAW]["linear"][0].per_class is None
    for name, row in first.accuracy.items():
        for key, values in row.items():
            for one, again in zip(values, second.accuracy[name][key], strict=True):
                assert torch.equal(one.correct, again.correct) and len(one.correct) == 60
                assert 100 * one.correct.double().mean() == pytest.approx(one.top1)
    names = {"dataset": None, "train_split": "train", "test_split": "test"}
    noted = record([second], **names)
    assert noted.to_json() == record([first], **names).to_json()
    assert accuracy_table(noted) == accuracy_table(record([first], **names))
    assert class_table(second, sources[0]) and details(second, sources[0])["confusion"]["linear"]


@pytest.fixture
def guessed(monkeypatch):
    """Names of the encoders that are measured, in order, but not really."""
    found = []

    def measure_frozen(model, encoder, images, settings):
        found.append(encoder.name)
        count = {name: len(settings.seeds) for name in settings.frozen_names}
        if not encoder.seeded:
            count |= dict.fromkeys((name for name in count if name != "linear"), 1)
        result = Accuracy(50.0, None, correct=torch.arange(60) < 30)
        made = {name: [result] * many for name, many in count.items()}
        return FrozenResult(made, None, torch.empty(0), torch.empty(0))

    monkeypatch.setattr(module, "measure_frozen", measure_frozen)
    return found


def test_fewer_protocols_and_other_weights_are_known_and_all_else_is_measured_anew(
    sources, guessed, tmp_path, monkeypatch
):
    file, (train, test) = tmp_path / "baselines.json", sources

    def again(model, train=train, test=test, **options):
        guessed.clear()
        evaluate(model, train, test, baselines_file=file, **(SMALL | options))
        assert guessed.pop() == OWN
        return guessed

    both = [RAW, RANDOM]
    assert again(net()) == both
    assert again(net()) == []
    assert again(net(seed=3)) == again(net(projector_dim=16)) == []  # of the same backbone
    assert again(net(), protocols=("linear",)) == again(net(), k=(5,), protocols=("knn",)) == []
    assert again(net(), k=(5, 7)) == both
    assert again(net(), seeds=(0, 2)) == both
    assert again(net(), temperature=0.1) == both
    assert again(net(), precision="bf16") == both
    assert again(net(), test=load_source(split="test[1:61]", in_chans=1)) == both
    assert again(net(), train=load_source(split="train[:91]", in_chans=1)) == both
    other = load_source(split="test[:60]", in_chans=1, value_range=(0, 200))
    assert again(net(), test=other) == both
    moved = net()
    moved.set_input(32, (0.4,), (0.5,))
    assert again(moved) == both
    assert again(net(backbone="test_vit")) == [RANDOM]
    assert again(net()) == []  # none of these took the place of the first
    for name, value in {"__version__": "0", "_FORMAT": 0}.items():
        with monkeypatch.context() as patch:
            patch.setattr(f"effssl.evaluation._baselines.{name}", value)
            assert again(net()) == both


def test_fine_tuned_random_weights_are_known_by_their_recipe(sources, measured, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    options = {"protocols": ("knn", "finetune"), "k": (1,), "seeds": (0,), "shares": (0.5,)}
    file = tmp_path / "baselines.json"
    options |= {"epochs": 1, "baselines_file": file}
    first = evaluate(net(), *sources, **options)
    measured.clear()
    assert numbers(evaluate(net(), *sources, **options)) == numbers(first)
    assert measured == [OWN, f"tuned {OWN}"]
    measured.clear()
    evaluate(net(), *sources, **options | {"lr": 1e-2})
    assert measured == [OWN, f"tuned {RANDOM}", f"tuned {OWN}"]
    known = f"raw pixels and random weights (k-NN 1): measured before ({file})"
    assert caplog.messages.count(known) == 1


@pytest.mark.parametrize(
    "baselines, names",
    [("none", [OWN]), ("raw", [RAW, OWN]), ("random", [RANDOM, OWN]), ("all", [RAW, RANDOM, OWN])],
)
def test_only_what_is_asked_for_is_measured(sources, baselines, names, tmp_path):
    options = TINY | {"baselines": baselines, "baselines_file": tmp_path / "b.json"}
    found = evaluate(net(), *sources, **options)
    noted = record([found], dataset=None, train_split="train", test_split="test")
    assert (tmp_path / "b.json").exists() == (baselines != "none")
    assert list(noted.top1) == names and list(noted.top1[OWN]) == ["k-NN 1", "k-NN 5"]
    title = accuracy_table(noted).splitlines()[1]
    assert [name in title for name in (RAW, RANDOM, OWN)] == [
        name in names for name in (RAW, RANDOM, OWN)
    ]


def test_unknown_baselines_are_refused(sources):
    with pytest.raises(ValueError, match="unknown baselines 'both'; they are none, raw, random"):
        evaluate(net(), *sources, baselines="both", **SMALL)


def broken_files(good):
    first = next(iter(good["measured"]))
    for change in (
        {"top1": [101.0]},
        {"top1": ["82"]},
        {"top1": None},
        {"top1": [float("nan")]},
        {"top5": [1.0, 2.0, 3.0]},
        {"top5": {}},
        {"images": 10**6},
        {"images": -1},
        {"images": 60.0},
        {"correct": ["AAAA"]},
        {"correct": ["?" * 12]},
        {"correct": []},
        {"correct": None},
    ):
        entry = good["measured"][first] | change
        yield json.dumps(good | {"measured": good["measured"] | {first: entry}})
    yield from ("", "[]", "{", '{"format": 1}', '{"format": 1, "measured": {"a": 1}}')
    yield '{"format": 2, "measured": {}}'
    yield '{"format": 1, "measured": ' + "[" * 10_000


def test_a_file_of_others_is_read_with_care_and_replaced(sources, measured, tmp_path, caplog):
    file = tmp_path / "baselines.json"
    expected = numbers(evaluate(net(), *sources, baselines_file=file, **TINY))
    good = json.loads(file.read_text())
    for text in broken_files(good):
        file.write_text(text)
        measured.clear()
        caplog.clear()
        assert numbers(evaluate(net(), *sources, baselines_file=file, **TINY)) == expected
        assert measured == [RAW, RANDOM, OWN]
        anew = [line for line in caplog.messages if "baselines are measured anew: " in line]
        assert len(anew) == ('"format": 2' not in text) and all("\n" not in line for line in anew)
        assert json.loads(file.read_text()) == good


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes")
def test_a_pipe_and_a_link_in_its_place_do_no_harm(sources, tmp_path, caplog):
    pipe, other = tmp_path / "pipe", tmp_path / "other.txt"
    os.mkfifo(pipe)
    evaluate(net(), *sources, baselines_file=pipe, **TINY)
    assert "is not a regular file" in caplog.text and "are not kept" in caplog.text
    other.write_text("mine")
    link = tmp_path / "link.json"
    link.symlink_to(other)
    evaluate(net(), *sources, baselines_file=link, **TINY)
    assert other.read_text() == "mine" and not link.is_symlink()


def test_a_folder_that_cannot_be_written_keeps_nothing_and_says_so(sources, tmp_path, caplog):
    (tmp_path / "file").write_text("")
    file = tmp_path / "file" / "baselines.json"
    evaluate(net(), *sources, baselines_file=file, **TINY)
    assert sum("are not kept: " in line for line in caplog.messages) == 2


def test_the_oldest_entries_are_dropped(sources, tmp_path, monkeypatch):
    file = tmp_path / "baselines.json"
    monkeypatch.setattr("effssl.evaluation._baselines._MOST_BYTES", 1000)
    for seed in range(3):
        options = {"protocols": ("knn",), "k": (1,), "seeds": (seed,), "baselines_file": file}
        evaluate(net(), *sources, **options)
    kept = json.loads(file.read_text())["measured"].values()
    assert [one["encoder"] for one in kept][-2:] == [RAW, RANDOM]
    assert len(kept) < 6 and file.stat().st_size <= 1000


def keep(file, seed):
    """Measure baselines, and wait a moment for the other process when the file was read."""
    read, folder, times = _baselines._read, Path(file).parent, []

    def slowly(path):
        found = read(path)
        times.append(time.monotonic())
        if len(times) == 1:  # at the start, and not to write it
            return found
        (folder / str(seed)).touch()
        end = times[-1] + 3
        while len(list(folder.glob("[01]"))) < 2 and time.monotonic() < end:
            time.sleep(0.01)
        return found

    _baselines._read = slowly
    sources = (load_source(split=split, in_chans=1) for split in ("train[:60]", "test[:40]"))
    options = TINY | {"k": (1,), "seeds": (seed,), "baselines": "random", "baselines_file": file}
    evaluate(net(), *sources, **options)


def test_two_evaluations_at_once_keep_what_both_have_measured(tmp_path):
    file = str(tmp_path / "baselines.json")
    for fork in [Forked(tmp_path / f"{i}.log", keep, file, i) for i in (0, 1)]:
        assert fork.wait() == 0, fork.log()
    assert len(json.loads(Path(file).read_text())["measured"]) == 2


def both(file):
    train, test = (load_source(split=split, in_chans=1) for split in ("train[:60]", "test[:40]"))
    log = []
    frozen = module.measure_frozen
    module.measure_frozen = lambda m, e, *rest: (log.append(e.name), frozen(m, e, *rest))[1]
    options = {"protocols": ("knn",), "k": (5,), "seeds": (0,), "baselines_file": file}
    found = evaluate(net(), train, test, **options)
    return torch.tensor([len(log), *(row["k-NN 5"][0].top1 for row in found.accuracy.values())])


def test_several_processes_agree_on_what_is_known(tmp_path):
    file = str(tmp_path / "baselines.json")
    first = results(launch(tmp_path / "1", 2, both, file))
    second = results(launch(tmp_path / "2", 2, both, file))
    for one in (*first, *second):
        assert torch.equal(one[1:], first[0][1:])
    assert [int(one[0]) for one in (*first, *second)] == [3, 3, 1, 1]


def test_the_cache_lists_and_deletes_the_file(tmp_path, monkeypatch):
    monkeypatch.setattr("effssl.data._cache_list.HF_HOME", str(tmp_path))
    file = tmp_path / "effssl" / "baselines.json"
    file.parent.mkdir()
    file.write_text("{}")
    (entry,) = list_caches()
    assert (entry.name, entry.about) == (file.name, "results of raw pixels and random weights")
    delete_cache(entry)
    assert not file.exists() and list_caches() == []
