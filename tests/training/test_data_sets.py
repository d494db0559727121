"""Runs on any data set: broken files, every kind of source, streams that stay small and resume."""

import io
import os
import re
import struct
import subprocess
import sys
import tarfile
import zlib
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from datasets import Array3D, Dataset, Features, Image
from PIL import Image as PILImage
from runs import Killed, kill, metrics

import effssl
from effssl import PretrainConfig
from effssl.data import _cache as cache

HERE = Path(__file__).parent
CONVERT = HERE.parents[1] / "examples" / "fashion_mnist_to_parquet.py"
FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")  # Debian's dataset-fashion-mnist
TINY = {
    "backbone": "test_resnet",
    "img_size": 32,
    "preset": "cifar",
    "projector_dim": 16,
    "views": 2,
    "batch_size": 20,
    "epochs": 2,
    "log_every": 1,
    "precision": "fp32",
    "cpu": True,
}


def pretrain(data, output, **changes):
    return effssl.pretrain(
        PretrainConfig(**(TINY | {"dataset": str(data), "output": str(output)} | changes))
    )


def noise(n, *shape, dtype=np.uint8):
    rng = np.random.default_rng(0)
    return (rng.integers(0, np.iinfo(dtype).max + 1, shape, dtype) for _ in range(n))


def encoded(pixels, format, **options):
    file = io.BytesIO()
    PILImage.fromarray(pixels).save(file, format, **options)
    return file.getvalue()


def png(width, height, scanlines):
    """An RGB PNG of that size, whatever pixels it holds; a tenth of Pillow's time."""

    def chunk(kind, content):
        checked = kind + content
        return struct.pack(">I", len(content)) + checked + struct.pack(">I", zlib.crc32(checked))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = chunk(b"IDAT", zlib.compress(scanlines, 0))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + pixels + chunk(b"IEND", b"")


# Broken files


