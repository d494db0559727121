"""The command line as a user meets it: its help, its one-line errors, pretrain then evaluate."""

import json
import re

import pytest
from forked import Forked
from PIL import Image
from pyarrow import parquet

from effssl.cli import main
from effssl.data import load_source
from effssl.hub._folder import PROBE, read_training

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

    small = ["--train-split", "train[:60]", "--test-split", "test[:50]", "--seeds", "0", "1"]
    more = ["--per-class", "--json", tmp_path / "numbers.json"]
    code, shown = effssl(tmp_path / "log", "evaluate", tmp_path / "run", *small, *more)
    assert code == 0, shown
    table, _, lines = shown.partition("\nimport effssl\n")
    assert re.search(r"top-1 in percent +raw pixels +random weights +pretrained", table)
    for row, spreads in {"k-NN 1 ": 1, "k-NN 20 ": 1, "linear ": 3}.items():
        line = next(line for line in table.splitlines() if line.startswith(row))
        means = re.findall(r"(\d+\.\d\d)( ± \d+\.\d\d)?", line)
        assert len(means) == 3 and all(0 < float(mean) <= 100 for mean, _ in means)
        assert sum(bool(spread) for _, spread in means) == spreads
    assert "k-NN 200" not in table  # of 60 images
    assert "L2 weight chosen on 20 % of train" in table and "Ankle boot" in table
    assert re.search(r"RankMe +\d", table) and "preset grey" in table
    numbers = json.loads((tmp_path / "numbers.json").read_text())
    assert numbers["seeds"]["linear"] == [0, 1] and len(numbers["confusion"]["linear"]) == 10
    (noted,) = read_training(tmp_path / "run/model")["evaluation"]
    assert noted["top1"] == numbers["top1"] and (tmp_path / "run/model" / PROBE).is_file()

    # another protocol joins what is noted
    tune = ["--protocols", "finetune", "--shares", "0.5", "--epochs", "1", "--seeds", "7"]
    code, shown = effssl(tmp_path / "log", "evaluate", tmp_path / "run", *small, *tune)
    assert code == 0, shown
    (joined,) = read_training(tmp_path / "run/model")["evaluation"]
    assert list(joined["top1"]["pretrained"]) == [*noted["top1"]["pretrained"], "fine-tuned 50 %"]
    assert joined["top1"]["raw pixels"] == noted["top1"]["raw pixels"]
    assert joined["seeds"]["fine-tuned 50 %"] == [7] and joined["seeds"]["linear"] == [0, 1]
    assert joined["probe"] == noted["probe"] and joined["spectrum"] == noted["spectrum"]

    output = tmp_path / "features.parquet"
    options = ["--split", "test[:30]", "--views", "2", "--output", output]
    code, shown = effssl(tmp_path / "log", "features", tmp_path / "run", *options)
    assert code == 0 and shown.splitlines()[-1] == str(output), shown
    assert parquet.read_metadata(output).num_rows == 30

    names = {"image": Image.new("L", (28, 28))}
    exec(f"import effssl\n{lines}", names)
    assert names["features"].shape == (1, 96)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["pretrain", "--backbone", "resnet81"], "unknown backbone 'resnet81'; did you mean"),
        (["pretrain", "--backbone", "hf-hub:timm/resnet18"], "is a repository or a folder"),
        (["pretrain", "--backbone", "resnet18", "--pretrained"], "HF_HUB_OFFLINE is set"),
        (["pretrain", "--views", "1"], "views must be 2 or more"),
        (["evaluate", "nowhere"], "no model folder 'nowhere'"),
        (["features", "nowhere", "--output", "x.parquet"], "no model folder 'nowhere'"),
        (["report", "nowhere"], "nowhere"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(tmp_path, arguments, message):
    flags = TINY if arguments[0] == "pretrain" else []
    output = ["--output", tmp_path / "run"] if arguments[0] == "pretrain" else []
    code, shown = effssl(tmp_path / "log", arguments[0], *flags, *output, *arguments[1:])
    assert code == 2 and len(shown.splitlines()) == 1, shown
    assert shown.startswith("effssl: error: ") and message in shown
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("flags", [["--loss", "swav"], ["--preset", "gray"], ["--vews", "4"]])
def test_misspelled_choices_and_flags_are_exit_code_2(flags, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["pretrain", *flags])
    shown = capsys.readouterr()
    assert ended.value.code == 2 and flags[-1] in shown.err + shown.out


@pytest.mark.parametrize(
    "command, taught",
    [
        ([], ["pretrain", "evaluate", "views"]),
        (["pretrain"], ["Width D of the projector"]),
        (["evaluate"], ["Model folder, run folder", "needs no labels", "confusion"]),
        (["features"], ["goes on where it was", "torchrun", "load_from_disk"]),
        (["report"], ["nearest"]),
        (["push"], ["HF_TOKEN", "--dry-run", "apache-2.0"]),
        (["list"], ["in the cache"]),
        (["cache"], ["longest unused first", "running process", "--delete-older-than"]),
        (["recommend"], ["Prints the command", "Side of the images in pixels"]),
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
            + ["--images", "5", "--views", "2", "--seed", str(seed), "--output", str(out)]
        )
        pictures.append(out.read_bytes())
    assert pictures[0] == pictures[1] != pictures[2]
    shown = capsys.readouterr().out.splitlines()
    assert shown[5].startswith("5 images with 2 views each") and len(shown) == 18
    names = [load_source(str(image_folder)).paths()[row] for row in range(0, 20, 4)]
    assert shown[:5] == [f"{name} (row {4 * i})" for i, name in enumerate(names)]


def test_too_little_memory_is_one_line(tmp_path, capsys):
    flags = "--backbone test_resnet --img-size 32 --in-chans 1 --preset grey --cpu --epochs 1"
    with pytest.raises(SystemExit, match="2"):
        main(["pretrain", *flags.split(), "--projector-dim", "1000000000000"])
    (line,) = capsys.readouterr().err.strip().splitlines()[-1:]
    assert line.startswith("effssl: error: not enough memory: ")
