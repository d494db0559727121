"""Data and reference of a scale of examples/reproduce whose runs take seconds."""

import effssl
from effssl.data import load_source


def tiny_reference(folder):
    """Return a configuration on 60 + 30 images, which are written to a folder."""
    folder.mkdir()
    for split, rows in {"train": "train[:60]", "test": "test[:30]"}.items():
        images = load_source("fashion-mnist-sample", rows, in_chans=1).dataset
        images.to_parquet(folder / f"{split}.parquet")
    return effssl.PretrainConfig(
        backbone="test_resnet",
        in_chans=1,
        img_size=32,
        preset="grey",
        projector_dim=8,
        views=2,
        dataset=str(folder),
        batch_size=20,
        epochs=2,
        evaluate_every=0,
        cpu=True,
    )
