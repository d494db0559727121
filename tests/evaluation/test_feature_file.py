"""Extraction to files, by several processes, and after a kill: always the same features."""

import io
import os
import shutil
import signal
import zipfile
from dataclasses import replace
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from datasets import Features, Value, load_from_disk
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

    def counted(self, rows, found):
        write(self, rows, found)
        written.append(found.number)
        if len(written) == kill_after:
            os.kill(os.getpid(), signal.SIGKILL)

    FeatureFile.write, feature_file._SAVE_SECONDS = counted, 0
    torch.set_num_threads(1)
    found = extract_features(model, images(count), **options)
    FeatureFile.write = write
    return torch.tensor(written) if output else found


def broken(folder):
    extract_features(net(), load_source(folder, in_chans=1), batch_size=8, max_broken=0)


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
    found = load_file(tmp_path / "a.safetensors")
    assert found.keys() == {"features", "rows", "paths"} and found["features"].shape == (24, 96)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """40 images of noise in two classes, of which four are broken, among them all of a batch."""
    folder = tmp_path_factory.mktemp("photos")
    for i, pixels in enumerate(np.random.default_rng(0).integers(0, 256, (40, 28, 28), np.uint8)):
        path = folder / "ab"[i >= 20] / f"ü{i:02}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(pixels).save(path)
        if i in (8, 9, 10, 11, 37):
            path.write_bytes(b"no image")
    return folder


LEFT = [i for i in range(40) if i not in (8, 9, 10, 11, 37)]


def extract_photos(folder, output=None, kill_after=None, max_broken=0.2):
    """Features in batches of four; or of a file, how many batches this process wrote."""
    written = []
    write = FeatureFile.write

    def counted(self, rows, found):
        write(self, rows, found)
        written.append(found.number)
        if len(written) == kill_after:
            os.kill(os.getpid(), signal.SIGKILL)

    FeatureFile.write, feature_file._SAVE_SECONDS = counted, 0
    torch.set_num_threads(1)
    options = {"batch_size": 4, "max_broken": max_broken, "output": output and Path(output)}
    found = extract_features(net(), load_source(folder, in_chans=1), **options)
    FeatureFile.write = write
    return torch.tensor(written) if output else found


def contents(output):
    """Features, labels, rows and paths of an output of any kind."""
    if output.suffix == ".safetensors":
        found = load_file(output)
        paths = bytes(found["paths"].tolist()).decode().split("\0")
        return found["features"], found["labels"].tolist(), found["rows"].tolist(), paths
    if output.suffix == ".parquet":
        found = parquet.read_table(output).to_pydict()
        return torch.tensor(found["features"]), found["labels"], found["row"], found["path"]
    found = load_from_disk(str(output))
    assert found[9]["image"].size == (28, 28)
    return torch.tensor(found["features"][:]), *(found[x][:] for x in ("label", "row", "path"))


def assert_left(output, photos, expected):
    features, labels, rows, paths = contents(output)
    assert rows == LEFT and labels == [int(i >= 20) for i in LEFT]
    assert [Path(path).name for path in paths] == [f"ü{i:02}.png" for i in LEFT]
    assert paths == [load_source(str(photos)).paths()[i] for i in LEFT]
    assert torch.equal(features, expected[LEFT])


@pytest.mark.parametrize("ending", [".safetensors", ".parquet", ""])
def test_files_leave_broken_images_out_and_tell_which_image_each_row_is(
    tmp_path, photos, ending, caplog
):
    output, expected = tmp_path / f"x{ending}", extract_photos(str(photos))
    caplog.clear()
    assert extract_photos(str(photos), output).tolist() == list(range(10))
    assert len([r for r in caplog.records if "skipped a broken image" in r.getMessage()]) == 5
    assert os.listdir(tmp_path) == [output.name]
    assert_left(output, photos, expected)


@pytest.mark.parametrize("ending", [".safetensors", ".parquet"])
def test_broken_images_stay_known_over_a_kill(tmp_path, photos, ending, caplog):
    output = tmp_path / f"x{ending}"
    killed = Forked(tmp_path / "log", extract_photos, str(photos), str(output), 4)
    assert killed.wait() == -signal.SIGKILL, killed.log()
    with pytest.raises(ValueError, match="5 of the 40 images cannot be read .* max_broken 0.1 "):
        extract_photos(str(photos), output, max_broken=0.1)
    caplog.clear()
    assert extract_photos(str(photos), output, max_broken=0.2).tolist() == [9]
    assert len([r for r in caplog.records if "skipped a broken image" in r.getMessage()]) == 5
    assert_left(output, photos, extract_photos(str(photos)))


