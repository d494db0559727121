"""The linear probe beside scikit-learn's logistic regression, with the same L2 and features.

    python benchmarks/linear_probe.py        # about 5 minutes on two cores

Features are raw pixels of the sample's 10,000 images, and 10,000 x 768 of a random network. Both
probes take standardized features and start at zero. Figures are medians of alternating fits.
"""

import statistics
import time

import numpy as np
import sklearn
import torch
import tyro
from sklearn.linear_model import LogisticRegression

import effssl
from effssl.data import load_source
from effssl.data._decode import decode_image
from effssl.evaluation import linear_probe


def pixels(split: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Return raw pixels of the sample, (N, 784), and labels."""
    source = load_source(split=split, in_chans=1)
    images = np.stack([decode_image(value, 1) for value in source.dataset["image"]])
    return torch.from_numpy(images).flatten(1) / 255, torch.tensor(source.labels())


def random_features(split: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Return features of the same images from a random ConvNeXt, (N, 768), and labels."""
    torch.manual_seed(0)
    model = effssl.create_model("convnext_tiny", in_chans=1, img_size=32)
    source = load_source(split=split, in_chans=1)
    return effssl.extract_features(model, source, progress=True), torch.tensor(source.labels())


def main(l2: tuple[float, ...] = (1e-1, 1e-2, 1e-3), repeats: int = 3) -> None:
    """Print one row per kind of features and L2.

    Args:
        l2: Weights of the penalty; scikit-learn's C is 1 / (N l2).
        repeats: Number of fits of each kind.
    """
    print(
        f"torch {torch.__version__}, scikit-learn {sklearn.__version__}, "
        f"{torch.get_num_threads()} threads"
    )
    print("| features | L2 | scikit-learn | effssl | faster | its top-1 | our top-1 |")
    print("|---|--:|--:|--:|--:|--:|--:|")
    kinds = {"pixels, 784": pixels, "random network, 768": random_features}
    for name, kind in kinds.items():
        (train, train_labels), (test, test_labels) = kind("train"), kind("test")
        for weight in l2:
            seconds: dict[str, list[float]] = {"sklearn": [], "effssl": []}
            for _ in range(repeats):
                start = time.perf_counter()
                mean, std = train.mean(0), train.std(0).clamp(min=1e-6)
                reference = LogisticRegression(C=1 / (weight * len(train)), max_iter=1000)
                reference.fit(((train - mean) / std).numpy(), train_labels.numpy())
                theirs = 100 * reference.score(((test - mean) / std).numpy(), test_labels.numpy())
                seconds["sklearn"].append(time.perf_counter() - start)
                start = time.perf_counter()
                probe = linear_probe(train, train_labels, test, test_labels, l2=weight)
                seconds["effssl"].append(time.perf_counter() - start)
            a, b = (statistics.median(times) for times in seconds.values())
            print(
                f"| {name} | {weight:g} | {a:.2f} s | {b:.2f} s | {a / b:.1f}x | {theirs:.2f} | "
                f"{probe.accuracy.top1:.2f} |",
                flush=True,
            )


if __name__ == "__main__":
    tyro.cli(main)
