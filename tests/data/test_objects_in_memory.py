"""Objects in memory are sources: paths, images, arrays, and data sets."""

import numpy as np
import pytest
from image_folders import read, write
from PIL import Image as PILImage

from effssl.data import load_source


def test_objects_in_memory(tmp_path):
    write(tmp_path, "b.png", "a.png", "caf\udce9.png")
    files = [tmp_path / "b.png", str(tmp_path / "a.png"), str(tmp_path / "caf\udce9.png")]
    assert [value for _, value, _ in read(files)] == [0, 1, 2]  # in the order given
    images = [PILImage.new(mode, (4, 5), color) for mode, color in [("L", 3), ("RGB", (5,) * 3)]]
    assert [value for _, value, _ in read(images)] == [3, 5]
    arrays = np.arange(3, dtype=np.uint8)[:, None, None].repeat(4, 1).repeat(6, 2)
    for data in (arrays, list(arrays), [array[..., None] for array in arrays]):
        assert [value for _, value, _ in read(data)] == [0, 1, 2]
    assert read(images, "train[1:]")[0][1] == 5
    for wrong in (3, {"a": 1}, [b"bytes"], [None], [np.zeros(3)]):
        with pytest.raises(TypeError, match="is no data set|item 0 of the list is"):
            load_source(wrong)
    with pytest.raises(FileNotFoundError, match="no file 'nowhere.png', item 0"):
        load_source(["nowhere.png"])


def test_datasets_in_memory():
    from datasets import Dataset, DatasetDict

    images = [PILImage.new("L", (4, 4), value) for value in range(4)]
    data = Dataset.from_dict({"image": images, "label": ["a", "b", "a", "b"]})
    assert load_source(data, in_chans=1).labels() == [0, 1, 0, 1]
    splits = DatasetDict(train=data.select([0, 1, 2]), test=data.select([3]))
    assert load_source(splits, "test", in_chans=1).num_images == 1
    stream = load_source(data.to_iterable_dataset(), in_chans=1)
    assert stream.streaming and len(list(stream.dataset)) == 4