@pytest.mark.parametrize("processes", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_processes_leave_the_same_images_out(tmp_path, photos, processes):
    expected, output = extract_photos(str(photos)), tmp_path / "x.safetensors"
    for found in results(launch(tmp_path / "memory", processes, extract_photos, str(photos))):
        assert torch.equal(found.nan_to_num(9), expected.nan_to_num(9))
    arguments = (extract_photos, str(photos), str(output))
    for killed in launch(tmp_path / "killed", processes, *arguments, 1):
        assert killed.wait() == -signal.SIGKILL, killed.log()
    left = results(launch(tmp_path / "again", processes, *arguments))
    assert sum(len(part) for part in left) == 10 - processes
    assert_left(output, photos, expected)


def test_images_without_names_have_rows_alone(tmp_path):
    extract(tmp_path / "x.safetensors", count=10)
    found = load_file(tmp_path / "x.safetensors")
    assert found.keys() == {"features", "labels", "rows"} and found["rows"].tolist() == [*range(10)]
    extract(tmp_path / "x.parquet", count=10)
    found = parquet.read_table(tmp_path / "x.parquet")
    assert found["path"].null_count == 10 and found["row"].to_pylist() == [*range(10)]


def test_columns_of_the_data_keep_their_names_in_a_folder(tmp_path, photos):
    source = load_source(str(photos), in_chans=1)
    renamed = source.dataset.rename_columns({"image": "path", "label": "row"})
    source = replace(source, dataset=renamed, image_column="path", label_column="row")
    extract_features(net(), source, output=tmp_path / "x", max_broken=0.2)
    found = load_from_disk(str(tmp_path / "x"))
    assert found.column_names == ["path", "row", "features"] and len(found) == len(LEFT)
    assert found[9]["path"].size == (28, 28) and found["row"][:] == [int(i >= 20) for i in LEFT]


def test_images_without_a_class_have_the_label_minus_one(tmp_path):
    source = images(6)
    labels = [3, None, -1, 0, 7, None]
    kind = Features(source.dataset.features | {"label": Value("int64")})
    rows = source.dataset.remove_columns("label").add_column("label", labels).cast(kind)
    extract_features(net(), replace(source, dataset=rows), output=tmp_path / "x.safetensors")
    assert load_file(tmp_path / "x.safetensors")["labels"].tolist() == [3, -1, -1, 0, 7, -1]


def test_a_killed_extraction_goes_on_where_it_was(tmp_path, expected):
    output = tmp_path / "x.safetensors"
    killed = Forked(tmp_path / "log", extract, str(output), 0, 3)
    assert killed.wait() == -signal.SIGKILL, killed.log()
    assert not output.exists() and len(list(tmp_path.glob("x.safetensors.*.partial"))) == 1
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
    with pytest.raises(
        FileExistsError, match="x.parquet exists: give another output, or delete it"
    ):
        extract(tmp_path / "x.parquet")
    with pytest.raises(ValueError, match=r"'x.csv': end it in .safetensors or .parquet, or in"):
        extract(tmp_path / "x.csv")
    assert (tmp_path / "x.parquet").read_text() == "precious" and len(os.listdir(tmp_path)) == 1


def test_a_folder_of_datasets_holds_images_of_any_name_and_of_archives(tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    for i, name in enumerate(["a.png", "caf\udce9.png", "x::y.png"]):
        Image.new("L", (32, 32), 40 * i).save(photos / name)
    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as archive:
        for i, name in enumerate(["a.png", "b.png", "c.png"]):
            file = io.BytesIO()
            Image.new("L", (32, 32), 40 * i).save(file, "PNG")
            archive.writestr(name, file.getvalue())
    for place, data in enumerate([photos, tmp_path / "photos.zip"]):
        source = load_source(str(data), in_chans=1)
        effssl.extract_features(net(), source, output=tmp_path / f"out{place}")
        found = load_from_disk(str(tmp_path / f"out{place}"))
        assert [image.getpixel((0, 0)) for image in found["image"]] == [0, 40, 80]
        assert found["path"][:] == source.paths()
