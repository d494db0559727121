"""lidar, alignment, uniformity: formulas typed again, and cases done by hand."""

import math

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm

from effssl.evaluation import alignment, lidar, uniformity


def views(v=5, n=40, d=6, spread=0.5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(1, n, d, generator=generator, dtype=torch.float64)
    noise = torch.randn(v, n, d, generator=generator, dtype=torch.float64)
    return images + spread * noise


def lidar_in_numpy(x, delta=1e-4, epsilon=1e-6):
    """Section 4 of arXiv:2312.04000, for embeddings (views, images, dimensions)."""
    v, n, d = x.shape
    image_means = x.mean(0)
    mean = image_means.mean(0)
    between, within = np.zeros((d, d)), delta * np.eye(d)
    for i in range(n):
        between += np.outer(image_means[i] - mean, image_means[i] - mean) / n
        for j in range(v):
            within += np.outer(x[j, i] - image_means[i], x[j, i] - image_means[i]) / (n * v)
    root = np.linalg.inv(sqrtm(within))
    values = np.linalg.eigvalsh(root @ between @ root)
    shares = values / np.abs(values).sum() + epsilon
    return np.exp(-np.sum(shares * np.log(shares)))


@pytest.mark.parametrize("shape", [(2, 40, 6), (10, 30, 12)])
def test_lidar_is_the_papers(shape):
    x = views(*shape) * torch.linspace(3, 0.1, shape[2]) + 2
    assert lidar(x) == pytest.approx(lidar_in_numpy(x.numpy()), rel=1e-6)
    assert lidar(x.float()) == pytest.approx(lidar(x), rel=1e-3)


def test_lidar_counts_dimensions_that_tell_images_apart_from_their_views():
    signal = torch.zeros(1, 4000, 8, dtype=torch.float64)
    signal[..., :3] = torch.randn(4000, 3, generator=torch.Generator().manual_seed(0))
    noise = torch.randn(20, 4000, 8, generator=torch.Generator().manual_seed(1)).double()
    assert lidar(30 * signal + noise) == pytest.approx(3, rel=0.02)
    # a collapsed model has nothing to tell
    assert lidar(torch.ones(3, 50, 8)) < 1.01


def test_alignment_by_hand():
    x = torch.tensor([[[1.0, 0.0], [0.0, 2.0]], [[0.0, 3.0], [0.0, 1.0]]])
    assert alignment(x) == pytest.approx((2 + 0) / 2)  # a right angle, and the same direction
    x = torch.tensor([[[1.0, 0.0], [1.0, 0.0]]]).repeat(3, 1, 1)
    x[2] = -5 * x[2]
    assert alignment(x) == pytest.approx((0 + 4 + 4) / 3)
    assert alignment(views(spread=0)) == pytest.approx(0, abs=1e-12)


def test_uniformity_by_hand():
    x = torch.tensor([[2.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
    expected = math.log((2 * math.exp(-2 * 2) + math.exp(-2 * 4)) / 3)
    assert uniformity(x) == pytest.approx(expected, rel=1e-6)
    assert uniformity(torch.ones(5, 3)) == pytest.approx(0, abs=1e-6)
    assert uniformity(views(1, 500, 400)[0]) == pytest.approx(-4, abs=0.1)


@pytest.mark.parametrize("measure", [lidar, alignment])
def test_what_cannot_be_measured_is_said(measure):
    with pytest.raises(ValueError, match=r"2 or more views of 2 or more .* got \(1, 40, 6\)"):
        measure(views(v=1))
    with pytest.raises(ValueError, match="not finite"):
        measure(views() / 0)
