"""View options of a run: in its files, over a resume, on processes, and in what reads the run."""

import dataclasses
import json
import shutil

import pytest
from runs import TINY, Command, Killed, assert_equal, kill, state, tiny
from test_processes import difference, train

import effssl
from effssl import PretrainConfig
from effssl.cli import main
from effssl.hub._card import compose_card
from effssl.hub._publishable import check_publishable
from effssl.report import write_report
from effssl.views import PRESETS, MultiView, ViewOptions

VIEW = ViewOptions(
    flip=0, vertical_flip=0.5, quarter_turns=True, rotate=15, erase=0.5, mean=(0.25,), blur=(0.5, 0)
)
STATS = {"mean": (0.25,), "std": (0.5,)}
FLAGS = "--view.flip 0.0 --view.vertical-flip 0.5 --view.quarter-turns True --view.rotate 15.0"
WORDS = "flip 0, vertical flip 0.5, quarter turns on, rotate 15, blur 0.5 0, erase 0.5, mean 0.25"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    config = tiny(tmp_path_factory.mktemp("options"), epochs=1, view=VIEW, evaluate_every=0)
    effssl.pretrain(config)
    return config.run_folder


def test_the_files_of_a_run_hold_what_was_given(run):
    view = json.loads((run / "config.json").read_text())["view"]
    assert view == {k: list(v) if isinstance(v, tuple) else v for k, v in VIEW.given().items()}
    training = json.loads((run / "model" / "training.json").read_text())
    assert training["config"]["view"] == view
    assert FLAGS in training["command"] and "--view.mean 0.25" in training["command"]
    assert json.loads((run / "model" / "config.json").read_text())["pretrained_cfg"]["mean"] == [
        0.25
    ]


def test_a_run_with_view_options_may_be_published_and_its_card_names_them(run):
    check_publishable(run / "model", run / "model")
    card = compose_card(run / "model", "org/name")
    assert f"preset grey, 32 px, with {WORDS}" in card and FLAGS in card


def test_the_report_names_the_view_options(run, tmp_path):
    text = write_report(run, tmp_path / "report.html", images=24).read_text()
    assert WORDS in text and "as the preset" in text and FLAGS in text


def test_an_evaluation_looks_at_the_views_of_the_training(run, tmp_path, monkeypatch):
    seen, original = [], MultiView.__init__

    def noted(self, options, **more):
        original(self, options, **more)
        seen.append(self.options)

    monkeypatch.setattr(MultiView, "__init__", noted)
    model = str(run / "model")
    spectrum = ["--protocols", "spectrum", "--test-split", "test[:40]", "--cpu"]
    main(["evaluate", model, *spectrum, "--json", str(tmp_path / "found.json")])
    features = ["features", model, "--split", "test[:8]", "--views", "2", "--cpu"]
    main([*features, "--output", str(tmp_path / "a.safetensors")])
    main([*features, "--output", str(tmp_path / "b.safetensors"), "--preset", "stl"])
    expected = VIEW.over("grey")
    # features of views are made with the mean and std of the model, which are those of training
    assert seen == [*[expected] * 4, PRESETS["stl"], dataclasses.replace(PRESETS["stl"], **STATS)]
    found = json.loads((tmp_path / "found.json").read_text())["spectrum"]
    assert found["features"]["preset"] == f"grey with {WORDS}"


def test_a_run_with_view_options_is_resumed_to_the_bit(tmp_path, monkeypatch):
    options = {"view": VIEW, "epochs": 2, "checkpoint_steps": 1, "evaluate_every": 0}
    whole = Command(tmp_path / "whole", **options).finish()
    config = tiny(tmp_path, **options | {"log_every": 1})
    with monkeypatch.context() as patch:
        kill(patch, "step", 4)
        with pytest.raises(Killed):
            effssl.pretrain(config)
    effssl.pretrain(tiny(tmp_path, **options | {"log_every": 1, "resume": True}))
    a, b = (state(output, 10) for output in (config.run_folder, whole))
    a.pop("tracker_id"), b.pop("tracker_id")
    assert_equal(a, b)


def test_a_run_is_resumed_only_with_its_view_options(run):
    config = PretrainConfig.load(run / "config.json")
    for view in (ViewOptions(), ViewOptions(flip=0), ViewOptions(jitter=0.5).over(VIEW)):
        values = config.values() | {"view": view, "resume": True}
        with pytest.raises(ValueError, match="cannot resume .*: view was {'flip': 0.0, .*}, is {"):
            effssl.pretrain(PretrainConfig(**values))


def test_a_run_of_before_there_were_view_options_is_resumed(tmp_path):
    config = tiny(tmp_path, epochs=1, evaluate_every=0)
    effssl.pretrain(config)
    file = config.run_folder / "config.json"
    before = json.loads(file.read_text())
    assert before.pop("view") == {}
    file.write_text(json.dumps(before))
    effssl.pretrain(tiny(tmp_path, epochs=1, evaluate_every=0, resume=True))
    file.write_text(json.dumps(before))
    with pytest.raises(ValueError, match="cannot resume .*: view was {}, is {'flip': 0.0}"):
        effssl.pretrain(tiny(tmp_path, epochs=1, resume=True, view=ViewOptions(flip=0)))


def test_trackers_get_view_options(tmp_path):
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    effssl.pretrain(
        tiny(tmp_path, tracker="tensorboard", view=VIEW, epochs=1, value_range=(0.0, 255.0))
    )
    assert events and list((tmp_path / "run").rglob("events*"))
    told = next((tmp_path / "run").rglob("hparams.yml")).read_text()
    assert "view.flip: 0.0" in told and "view.mean: (0.25,)" in told


def test_two_processes_end_with_the_weights_of_one_with_all_view_options(tmp_path):
    changes = {
        "view.vertical_flip": "0.5",
        "view.quarter_turns": "True",
        "view.rotate": "20",
        "view.erase": "0.5",
        "max_steps": "6",
        "views": "2",
    }
    alone, together = (train(tmp_path / str(n), n, **changes) for n in (1, 2))
    found = difference(together, alone)
    print(f"2 processes against 1, 6 steps: {found:.1e}")
    assert found <= 1e-9


BAD_VIEWS = [
    ({"flip": "/home/alice"}, "view.*must be"),
    ({"flip": None}, "view.*must be"),
    ({"mean": [[0.5]]}, "view.*must be"),
    ({"mean": [float("inf")]}, "must be a finite number"),
    ([0.5], "view of config must be an object"),
    ({f"option {i}": 1 for i in range(101)}, "view of config must have 100 options at most"),
    ({"mean": [0.5] * 1001}, "1000 values at most"),
]


@pytest.mark.parametrize("view, message", BAD_VIEWS)
def test_view_options_of_strangers_are_typed_and_bounded(view, message):
    from effssl.record_checks import check_config

    with pytest.raises(ValueError, match=message):
        check_config({"view": view})


def test_view_options_that_effssl_does_not_write_are_not_published(run, tmp_path):

    folder = tmp_path / "model"
    shutil.copytree(run / "model", folder)
    training = json.loads((folder / "training.json").read_text())
    training["config"]["view"]["notes"] = 1
    (folder / "training.json").write_text(json.dumps(training))
    with pytest.raises(ValueError, match="config.view.notes is nothing that effssl writes"):
        check_publishable(folder, folder)


def test_the_presets_without_an_up_train(tmp_path):
    for preset in ("microscopy", "aerial"):
        changes = {"preset": preset, "output": str(tmp_path / preset), "max_steps": 1}
        effssl.pretrain(PretrainConfig(**TINY | changes, evaluate_every=0))
