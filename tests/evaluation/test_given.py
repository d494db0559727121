"""Processes of an extraction or evaluation that were given different things end with one line."""

import os

import pytest
import torch
from forked import launch

import effssl
from effssl.data import load_source
from effssl.evaluation import evaluate


def net(seed=0):
    torch.manual_seed(seed)
    return effssl.create_model("test_resnet", in_chans=1, img_size=32, projector_dim=8).eval()


def given(name, folder):
    """Extract or evaluate with one thing that the second process has another of."""
    other = int(os.environ["RANK"]) if name != "nothing" else 0
    images = 24 + 4 * (name == "images" and other)
    source = load_source(split=f"train[:{images}]", in_chans=1)
    if name == "settings":
        evaluate(net(), source, source, protocols=("knn",), seeds=(other,), k=(1,))
    elif name == "test images":
        other_source = load_source(split=f"test[:{20 + other}]", in_chans=1)
        evaluate(net(), None, other_source, protocols=("spectrum",), seeds=(0,))
    else:
        views = effssl.MultiView("grey", views=1 + other, size=32) if name == "views" else None
        effssl.extract_features(
            net(other if name == "models" else 0),
            source,
            output=folder + (f"{other}.parquet" if name == "outputs" else ".parquet"),
            views=views,
            batch_size=8 + 8 * (name == "batch sizes" and other),
            project=name.startswith("choices") and bool(other),
        )


def attempt(name, folder):
    try:
        given(name, folder)
    except ValueError as error:
        raise SystemExit(f"{type(error).__name__}: {error}") from None


def test_the_same_on_all_processes_passes(tmp_path):
    for fork in launch(tmp_path / "same", 2, attempt, "nothing", str(tmp_path / "x")):
        assert fork.wait() == 0, fork.log()
    assert (tmp_path / "x.parquet").is_file()


def test_what_differs_is_named_by_every_process_and_nothing_is_written(tmp_path):
    names = ["models", "images", "views", "batch sizes", "outputs", "settings", "test images"]
    for i, name in enumerate([*names, "choices of features or projections"]):
        output = str(tmp_path / f"y{i}")
        for fork in launch(tmp_path / f"log{i}", 2, attempt, name, output):
            assert fork.wait() == 1
            assert f"the 2 processes were given different {name}: give the same" in fork.log()
    assert not list(tmp_path.glob("y*"))


def test_a_batch_of_no_images_is_refused():
    for size in (0, -5):
        with pytest.raises(ValueError, match=f"batch_size must be 1 or more; got {size}"):
            effssl.extract_features(
                net(), load_source(split="train[:8]", in_chans=1), batch_size=size
            )
