"""Every command takes the moved sample by its name, as it takes the sample."""

import json
from pathlib import Path

import pyarrow.parquet
import pytest
from PIL import Image

from effssl.cli import main
from effssl.data import load_source

NAME = "fashion-mnist-moved-sample"
RUN = (
    f"pretrain --dataset {NAME} --split train[:64] --backbone test_convnext2 --patch-size 4 "
    "--in-chans 1 --img-size 32 --preset grey --projector-dim 16 --views 2 --batch-size 16 "
    "--max-steps 2 --precision fp32 --cpu --output run"
)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("moved")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        main(RUN.split())
    return folder


def test_a_run_records_the_name_and_knows_its_images_again(run, monkeypatch, caplog):
    monkeypatch.chdir(run)
    record = json.loads(Path("run/model/training.json").read_text())
    assert record["config"]["dataset"] == NAME and record["images"] == 64
    assert f"--dataset {NAME}" in record["command"]
    images = json.loads(Path("run/images.json").read_text())
    source = load_source(NAME, "train[:64]")
    assert images["content"] == source.digest() and images["path"] is None
    caplog.clear()
    main(f"{RUN} --resume".replace("--max-steps 2", "--max-steps 3").split())
    assert not [line for line in caplog.messages if "data set" in line and "changed" in line]


def test_the_other_commands_take_it_from_the_run_and_by_its_name(run, monkeypatch, capsys):
    monkeypatch.chdir(run)
    parts = "--train-split train[:60] --test-split test[:20]"
    main(f"evaluate run --dataset {NAME} {parts} --protocols knn --seeds 0 --cpu".split())
    assert NAME in capsys.readouterr().out
    known = json.loads(Path("run/baselines.json").read_text())
    main(f"evaluate run {parts} --protocols knn --seeds 0 --cpu".split())
    assert json.loads(Path("run/baselines.json").read_text()) == known  # of the same images
    main("features run --split test[:9] --output x.parquet --cpu".split())
    labels = pyarrow.parquet.read_table("x.parquet")["labels"].to_pylist()
    assert labels == load_source(NAME, "test[:9]").labels()
    size = "--img-size 32 --in-chans 1 --preset grey --images 2 --views 2"
    main(f"views --dataset {NAME} {size} --output views.png".split())
    with Image.open("views.png") as picture:
        assert picture.width > 90
    main(["report", "run"])
    assert NAME in Path("run/report.html").read_text()
