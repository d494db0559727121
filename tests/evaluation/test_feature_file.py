"""Extraction to files, by several processes, and after a kill: always the same features."""

import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import datasets
import pytest
import torch
from datasets import load_from_disk
from forked import Forked, launch, results
from PIL import Image
from pyarrow import parquet
from safetensors.torch import load_file
from torchvision.transforms import Compose

import effssl
from effssl.data import load_source
from effssl.evaluation import _feature_file as feature_file
from effssl.evaluation import extract_features, extract_views
from effssl.evaluation._extraction import Extraction
from effssl.evaluation._feature_file import FeatureFile

IMAGES = 70
DATA = "fashion-mnist-sample"


def net(seed=0):
    torch.manual_seed(seed)
    return effssl.create_model("test_resnet", in_chans=1, img_size=32, projector_dim=8).eval()


def images(count=IMAGES):
    return load_source(DATA, f"train[:{count}]", in_chans=1)


def extract_with_cache(cache, *arguments):
    global DATA
    DATA = str(Path(effssl.data.__file__).parent / "sample" / "train.parquet")
    datasets.config.HF_DATASETS_CACHE = cache["HF_DATASETS_CACHE"]
    return extract(*arguments)


def negative(pixels):
    return -pixels


def extract(output=None, views=0, kill_after=None, count=IMAGES, batch_size=16, seed=0, turn=None):
    """Features; or of a file, how many batches were left for this process to write."""
    options = {"batch_size": batch_size, "output": output and Path(output)}
    model = net(seed)
    if turn:
        transform = [effssl.create_transform(model), negative][: 2 if turn == "over" else 1]
        options["transform"] = Compose(transform)
    if views:
        options["views"] = effssl.MultiView("grey", views=views, size=32)
    written = []
    write = FeatureFile.write

    def counted(self, batch, rows, features):
        write(self, batch, rows, features)
        written.append(batch)
        if len(written) == kill_after:
            os.kill(os.getpid(), signal.SIGKILL)

    FeatureFile.write, feature_file._SAVE_SECONDS = counted, 0
    torch.set_num_threads(1)
    found = extract_features(model, images(count), **options)
    FeatureFile.write = write
    return torch.tensor(written) if output else found


def broken(folder):
    extract_features(net(), load_source(folder, in_chans=1), batch_size=8)


@pytest.fixture(scope="module")
def expected():
    return extract()


@pytest.mark.parametrize("ending", [".safetensors", ".parquet", ""])
def test_every_kind_of_output_holds_the_features_in_order(tmp_path, expected, ending):
    output, labels = tmp_path / f"made/of{ending}", images().labels()
    assert extract(output).tolist() == [0, 1, 2, 3, 4]
    assert os.listdir(tmp_path / "made") == [output.name]
    if ending == ".safetensors":
        found = load_file(output)
        assert found["labels"].tolist() == labels
        features = found["features"]
    elif ending == ".parquet":
        table = parquet.read_table(output)
        assert table["labels"].to_pylist() == labels
        features = torch.tensor(table["features"].to_pylist())
    else:
        rows = load_from_disk(str(output))
        assert rows["label"][:] == labels and rows[3]["image"].size == (28, 28)
        features = torch.tensor(rows["features"][:])
    assert torch.equal(features, expected)


def test_images_without_labels_have_features_alone(tmp_path, image_folder):
    flat = tmp_path / "flat"
    flat.mkdir()
    for image in image_folder.rglob("*.png"):
        (flat / image.name).write_bytes(image.read_bytes())
    model = effssl.create_model("test_resnet", img_size=32)
    extract_features(model, load_source(str(flat)), output=tmp_path / "a.safetensors")
    assert {name: x.shape for name, x in load_file(tmp_path / "a.safetensors").items()} == {
        "features": (24, 96)
    }


def test_a_killed_extraction_goes_on_where_it_was(tmp_path, expected):
    output = tmp_path / "x.safetensors"
    killed = Forked(tmp_path / "log", extract, str(output), 0, 3)
    assert killed.wait() == -signal.SIGKILL, killed.log()
    assert not output.exists() and Path(f"{output}.partial").is_dir()
    assert extract(output).tolist() == [3, 4]
    assert torch.equal(load_file(output)["features"], expected)


def test_a_killed_extraction_goes_on_though_the_cache_of_datasets_was_cleaned(tmp_path, expected):
    output = tmp_path / "x.safetensors"
    cache = {"HF_DATASETS_CACHE": str(tmp_path / "cache")}
    killed = Forked(tmp_path / "log", extract_with_cache, cache, str(output), 0, 3)
    assert killed.wait() == -signal.SIGKILL, killed.log()
    shutil.rmtree(tmp_path / "cache")
    again = Forked(tmp_path / "log", extract_with_cache, cache, str(output))
    assert again.result().tolist() == [3, 4]
    assert torch.equal(load_file(output)["features"], expected)


