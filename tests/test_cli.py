"""The command line as a user meets it: its help, its one-line errors, pretrain then evaluate."""

import os
import subprocess
import sys

import pytest

from effssl.cli import main

TINY = (
    "--backbone test_resnet --in-chans 1 --img-size 32 --preset grey --projector-dim 16 --views 2 "
    "--batch-size 8 --max-steps 2 --precision fp32 --cpu"
).split()


def effssl(*arguments, **environment):
    return subprocess.run(
        [sys.executable, "-m", "effssl.cli", *map(str, arguments)],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_pretrain_then_evaluate_ends_with_the_table_and_lines_that_run(tmp_path):
    result = effssl("pretrain", *TINY, "--output", tmp_path / "run")
    assert result.returncode == 0, result.stderr
    assert f"effssl evaluate {tmp_path / 'run' / 'model'}" in result.stdout

    small = ("--train-split", "train[:300]", "--test-split", "test[:100]")
    result = effssl("evaluate", tmp_path / "run", *small)
    assert result.returncode == 0, result.stderr
    table, _, lines = result.stdout.partition("\nimport effssl\n")
    for row in ("raw pixels", "random initialisation", "pretrained"):
        cells = table.split(row)[1].splitlines()[0].split()
        assert len(cells) == 2 and all(0 < float(cell) <= 100 for cell in cells)
    assert "k-NN: 20 neighbours" in table and "L2 chosen on 20 % of train" in table

    code = "from PIL import Image\nimage = Image.new('L', (28, 28))\nimport effssl\n" + lines
    code += "\nprint(tuple(features.shape))"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert shown.stdout.strip() == "(1, 96)", shown.stderr


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
    result = effssl(arguments[0], *flags, *output, *arguments[1:])
    assert result.returncode == 2 and result.stdout == ""
    assert len(result.stderr.splitlines()) == 1, result.stderr
    assert result.stderr.startswith("effssl: error: ") and message in result.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("flags", [["--loss", "simclr"], ["--preset", "gray"], ["--vews", "4"]])
def test_misspelt_choices_and_flags_are_exit_code_2(flags):
    result = effssl("pretrain", *flags)
    assert result.returncode == 2 and flags[-1] in result.stderr + result.stdout


def test_help_teaches():
    assert "pretrain" in effssl("--help").stdout and "evaluate" in effssl("--help").stdout
    assert "Width D of the projector" in effssl("pretrain", "--help", COLUMNS="200").stdout
    assert "Model folder, or the run folder" in effssl("evaluate", "--help", COLUMNS="200").stdout


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
