"""Any image source as a ``datasets.Dataset`` with its image and label columns found."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datasets import Dataset

SAMPLE = "fashion-mnist-sample"
_SAMPLE_FOLDER = Path(__file__).parent / "sample"
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_LABEL_NAMES = ("label", "labels", "class", "target", "fine_label")
_PIL_MODES = {1: "L", 3: "RGB", 4: "RGBA"}


@dataclass(frozen=True)
class Source:
    """An image data set and what its columns mean.

    Attributes:
        dataset: The rows; ``dataset[i][image_column]`` is a PIL image in the mode asked for.
        image_column: Name of the column with the images.
        label_column: Name of the column with integer class labels, or None.
    """

    dataset: Dataset
    image_column: str
    label_column: str | None

    def labels(self) -> list[int]:
        """The class of every image, in order.

        Raises:
            ValueError: If there is no label column, or it holds anything but classes from 0.
        """
        if self.label_column is None:
            raise ValueError(
                f"the data set has no label column among {self.dataset.column_names}: "
                "name one with label_column"
            )
        labels = self.dataset[self.label_column][:]
        wrong = [label for label in labels if not isinstance(label, int) or label < 0]
        if wrong:
            raise ValueError(
                f"label column {self.label_column!r} holds {wrong[0]!r}; classes are whole numbers "
                "from 0"
            )
        return labels


def pil_mode(in_chans: int) -> str:
    """Pillow's mode of images with so many channels.

    Raises:
        ValueError: If Pillow has none.
    """
    if in_chans not in _PIL_MODES:
        raise ValueError(
            f"in_chans={in_chans}: image files are read as 1 (grey), 3 (RGB) or 4 (RGBA) channels"
        )
    return _PIL_MODES[in_chans]


def load_source(
    dataset: str = SAMPLE,
    split: str = "train",
    *,
    in_chans: int = 3,
    image_column: str | None = None,
    label_column: str | None = None,
) -> Source:
    """Open a data set of images.

    Args:
        dataset: ``fashion-mnist-sample`` (10,000 training and 2,000 test images that come with the
            package), a folder of images (class subfolders become labels), a parquet file or
            folder, a folder written by ``Dataset.save_to_disk``, or a Hub id such as
            ``uoft-cs/cifar10``.
        split: ``train``, ``test`` or any split expression of ``datasets``, such as ``train[:10%]``.
        in_chans: Images are converted to 1 (grey), 3 (RGB) or 4 (RGBA) channels.
        image_column: Column with the images; found by its type if None.
        label_column: Column with integer labels; found by type, then by name, if None.

    Raises:
        FileNotFoundError: If nothing is found under the name.
        ValueError: If the split or a column does not exist, or there are no images.
    """
    from datasets import Image

    mode = pil_mode(in_chans)
    rows = _open(dataset, split)
    if len(rows) == 0:
        raise ValueError(f"data set {dataset!r}, split {split!r}, is empty")
    image_column = _image_column(rows, image_column)
    label_column = _label_column(rows, label_column)
    keep = [image_column] + ([label_column] if label_column else [])
    rows = rows.select_columns(keep).cast_column(image_column, Image(mode=mode))
    return Source(rows, image_column, label_column)


def _open(dataset: str, split: str) -> Dataset:
    from datasets.data_files import EmptyDatasetError
    from datasets.exceptions import DataFilesNotFoundError, DatasetNotFoundError

    try:
        return _read(dataset, split)
    except DatasetNotFoundError as error:
        raise FileNotFoundError(
            f"no data set {dataset!r}: no such file or folder here, and the Hub says: {error}"
        ) from error
    except ConnectionError as error:
        raise FileNotFoundError(
            f"no data set {dataset!r}: no such file or folder here, and the Hub cannot be reached"
        ) from error
    except (DataFilesNotFoundError, EmptyDatasetError) as error:
        raise FileNotFoundError(f"no images or parquet files in {dataset!r}: {error}") from error
    except ValueError as error:
        raise ValueError(f"data set {dataset!r}, split {split!r}: {error}") from error
    except IndexError as error:  # what datasets makes of a save_to_disk folder without rows
        raise ValueError(f"data set {dataset!r}, split {split!r}, is empty") from error


def _read(dataset: str, split: str) -> Dataset:
    from datasets import load_dataset, load_from_disk

    path = _SAMPLE_FOLDER if dataset == SAMPLE else Path(dataset).expanduser()
    if (path / "dataset_dict.json").is_file():
        splits = load_from_disk(path)
        if split not in splits:
            raise ValueError(f"there is no such split; there are {list(splits)}")
        return splits[split]
    if (path / "state.json").is_file():
        return load_from_disk(path)
    if path.suffix == ".parquet" and path.is_file():
        return load_dataset("parquet", data_files={"train": str(path)}, split=split)
    if path.is_file():
        raise ValueError("a file must be .parquet; images go in a folder")
    if path.is_dir():
        # absolute, or a folder called "parquet" would be taken for the reader of that name
        return load_dataset(str(path.resolve()), split=split)
    if not _HUB_ID.fullmatch(dataset):
        raise FileNotFoundError(
            f"no data set at {dataset!r}: there is no such file or folder, and a Hub id is "
            "owner/name"
        )
    return load_dataset(dataset, split=split)


def _image_column(rows: Dataset, name: str | None) -> str:
    from datasets import Image

    images = [column for column, kind in rows.features.items() if isinstance(kind, Image)]
    if name is not None:
        if name not in images:
            raise ValueError(f"image_column {name!r} is not among the image columns {images}")
        return name
    if len(images) != 1:
        raise ValueError(
            f"the data set has {len(images)} image columns {images} among {rows.column_names}: "
            "name the one to use with image_column"
        )
    return images[0]


def _label_column(rows: Dataset, name: str | None) -> str | None:
    from datasets import ClassLabel

    if name is not None:
        if name not in rows.column_names:
            raise ValueError(f"label_column {name!r} is not among the columns {rows.column_names}")
        return name
    classes = [column for column, kind in rows.features.items() if isinstance(kind, ClassLabel)]
    named = [column for column in _LABEL_NAMES if column in rows.column_names]
    return next(iter(classes if len(classes) == 1 else named), None)
