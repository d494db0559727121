"""Columns of arrays and npy files are images of any number of channels."""

import numpy as np
import pytest
from datasets import Array3D, Dataset, Features, List, Value
from layouts import check, noise

from effssl.data import load_source
from effssl.data._decode import BrokenImage, decode_image


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "bool", "float32"])
@pytest.mark.parametrize("channels_last", [False, True])
def test_columns_of_arrays(tmp_path, dtype, channels_last):
    high = {"uint8": 256, "uint16": 65536}.get(dtype, 2)
    arrays = noise(3, 6, 8, 9, dtype=dtype, high=high)
    scale = {"uint8": 1, "uint16": 1 / 257}.get(dtype, 255)
    expected = [np.rint(array.astype(float) * scale) for array in arrays]
    if channels_last:
        arrays = [np.moveaxis(array, 0, -1) for array in arrays]
    columns = {"x": arrays, "label": [2, 0, 1]}
    fixed = {"x": Array3D(arrays[0].shape, dtype), "label": Value("int64")}
    nested = {"x": List(List(List(Value(dtype)))), "label": Value("int64")}
    for name, features in (("fixed", fixed), ("nested", nested)):
        data = Dataset.from_dict(columns, Features(features))
        data.to_parquet(tmp_path / f"{name}.parquet")
        data.save_to_disk(tmp_path / name)
        for path in (tmp_path / f"{name}.parquet", tmp_path / name):
            check(path, expected, [2, 0, 1], in_chans=6, image_column="x")
    check(tmp_path / "fixed", expected, [2, 0, 1], in_chans=6)
    with pytest.raises(ValueError, match=r"fixed': an array of shape .* does not have in_chans=3"):
        load_source(str(tmp_path / "fixed"))
    with pytest.raises(ValueError, match="0 image columns"):
        load_source(str(tmp_path / "nested"), in_chans=6)


def test_arrays_of_many_sizes_and_one_that_is_none(tmp_path):
    arrays = [noise(1, 8 + i, 9, 2, dtype=np.uint16, high=65536)[0] for i in range(3)]
    kind = Array3D((None, 9, 2), "uint16")
    Dataset.from_dict({"x": arrays}, Features(x=kind)).save_to_disk(tmp_path / "sizes")
    check(
        tmp_path / "sizes",
        [np.moveaxis((a.astype(int) + 128) // 257, -1, 0) for a in arrays],
        in_chans=2,
    )
    nested = [arrays[0].tolist(), None, [[[1, 2]], [[3]]]]
    data = Dataset.from_dict({"x": nested}, Features(x=List(List(List(Value("uint16"))))))
    data.to_parquet(tmp_path / "x.parquet")
    for streaming in (False, True):
        name = str(tmp_path / "x.parquet")
        source = load_source(name, in_chans=2, image_column="x", streaming=streaming)
        values = [row["x"] for row in source.dataset]
        assert decode_image(values[0], 2).shape == (2, 8, 9)
        for value in values[1:]:
            with pytest.raises(BrokenImage):
                decode_image(value, 2)


def test_folders_and_patterns_of_npy_files(tmp_path):
    images = noise(6, 5, 8, 9)
    for i, image in enumerate(images):
        file = tmp_path / "flat" / f"{i}.npy"
        file.parent.mkdir(exist_ok=True)
        np.save(file, image)
        for layout in ("ba"[i % 2], f"{['train', 'val'][i // 4]}/{'ba'[i % 2]}"):
            nested = tmp_path / ("classes" if len(layout) == 1 else "splits") / layout / file.name
            nested.parent.mkdir(parents=True, exist_ok=True)
            np.save(nested, np.moveaxis(image, 0, -1))
    (tmp_path / "flat" / "about.json").write_text("{}")
    by_class = images[1::2] + images[::2]
    check(tmp_path / "flat", images, in_chans=5)
    check(tmp_path / "classes", by_class, [0, 0, 0, 1, 1, 1], in_chans=5)
    check(f"{tmp_path}/classes/**/*.npy", by_class, [0, 0, 0, 1, 1, 1], in_chans=5)
    check(f"{tmp_path}/flat/*.npy", images, in_chans=5)
    train = [images[i] for i in (1, 3, 0, 2)]
    check(tmp_path / "splits", train, [0, 0, 1, 1], in_chans=5)
    check(tmp_path / "splits", [images[5], images[4]], [0, 1], in_chans=5, split="validation")
    assert load_source(str(tmp_path / "flat"), "train[:50%]", in_chans=5).num_images == 3
    with pytest.raises(ValueError, match=r"shape \(5, 8, 9\) does not have in_chans=3"):
        load_source(str(tmp_path / "flat"))


def test_npy_files_that_change_are_other_rows(tmp_path):
    np.save(tmp_path / "x.npy", noise(1, 3, 8, 9)[0])
    before = load_source(str(tmp_path)).digest()
    assert load_source(str(tmp_path)).digest() == before
    np.save(tmp_path / "x.npy", noise(2, 3, 8, 9)[1])
    assert load_source(str(tmp_path)).digest() != before


def test_empty_cells_among_arrays_are_refused(tmp_path):
    features = Features({"image": Array3D((2, 4, 4), "uint8")})
    data = Dataset.from_dict({"image": [np.zeros((2, 4, 4), np.uint8), None]}, features=features)
    data.save_to_disk(tmp_path / "arrays")
    with pytest.raises(ValueError, match="1 cells of the column 'image' are empty"):
        load_source(str(tmp_path / "arrays"), in_chans=2)
