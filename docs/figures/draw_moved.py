"""Draw docs/figures/fashion-mnist-moved.png, a column for each class.

    python docs/figures/draw_moved.py

The first row has originals, the second the same objects moved, and the others four more of each
class.
"""

from pathlib import Path

import numpy as np
from PIL import Image

from effssl.data import Source, load_source
from effssl.local import MOVED_SAMPLE, SAMPLE

ZOOM, GAP = 2, 4
PICTURE = Path(__file__).with_name("fashion-mnist-moved.png")


def draw() -> Image.Image:
    """Draw the picture."""
    aligned = load_source(SAMPLE, "train[:500]", in_chans=1)
    moved = load_source(MOVED_SAMPLE, "train[:500]", in_chans=1)
    labels = np.array(moved.labels())
    columns = [
        [_cell(aligned, rows[0])] + [_cell(moved, row) for row in rows[:5]]
        for rows in (np.flatnonzero(labels == label) for label in range(10))
    ]
    height, width = np.array(columns[0]).shape[1:]
    picture = Image.new("L", (10 * (width + GAP) + GAP, 6 * (height + GAP) + GAP), "white")
    for x, column in enumerate(columns):
        for y, cell in enumerate(column):
            place = (GAP + x * (width + GAP), GAP + y * (height + GAP))
            picture.paste(Image.fromarray(cell), place)
    return picture


def _cell(source: Source, row: int) -> np.ndarray:
    pixels = source[int(row)][0][0].numpy()
    margin = (32 - len(pixels)) // 2
    return np.pad(pixels, margin).repeat(ZOOM, 0).repeat(ZOOM, 1)


if __name__ == "__main__":
    draw().save(PICTURE, optimize=True)