def photos_with(folder, broken):
    """800 small images in one folder, some of them replaced by one of four kinds of broken files.

    Returns:
        The names of the broken ones.
    """
    folder.mkdir()
    places = np.random.default_rng(1).permutation(800)[:broken].tolist()
    kinds = {place: number % 4 for number, place in enumerate(places)}
    jpeg = encoded(next(noise(1, 12, 12, 3)), "JPEG", quality=95)
    bad = {
        0: jpeg[: len(jpeg) * 3 // 4],
        1: b"",
        2: b"to be done",
        3: png(30_000, 30_000, bytes(100)),
    }
    for i, pixels in enumerate(noise(800, 12, 12, 3)):
        kind = kinds.get(i)
        jpeg = kind == 0 if kind is not None else i % 2
        content = encoded(pixels, "JPEG" if jpeg else "PNG") if kind is None else bad[kind]
        (folder / f"{i:03}.{'jpg' if jpeg else 'png'}").write_bytes(content)
    return {f"{place:03}.{'png' if kind else 'jpg'}" for place, kind in kinds.items()}


@pytest.fixture(scope="module")
def few_broken(tmp_path_factory):
    folder = tmp_path_factory.mktemp("few") / "photos"
    return folder, photos_with(folder, broken=4)


@pytest.fixture(scope="module")
def many_broken(tmp_path_factory):
    folder = tmp_path_factory.mktemp("many") / "photos"
    return folder, photos_with(folder, broken=40)


@pytest.fixture
def cache_home(tmp_path, monkeypatch):
    monkeypatch.setattr(cache, "HF_HOME", str(tmp_path / "home"))
    return tmp_path / "home" / "effssl" / "decoded"


NAMED = re.compile(r"(\d{3}\.(?:jpg|png))(?: \([^)]*\))?: ")  # 123.png (row 123): what is wrong
# every image is met: 80 divides 800
SMALL = {"img_size": 16, "batch_size": 80, "epochs": 1, "log_every": 5}
READ = pytest.mark.parametrize(
    "read",
    [
        {},
        {"cache_gb": 0.0, "workers": 0},
        {"cache_gb": 0.0, "workers": 1},
        {"streaming": True, "workers": 0},
        {"streaming": True, "workers": 1},
    ],
    ids=["cached", "decoded", "decoded by a worker", "streamed", "streamed by a thread"],
)


@READ
def test_half_a_percent_of_broken_files_is_named_once_and_counted(
    few_broken, tmp_path, cache_home, caplog, read
):
    folder, names = few_broken
    pretrain(folder, tmp_path / "run", **SMALL, **read)
    skipped = [r.getMessage() for r in caplog.records if "skipped a broken" in r.getMessage()]
    found = [NAMED.search(line) for line in skipped]
    assert len(names) == 4 and sorted(name[1] for name in found) == sorted(names)
    reasons = sorted(line[name.end() :] for line, name in zip(skipped, found, strict=True))
    assert "--max-pixels 900000000 reads it" in reasons[0]
    assert reasons[1].startswith("image file is truncated")
    assert reasons[2] == reasons[3] == "not an image of a known format"
    lines = metrics(tmp_path / "run")
    assert [line["step"] for line in lines] == [5, 10]
    assert lines[0]["broken"] <= lines[1]["broken"] == 4


@READ
def test_five_percent_of_broken_files_stop_the_run(many_broken, tmp_path, cache_home, read):
    folder, names = many_broken
    with pytest.raises(
        ValueError, match="of the 800 images cannot be read so far, which is more"
    ) as info:
        pretrain(folder, tmp_path / "run", **SMALL, **read)
    check_message(str(info.value), names)
    assert not (tmp_path / "run" / "checkpoints").exists()
    assert not (tmp_path / "run" / "model").exists()
    if not read:
        assert not (tmp_path / "run").exists()
        assert [path.suffix for path in cache_home.iterdir()] == [".lock"]


def check_message(message, names):
    """It counts the broken files met so far and names the first ten."""
    count = int(re.match(r"(\d+) of the 800 images", message)[1])
    assert 8 < count <= 40
    named = NAMED.findall(message)
    assert len(set(named)) == len(named) == min(10, count) and names.issuperset(named)
    assert (f"; and {count - 10} more" in message) == (count > 10)


@READ
def test_max_broken_lets_five_percent_through(many_broken, tmp_path, cache_home, read):
    folder, names = many_broken
    pretrain(folder, tmp_path / "run", max_broken=0.05, **SMALL, **read)
    assert metrics(tmp_path / "run")[-1]["broken"] == len(names) == 40


def test_five_percent_of_broken_files_are_one_line_and_exit_code_2(many_broken, tmp_path):
    folder, names = many_broken
    flags = "--backbone test_resnet --img-size 16 --preset cifar --projector-dim 16 --views 2 --cpu"
    result = subprocess.run(
        [sys.executable, "-m", "effssl.cli", "pretrain", *flags.split()]
        + ["--dataset", str(folder), "--output", str(tmp_path / "run")],
        env=os.environ | {"HF_HOME": str(tmp_path / "home")},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == 2 and result.stdout == ""
    (error,) = [line for line in result.stderr.splitlines() if line.startswith("effssl: error: ")]
    check_message(error.removeprefix("effssl: error: "), names)
    assert result.stderr.endswith(f"{error}\n") and "Traceback" not in result.stderr
    assert not (tmp_path / "run").exists()
    assert not [p for p in (tmp_path / "home" / "effssl" / "decoded").iterdir() if p.is_dir()]


# Every kind of source


def write_jpegs(folder, images=60, side=40):
    folder.mkdir()
    for i, pixels in enumerate(noise(images, side, side + 10, 3)):
        (folder / f"{i:04}.jpg").write_bytes(encoded(pixels, "JPEG"))


def write_tar(folder, images=60):
    folder.mkdir()
    with tarfile.open(folder / "shard.tar", "w") as archive:
        for i, pixels in enumerate(noise(images, 30, 40, 3)):
            for suffix, content in {"jpg": encoded(pixels, "JPEG"), "cls": b"%d" % (i % 3)}.items():
                info = tarfile.TarInfo(f"{i:04}.{suffix}")
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))


def write_npy(folder, images=60):
    folder.mkdir()
    for i, pixels in enumerate(noise(images, 5, 36, 40, dtype=np.uint16)):
        np.save(folder / f"{i:04}.npy", pixels)


