"""The command line as a user meets it: its help, its one-line errors, pretrain then evaluate."""

import pytest
from forked import Forked
from PIL import Image

from effssl.cli import main

TINY = (
    "--backbone test_resnet --in-chans 1 --img-size 32 --preset grey --projector-dim 16 --views 2 "
    "--batch-size 8 --max-steps 2 --precision fp32 --cpu"
).split()


def effssl(log, *arguments):
    """The exit code and all that is printed."""
    command = Forked(log, main, [str(argument) for argument in arguments])
    return command.wait(), command.log()


def test_pretrain_then_evaluate_ends_with_the_table_and_lines_that_run(tmp_path, capsys):
    code, shown = effssl(tmp_path / "log", "pretrain", *TINY, "--output", tmp_path / "run")
    assert code == 0 and f"effssl evaluate {tmp_path / 'run' / 'model'}" in shown, shown

    small = ("--train-split", "train[:40]", "--test-split", "test[:50]")
    code, shown = effssl(tmp_path / "log", "evaluate", tmp_path / "run", *small)
    assert code == 0, shown
    table, _, lines = shown.partition("\nimport effssl\n")
    for row in ("raw pixels", "random initialisation", "pretrained"):
        cells = table.split(row)[1].splitlines()[0].split()
        assert len(cells) == 2 and all(0 < float(cell) <= 100 for cell in cells)
    assert "k-NN: 20 neighbours" in table and "L2 chosen on 20 % of train" in table

    names = {"image": Image.new("L", (28, 28))}
    exec(f"import effssl\n{lines}", names)
    assert names["features"].shape == (1, 96)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["pretrain", "--backbone", "resnet81"], "unknown backbone 'resnet81'; did you mean"),
        (["pretrain", "--views", "1"], "views must be 2 or more"),
        (["evaluate", "nowhere"], "no model folder 'nowhere'"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(tmp_path, arguments, message):
    flags = TINY if arguments[0] == "pretrain" else []
    output = ["--output", tmp_path / "run"] if arguments[0] == "pretrain" else []
    code, shown = effssl(tmp_path / "log", arguments[0], *flags, *output, *arguments[1:])
    assert code == 2 and len(shown.splitlines()) == 1, shown
    assert shown.startswith("effssl: error: ") and message in shown
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("flags", [["--loss", "simclr"], ["--preset", "gray"], ["--vews", "4"]])
def test_misspelt_choices_and_flags_are_exit_code_2(flags, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["pretrain", *flags])
    shown = capsys.readouterr()
    assert ended.value.code == 2 and flags[-1] in shown.err + shown.out


@pytest.mark.parametrize(
    "command, taught",
    [
        ([], ["pretrain", "evaluate", "views"]),
        (["pretrain"], ["Width D of the projector"]),
        (["evaluate"], ["Model folder, the run folder"]),
        (["push"], ["HF_TOKEN", "--dry-run", "apache-2.0"]),
        (["list"], ["in the cache"]),
    ],
)
def test_help_teaches(command, taught, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit) as ended:
        main([*command, "--help"])
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    assert all(text in shown for text in taught)


def test_views_draws_a_picture_that_the_seed_decides(tmp_path, image_folder, capsys):
    pictures = []
    for name, seed in {"a": 0, "b": 0, "c": 1}.items():
        out = tmp_path / f"{name}.png"
        main(
            ["views", "--dataset", str(image_folder), "--preset", "cifar", "--img-size", "32"]
            + ["--images", "5", "--views", "2", "--seed", str(seed), "--out", str(out)]
        )
        pictures.append(out.read_bytes())
    assert pictures[0] == pictures[1] != pictures[2]
    assert "5 images with 2 views each" in capsys.readouterr().out
