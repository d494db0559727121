"""Labels and paths of the images of a source, in order; what has none says so."""

from dataclasses import replace

import numpy as np
import pytest
from datasets import Array3D, ClassLabel, Dataset, Features, Image, List, Value
from PIL import Image as PILImage

from effssl.data import load_source
from effssl.data.sources import Source


def labeled(labels, kind):
    features = Features({"image": Image(decode=False), "label": kind})
    cells = [{"bytes": None, "path": f"{i}.png"} for i in range(len(labels))]
    rows = Dataset.from_dict({"image": cells, "label": labels}, features=features)
    return Source(rows, "image", "label", 3, len(labels))


@pytest.mark.parametrize("kind", [Value("int64"), Value("int8"), ClassLabel(names=["a", "b", "c"])])
def test_an_image_without_a_label_has_class_minus_one(kind):
    assert labeled([2, None, 0, -1, None], kind).labels() == [2, -1, 0, -1, -1]
    assert labeled([None, None], kind).labels() == [-1, -1]


@pytest.mark.parametrize("kind", [List(Value("int64")), List(ClassLabel(names=["a", "b"]))])
@pytest.mark.parametrize("labels", [[[0, 1], [1]], [None, [0]], [[], [1]]])
def test_several_labels_an_image_are_refused_with_what_can_use_them(kind, labels):
    with pytest.raises(ValueError, match="label column 'label' holds lists.* pretrain.* spectrum"):
        labeled(labels, kind).labels()


def test_other_labels_are_named():
    with pytest.raises(ValueError, match="label column 'label' holds 0.5; "):
        labeled([0.5, 1], Value("float32")).labels()


def test_paths_come_in_the_order_of_the_rows(image_folder):
    source = load_source(str(image_folder))
    every = source.paths()
    assert len(every) == 24 and all(path.endswith(".png") for path in every)
    picked = load_source(str(image_folder), "train[3:9]+train[1:2]")
    assert picked.paths() == [*every[3:9], every[1]]
    # rows of an index, and formats that a cast leaves
    rows = source.dataset.select([5, 2, 2]).cast_column("label", Value("int64"))
    assert replace(source, dataset=rows).paths() == [every[5], every[2], every[2]]


def test_images_without_a_path_have_none(tmp_path):
    assert load_source(split="test[:3]", in_chans=1).paths() == [None] * 3
    features = Features({"bands": Array3D((2, 8, 8), "uint8")})
    arrays = Dataset.from_dict({"bands": np.zeros((4, 2, 8, 8), np.uint8)}, features=features)
    arrays.save_to_disk(tmp_path / "arrays")
    assert load_source(str(tmp_path / "arrays"), in_chans=2).paths() == [None] * 4
    plain = Dataset.from_dict({"image": [b"one", b"two"]})
    assert Source(plain, "image", None, 3, 2).paths() == [None, None]


def test_arrays_in_files_have_the_path_of_the_file(tmp_path):
    for i in range(3):
        np.save(tmp_path / f"{i}.npy", np.zeros((3, 8, 8), np.uint8))
    found = load_source(str(tmp_path)).paths()
    assert [path.rpartition("/")[2] for path in found] == ["0.npy", "1.npy", "2.npy"]


def test_a_stream_has_no_paths_to_list(tmp_path):
    PILImage.new("RGB", (8, 8)).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match="paths need a map-style source"):
        load_source(str(tmp_path), streaming=True).paths()
