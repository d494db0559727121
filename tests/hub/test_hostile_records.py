"""training.json, metrics.jsonl and config.json with anything in them: a line, and no traceback."""

import copy
import json
import os
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_untrusted import fuzz, places

import effssl
from effssl.cli import main
from effssl.hub._card import compose_card
from effssl.hub._figures import draw_figures
from effssl.hub._folder import read_record
from effssl.report import _charts, _page, _spectra
from effssl.report._run import read_run
from effssl.report._svg import Chart
from effssl.training.config import PretrainConfig

PACKAGED = next((Path(effssl.__file__).parent / "pretrained").glob("*/training.json")).parent
HUGE = 10**400
TORN = "\ud800"
_VALUES = st.recursive(
    st.sampled_from([None, True, 0, -1, 1.5, 1e308, 5e-324, 2**70, "", "x\x1b[31m", "a" * 300])
    | st.integers()
    | st.floats()
    | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)


def short(training):
    """The record with columns and spectra of a few values, to be drawn fast."""
    training["history"] = {name: column[:3] for name, column in training["history"].items()}
    for found in training["evaluation"][0]["spectrum"].values():
        found["rank"], found["eigenvalue"] = found["rank"][:5], found["eigenvalue"][:5]
    return training


@pytest.fixture
def model(tmp_path):
    folder = Path(shutil.copytree(PACKAGED, tmp_path / "run" / "model"))
    return folder, short(json.loads((folder / "training.json").read_text()))


@pytest.fixture
def run(model):
    folder, training = model
    config = training["config"] | {"output": None, "resume": False}
    (folder.parent / "config.json").write_text(json.dumps(config))
    history = training["history"]
    lines = [
        dict(zip(history, values, strict=True)) for values in zip(*history.values(), strict=True)
    ]
    spectrum = training["evaluation"][0]["spectrum"]
    lines[0]["spectrum"] = lines[-1]["spectrum"] = spectrum
    return folder.parent, lines


@st.composite
def changed(draw, content):
    """The content with a few places replaced, removed or added to."""
    content = copy.deepcopy(content)
    for _ in range(draw(st.integers(1, 2))):
        *parents, last = draw(st.sampled_from([place for place in places(content) if place]))
        inside = content
        for key in parents:
            inside = inside[key]
        if draw(st.booleans()):
            inside[last] = draw(_VALUES)
        else:
            del inside[last]
    return content


def is_refused(function, *args):
    """Whether a function refuses its arguments in one line."""
    try:
        function(*args)
    except (ValueError, FileNotFoundError) as error:
        assert len(str(error)) < 1500, error
        return True
    return False


@pytest.mark.parametrize("examples", [100, pytest.param(2000, marks=pytest.mark.slow)])
def test_any_change_of_a_training_is_a_value_error_or_harmless(model, examples):
    folder, training = model
    outcomes = []

    @fuzz(examples)
    @given(changed(training))
    def try_it(changed):
        (folder / "training.json").write_text(json.dumps(changed))
        outcomes.append(is_refused(compose_card, folder, "org/m"))
        if not outcomes[-1] and len(outcomes) % 10 == 0:
            draw_figures(read_record(folder), folder)

    try_it()
    assert 0.2 * examples < sum(outcomes) < examples


@pytest.mark.parametrize("examples", [100, pytest.param(2000, marks=pytest.mark.slow)])
def test_any_change_of_metrics_is_a_value_error_or_harmless(run, monkeypatch, examples):
    folder, lines = run
    for module in (_charts, _spectra):
        monkeypatch.setattr(
            module, "draw", lambda key, title, plot, text="": Chart(title, "", text)
        )
    monkeypatch.setattr(_page, "_pictures", pictures)
    outcomes = []

    @fuzz(examples)
    @given(changed(lines))
    def try_it(changed):
        text = "".join(json.dumps(line) + "\n" for line in changed)
        (folder / "metrics.jsonl").write_text(text)
        outcomes.append(is_refused(lambda: _page._render(read_run(folder), None, 8)))

    try_it()
    assert 0.1 * examples < sum(outcomes) < examples


def pictures(run, dataset, images):
    """What a report says without images and without a model."""
    run = type("Run", (), {"config": type("C", (), {"streaming": True, "views": 2, "dataset": ""})})
    return ORIGINAL(run, None, images)


ORIGINAL = _page._pictures


@pytest.mark.parametrize("examples", [200, pytest.param(2000, marks=pytest.mark.slow)])
def test_any_change_of_the_configuration_of_a_run_is_a_value_error_or_harmless(run, examples):
    folder, _ = run
    path = folder / "config.json"
    config = json.loads(path.read_text())
    outcomes = []

    @fuzz(examples)
    @given(changed(config))
    def try_it(changed):
        path.write_text(json.dumps(changed))
        outcomes.append(is_refused(PretrainConfig.load, path))
        is_refused(read_run, folder)

    try_it()
    assert 0.1 * examples < sum(outcomes) < examples


@pytest.mark.parametrize("name", ["training.json", "metrics.jsonl", "config.json"])
@pytest.mark.parametrize(
    "content",
    ["[" * 100_000, '{"a": 1' + "0" * 400 + "}", "\x00", "", "[]", "null", '{"step": []}', "NaN"],
)
def test_files_that_are_no_records_are_one_line_for_every_command(run, name, content, capsys):
    folder, _ = run
    path = folder / "model" / name if name == "training.json" else folder / name
    path.write_text(content)
    for command in (["report", str(folder)], ["push", str(folder), "org/m", "--dry-run"]):
        try:
            main([*command, *(["--images", "4"] if command[0] == "report" else [])])
        except SystemExit as end:
            assert end.code == 2
            error = capsys.readouterr().err.splitlines()[-1]
            assert error.startswith("effssl: error: ") and error.isprintable()


@pytest.mark.parametrize("name", ["training.json", "metrics.jsonl", "config.json"])
@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_files_that_are_none_do_not_stop_a_command_for_good(run, name, kind):
    folder, _ = run
    path = folder / "model" / name if name == "training.json" else folder / name
    path.unlink(missing_ok=True)
    if kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/zero")
    is_refused(read_run, folder)
    is_refused(compose_card, folder / "model", "org/m")