def test_other_labels_and_precisions_are_another_extraction():
    first = images(8)
    turned = first.dataset.add_column("turned", first.labels()[::-1])
    second = replace(first, dataset=turned, label_column="turned")
    found = [
        Extraction(net(), source, None, False, None, 4, precision, 0).fingerprint()
        for source, precision in [
            (first, "fp32"),
            (first, "auto"),
            (second, "fp32"),
            (first, "bf16"),
        ]
    ]
    assert found[0] == found[1] and len(set(found)) == 3


@pytest.mark.parametrize(
    "changes", [{"views": 2}, {"batch_size": 10}, {"count": 60}, {"seed": 1}, {"turn": "over"}]
)
def test_what_is_left_of_another_extraction_is_not_taken(tmp_path, changes):
    output = tmp_path / "x.safetensors"
    before = (str(output), 0, 3, IMAGES, 16, 0, "same" if "turn" in changes else None)
    killed = Forked(tmp_path / "log", extract, *before)
    assert killed.wait() == -signal.SIGKILL, killed.log()
    assert extract(output, **changes).tolist()[0] == 0
    assert torch.equal(load_file(output)["features"], extract(**changes))


@pytest.mark.parametrize("processes", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_features_do_not_depend_on_the_number_of_processes(tmp_path, expected, processes):
    for found in results(launch(tmp_path / "memory", processes, extract)):
        assert torch.equal(found, expected)
    # more processes than batches, and views
    alone = extract(None, 2, None, 40, 32)
    for found in results(launch(tmp_path / "views", processes, extract, None, 2, None, 40, 32)):
        assert torch.equal(found, alone)


def test_processes_share_a_file_and_go_on_after_a_kill_of_all(tmp_path, expected):
    output = tmp_path / "x.safetensors"
    for killed in launch(tmp_path / "killed", 2, extract, str(output), 0, 1):
        assert killed.wait() == -signal.SIGKILL, killed.log()
    left = results(launch(tmp_path / "again", 2, extract, str(output)))
    assert [part.tolist() for part in left] == [[1], [3, 4]]
    assert torch.equal(load_file(output)["features"], expected)


def test_what_ends_one_process_is_said_by_it(tmp_path):
    for i in range(40):
        Image.new("L", (9, 9), i).save(tmp_path / f"{i:02}.png")
    (tmp_path / "37.png").write_bytes(b"no image")  # in the part of the second process
    forks = launch(tmp_path / "logs", 2, broken, str(tmp_path))
    codes = [fork.wait() for fork in forks]
    assert codes[1] == 1 and "process 1: " in forks[1].log() and "37.png" in forks[1].log()


def test_averaged_views_are_the_mean_over_views():
    views = effssl.MultiView("grey", views=3, size=32)
    options = {"batch_size": 32, "seed": 5}
    every = extract_views(net(), images(), views, **options)
    assert every.shape == (3, IMAGES, 96)
    assert not torch.allclose(every[0], every[1], rtol=0.01)
    averaged = extract_features(net(), images(), views=views, **options)
    torch.testing.assert_close(averaged, every.mean(0))
    again = extract_features(net(), images(), views=views, batch_size=32, seed=6)
    assert not torch.equal(averaged, again)


def test_projections_are_those_of_the_features(expected):
    model = net()
    projections = extract_features(model, images(), project=True, batch_size=16)
    with torch.no_grad():
        torch.testing.assert_close(projections, model.projector(expected))


def test_a_model_may_be_named(tmp_path, expected):
    effssl.save_pretrained(net(), tmp_path / "model")
    found = effssl.extract_features(tmp_path / "model", images(), batch_size=16)
    torch.testing.assert_close(found, expected)
    with pytest.raises(TypeError, match="effssl.extract_features loads a model by name"):
        extract_features(tmp_path / "model", images())


def test_a_full_disk_is_an_error_before_anything_is_computed(tmp_path):
    options = {"most_bytes": 4 * 96 * IMAGES // 2}
    full = Forked(tmp_path / "log", extract, str(tmp_path / "x.safetensors"), **options)
    assert full.wait() == 1 and "OSError: [Errno 27] File too large" in full.log()
    assert not (tmp_path / "x.safetensors").exists()


def test_outputs_that_cannot_be_are_one_line(tmp_path):
    (tmp_path / "x.parquet").write_text("precious")
    with pytest.raises(FileExistsError, match="x.parquet exists: choose another name"):
        extract(tmp_path / "x.parquet")
    with pytest.raises(ValueError, match=r"'x.csv': end it in .safetensors or .parquet, or in"):
        extract(tmp_path / "x.csv")
    assert (tmp_path / "x.parquet").read_text() == "precious" and len(os.listdir(tmp_path)) == 1
