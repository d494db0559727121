"""Small folders of images for the tests: written, and read back."""

import io
import os

from PIL import Image as PILImage

from effssl.data import BrokenImage, decode_image, load_source


def png(value=0):
    file = io.BytesIO()
    PILImage.new("L", (4, 4), value).save(file, "PNG")
    return file.getvalue()


def write(root, *paths):
    """Write an image to each path, gray of its place."""
    for value, path in enumerate(paths):
        file = os.path.join(os.fsencode(root), os.fsencode(path))
        os.makedirs(os.path.dirname(file), exist_ok=True)
        with open(file, "wb") as opened:
            opened.write(png(value))


def read(data, split="train", **options):
    """Return path, gray value and class of every image."""
    source = load_source(data, split, in_chans=1, **options)
    values = [int(decode_image(row["image"], 1).mean()) for row in source.dataset]
    labels = [None] * len(values)
    if source.label_column is not None:
        names = (*source.class_names, None)
        labels = [names[label] for label in source.labels()]
    return list(zip(source.paths(), values, labels, strict=True))


def paths(data, split="train", **options):
    return [path for path, _, _ in read(data, split, **options)]


def classes(data, split="train", **options):
    return [label for _, _, label in read(data, split, **options)]


def broken(data):
    from effssl.data._loader import DecodedImages

    source = load_source(data, in_chans=1)
    images = DecodedImages(source, 8).__getitems__(range(len(source.dataset)))
    return [str(image) for image in images if isinstance(image, BrokenImage)]
