"""Nothing that comes from others reaches a terminal as anything but characters, in bounds."""

import json
import logging
import shutil

import pytest

import effssl
from effssl.cli import main
from effssl.cli._main import run

ESCAPES = "\x1b[2J\x1b]0;owned\x07\x9b31m\r\u202e\x00"
logger = logging.getLogger("effssl.tests")


@pytest.fixture
def own_log(monkeypatch):
    """A function that calls another one whose log the command sets up, as outside of pytest."""

    def call(function, *args):
        with monkeypatch.context() as context:
            context.setattr(logging.getLogger(), "handlers", [])
            function(*args)

    return call


def is_plain(text):
    return all(line.isprintable() for line in text.split("\n"))


def raises(error):
    raise error


@pytest.mark.parametrize("text", [ESCAPES, "a\nb", ESCAPES * 300_000, "\ud800"])
def test_an_error_is_one_short_line(own_log, text, capsys):
    with pytest.raises(SystemExit):
        own_log(run, lambda: raises(ValueError(f"cannot read {text}!")))
    shown = capsys.readouterr().err
    assert shown.startswith("effssl: error: cannot read ") and shown.count("\n") == 1
    assert is_plain(shown) and len(shown) < 3000


@pytest.mark.parametrize("text", [ESCAPES, "a\nb", ESCAPES * 300_000, "\ud800"])
def test_a_line_of_the_log_is_one_short_line(own_log, text, capsys):
    own_log(run, lambda: logger.warning("skipped %s!", text))
    shown = capsys.readouterr().err
    assert shown.startswith("skipped ") and shown.count("\n") == 1
    assert is_plain(shown) and len(shown) < 3000


def test_a_traceback_in_the_log_keeps_its_lines(own_log, capsys):
    def fails():
        try:
            raises(ValueError(ESCAPES))
        except ValueError:
            logger.exception("failed")

    own_log(run, fails)
    shown = capsys.readouterr().err
    assert shown.count("\n") > 3 and is_plain(shown) and "ValueError" in shown


def test_escapes_in_a_model_and_in_images_do_not_reach_the_terminal(
    own_log, tmp_path, image_folder, capsys
):
    model = effssl.create_model("test_resnet", projector_dim=8, img_size=32)
    effssl.save_pretrained(model, tmp_path / "m", training={"hardware": ESCAPES})
    images = tmp_path / "images"
    files = sorted(image_folder.rglob("*.*"))
    for name in ("a\x1b[2J", "b\u202eb"):
        (images / name).mkdir(parents=True)
        for i, file in enumerate(files[:20]):
            shutil.copy(file, images / name / f"{i}\x1b[31m{file.suffix}")
    flags = ["--cpu", "--protocols", "knn", "--per-class", "--train-split", "train", "--k", "1"]
    of = ["--dataset", str(images), "--test-split", "train"]
    own_log(main, ["evaluate", str(tmp_path / "m"), *of, *flags])
    shown = capsys.readouterr()
    assert "\\x1b[2J" in shown.out and is_plain(shown.out)
    odd = tmp_path / "m\x1b[31mx"
    shutil.copytree(tmp_path / "m", odd)
    effssl.save_pretrained(model, odd)
    own_log(main, ["evaluate", str(odd), *of, *flags])
    own_log(main, ["push", str(odd), "org/m", "--dry-run"])
    features = ["--split", "train", "--output", str(odd / "f\x1b[31m.parquet"), "--cpu"]
    own_log(main, ["features", str(odd), *of[:2], *features])
    shown = capsys.readouterr()
    assert shown.out.count("m\\x1b[31mx") > 3 and is_plain(shown.out)
    config = json.loads((tmp_path / "m" / "config.json").read_text())
    for values in ({"model_args": {"global_pool": ESCAPES}}, {"architecture": ESCAPES}):
        (tmp_path / "m" / "config.json").write_text(json.dumps(config | values))
        with pytest.raises(SystemExit):
            own_log(main, ["push", str(tmp_path / "m"), "org/m", "--dry-run"])
        shown = capsys.readouterr()
        assert is_plain(shown.err) and shown.err.count("\n") == 1
