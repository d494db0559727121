"""Small data in each layout, and a check of what load_source reads of it."""

import io
import json
import tarfile

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, Features, Image
from PIL import Image as PILImage

from effssl.data import load_source
from effssl.data._decode import decode_image


def pixels(source):
    return [decode_image(row[source.image_column], source.in_chans) for row in source.dataset]


def check(name, images, labels=None, known=True, **options):
    """Both the map and the stream of a source hold these images, (C, H, W), and labels."""
    source = load_source(str(name), **options)
    stream = load_source(str(name), streaming=True, **options)
    assert (source.streaming, stream.streaming) == (False, True)
    assert source.num_images == len(source.dataset) == len(images) > 0
    assert stream.num_images == (len(images) if known else None)
    for read in (source, stream):
        assert len(pixels(read)) == len(images)
        for image, expected in zip(pixels(read), images, strict=True):
            np.testing.assert_array_equal(image, expected)
        if labels is None:
            assert read.label_column is None
        else:
            assert [row[read.label_column] for row in read.dataset] == labels
    if labels is not None:
        assert source.labels() == labels
        with pytest.raises(ValueError, match="labels need a map-style source"):
            stream.labels()


def png(image, format="PNG"):
    """(C, H, W) as the bytes of an image file."""
    file = io.BytesIO()
    PILImage.fromarray(np.moveaxis(image, 0, -1)).save(file, format)
    return file.getvalue()


def noise(n, *shape, dtype=np.uint8, high=256):
    return list(np.random.default_rng(0).integers(0, high, (n, *shape)).astype(dtype))


def write_tar(path, images, labels, extension="png"):
    with tarfile.open(path, "w") as archive:
        for i, (image, label) in enumerate(zip(images, labels, strict=True)):
            members = {
                extension: image,
                "cls": b"%d" % label,
                "json": json.dumps({"i": i}).encode(),
            }
            for suffix, content in members.items():
                info = tarfile.TarInfo(f"{i:04}.{suffix}")
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))


def rows(n=6, columns=("image",), label="label"):
    images = [PILImage.fromarray(np.full((8, 9), i, np.uint8)) for i in range(n)]
    features = {c: Image() for c in columns} | {label: ClassLabel(names=["a", "b"])}
    return Dataset.from_dict(
        {c: images for c in columns} | {label: [i % 2 for i in range(n)]},
        features=Features(features),
    )