def array_rows(images=60):
    features = Features({"bands": Array3D((5, 36, 40), "uint16")})
    return Dataset.from_dict(
        {"bands": list(noise(images, 5, 36, 40, dtype=np.uint16))}, features=features
    )


def write_array_parquet(folder):
    folder.mkdir()
    array_rows().to_parquet(folder / "train.parquet", batch_size=25)


def write_array_disk(folder):
    array_rows().save_to_disk(folder)


def write_parquet(folder, images=60, shards=3, row_group=5):
    """Random pixels as PNG, 3 kB each, in shards of several row groups."""
    folder.mkdir()
    pixels = (np.pad(rows, ((0, 0), (1, 0))) for rows in noise(images, 32, 3 * 32))
    for shard in range(shards):
        rows = [
            {"bytes": png(32, 32, next(pixels).tobytes()), "path": None}
            for _ in range(images // shards)
        ]
        file = folder / f"train-{shard:03}.parquet"
        features = Features({"image": Image()})
        Dataset.from_dict({"image": rows}, features=features).to_parquet(file, batch_size=row_group)
        groups = pq.read_metadata(file).num_row_groups
        assert groups == -(-len(rows) // row_group) > 1


BANDS = {"in_chans": 5, "preset": "multispectral"}
STREAM = {"streaming": True}


@pytest.mark.parametrize(
    "write, flags",
    [
        (write_jpegs, {}),
        (write_jpegs, STREAM),
        (write_jpegs, {"in_chans": 1, "preset": "grey"}),
        (write_tar, {}),
        (write_tar, STREAM),
        (write_npy, BANDS),
        (write_npy, BANDS | STREAM),
        (write_array_parquet, BANDS),
        (write_array_parquet, BANDS | STREAM),
        (write_array_disk, BANDS),
        (write_array_disk, BANDS | STREAM),
        (write_parquet, {}),
        (write_parquet, STREAM),
    ],
    ids=lambda value: value.__name__ if callable(value) else "-".join(value),
)
def test_every_kind_of_source_trains_two_epochs(tmp_path, write, flags):
    write(tmp_path / "data")
    check_run(tmp_path, 2 * 60 // 20, **flags)


def check_run(tmp_path, steps, **flags):
    """Train two epochs; every step was done and the model takes images of these channels."""
    folder = pretrain(tmp_path / "data", tmp_path / "run", **flags)
    lines = metrics(tmp_path / "run")
    assert lines[-1]["step"] == steps and lines[-1]["epoch"] == 2 and lines[-1]["broken"] == 0
    assert all(np.isfinite(line["loss"]) and line["views_per_s"] > 0 for line in lines)
    model = effssl.from_pretrained(folder)
    features = model(torch.rand(2, flags.get("in_chans", 3), 32, 32))
    assert features.shape == (2, model.num_features) and features.isfinite().all()


@pytest.mark.slow
@pytest.mark.parametrize("flags", [{}, STREAM], ids=["map", "stream"])
def test_two_thousand_photos_of_500_pixels_train_two_epochs(tmp_path, flags):
    write_jpegs(tmp_path / "data", images=2000, side=500)
    check_run(tmp_path, 2 * 2000 // 50, batch_size=50, log_every=10, **flags)


@pytest.fixture(scope="module")
def fashion_mnist(tmp_path_factory):
    if not FASHION_MNIST.is_dir():
        pytest.skip(f"no {FASHION_MNIST}: install Debian's package dataset-fashion-mnist")
    folder = tmp_path_factory.mktemp("fashion-mnist")
    subprocess.run([sys.executable, CONVERT, folder], check=True, timeout=300)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("flags", [{}, STREAM], ids=["map", "stream"])
def test_the_whole_of_fashion_mnist_trains_two_epochs(fashion_mnist, tmp_path, flags):
    (tmp_path / "data").symlink_to(fashion_mnist)
    grey = {"in_chans": 1, "preset": "grey", "batch_size": 250, "log_every": 40}
    check_run(tmp_path, 2 * 60_000 // 250, **grey, **flags)


# Streams


def test_an_interrupted_stream_ends_with_the_same_weights_by_any_workers(tmp_path, monkeypatch):
    write_parquet(tmp_path / "data")
    config = {"streaming": True, "batch_size": 10, "workers": 0}
    first = tmp_path / "whole"
    whole = pretrain(tmp_path / "data", first, **config)
    for workers, killed_at in ((0, 8), (2, 11)):  # the second epoch has steps 7 to 12
        run = tmp_path / f"{workers} {killed_at}"
        with monkeypatch.context() as patch:
            kill(patch, "step", killed_at)
            with pytest.raises(Killed):
                pretrain(tmp_path / "data", run, **config)
        again = pretrain(tmp_path / "data", run, **(config | {"workers": workers}), resume=True)
        for name in ("model.safetensors", "projector.safetensors"):
            assert (again / name).read_bytes() == (whole / name).read_bytes()
        steps = [[(line["step"], line["loss"]) for line in metrics(r)] for r in (first, run)]
        assert steps[0] == steps[1] and len(steps[0]) == 12


def peak_megabytes(data, what):
    result = subprocess.run(
        [sys.executable, HERE / "streamed_memory.py", data, what],
        env=os.environ | {"ARROW_DEFAULT_MEMORY_POOL": "system"},  # keeps less of what is freed
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr
    return float(result.stdout)


def megabytes(folder):
    return sum(file.stat().st_size for file in folder.iterdir()) / 1e6


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
@pytest.mark.parametrize("train", [False, True], ids=["read", "trained"])
@pytest.mark.slow
def test_the_memory_of_a_stream_does_not_grow_with_the_data(tmp_path, train):
    small, large = tmp_path / "small", tmp_path / "large"
    write_parquet(small, 6_000, shards=12, row_group=100)  # the shuffle buffer holds 4,096
    write_parquet(large, 24_000, shards=48, row_group=100)
    assert megabytes(large) - megabytes(small) > 50
    peaks = [
        peak_megabytes(data, str(tmp_path / f"{data.name}-run") if train else "read")
        for data in (small, large)
    ]
    assert peaks[1] - peaks[0] < 20, peaks


@pytest.mark.parametrize("kind", ["dataset", "paths", "pictures", "arrays", "path"])
def test_objects_are_a_data_set(tmp_path, kind):
    files = [tmp_path / "images" / f"{i:02}.png" for i in range(40)]
    files[0].parent.mkdir()
    # small enough not to be shrunk, which differs by a rounding between arrays and files
    pictures = [PILImage.fromarray(pixels) for pixels in noise(40, 36, 36, 3)]
    for file, picture in zip(files, pictures, strict=True):
        picture.save(file)
    data = {
        "dataset": lambda: Dataset.from_dict({"image": pictures}),
        "paths": lambda: files,
        "pictures": lambda: pictures,
        "arrays": lambda: np.stack([np.asarray(picture) for picture in pictures]),
        "path": lambda: tmp_path / "images",
    }[kind]()
    run = {"output": str(tmp_path / "run"), "evaluate_every": 0}
    effssl.pretrain(PretrainConfig(**TINY | {"dataset": data} | run))
    effssl.pretrain(PretrainConfig(**TINY | {"dataset": data, "resume": True} | run))
    again = {"output": str(tmp_path / "again"), "evaluate_every": 0}
    folder = effssl.pretrain(PretrainConfig(**TINY | {"dataset": str(tmp_path / "images")} | again))
    assert metrics(tmp_path / "run")[-1]["loss"] == metrics(tmp_path / "again")[-1]["loss"]
    assert "in memory" not in (folder / "training.json").read_text()
    said = PretrainConfig.load(tmp_path / "run" / "config.json").dataset
    assert said == (str(data) if kind == "path" else "(objects in memory)")


def test_what_is_no_data_set_is_named(tmp_path):
    for wrong in ({"a": 1}, [b"bytes"]):
        with pytest.raises(TypeError, match="is no data set|item 0 of the list"):
            effssl.pretrain(PretrainConfig(**TINY | {"dataset": wrong, "output": str(tmp_path)}))
