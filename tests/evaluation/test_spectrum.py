"""effective_rank and unit_std: values by hand, and what must not change them."""

import math

import numpy as np
import pytest
import torch

from effssl.evaluation.spectrum import effective_rank, eigenvalues, unit_std


def normal(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def even(rows, width):
    """Centred features all of whose min(rows - 1, width) singular values are the same."""
    frame = torch.linalg.qr(torch.cat([torch.ones(rows, 1), normal(rows, rows - 1)], dim=1)).Q
    rank = min(rows - 1, width)
    return frame[:, 1 : rank + 1] @ torch.linalg.qr(normal(width, width)).Q[:rank]


def rank_in_numpy(features):
    """Roy and Vetterli's definition, of the features less their mean."""
    values = np.linalg.svd(features - features.mean(0), compute_uv=False)
    shares = values / values.sum()
    shares = shares[shares > 0]
    return math.exp(-sum(share * math.log(share) for share in shares))


@pytest.mark.parametrize("rows, width", [(50, 9), (9, 50), (30, 30)])
def test_features_on_a_line_have_rank_one(rows, width):
    line = normal(rows, 1) @ normal(1, width)
    assert effective_rank(line) == pytest.approx(1, abs=1e-4)
    assert effective_rank((line + 3).float()) == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("rows, width", [(50, 9), (9, 50), (30, 30), (2, 5)])
def test_features_that_spread_evenly_have_the_largest_rank(rows, width):
    features = even(rows, width)
    assert effective_rank(features) == pytest.approx(min(rows - 1, width), rel=1e-6)


def test_two_singular_values_of_three_to_one():
    corners = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
    features = corners * torch.tensor([3.0, 1.0])
    by_hand = math.exp(0.75 * math.log(4 / 3) + 0.25 * math.log(4))
    assert effective_rank(features) == pytest.approx(by_hand)
    assert rank_in_numpy(features.numpy()) == pytest.approx(by_hand)


@pytest.mark.parametrize("rows, width", [(40, 12), (12, 40)])
def test_effective_rank_is_that_of_the_singular_values(rows, width):
    features = normal(rows, width) * torch.logspace(0, -2, width)
    assert effective_rank(features) == pytest.approx(rank_in_numpy(features.numpy()), rel=1e-5)


@pytest.mark.parametrize("value", [0.0, 0.1, 1e4])
@pytest.mark.parametrize("rows, width", [(7, 5), (10, 300)])
def test_features_that_are_all_the_same_have_no_rank_and_no_spread(rows, width, value):
    features = torch.full((rows, width), value)
    assert effective_rank(features) == 0
    assert unit_std(features) == pytest.approx(0, abs=1e-6)


def test_effective_rank_keeps_under_rotation_shift_and_scale():
    features = normal(40, 12) * torch.arange(1.0, 13)
    rotation = torch.linalg.qr(normal(12, 12, seed=1)).Q
    rank = effective_rank(features)
    for moved in (features @ rotation, features + 5, 1e3 * features, features[torch.randperm(40)]):
        assert effective_rank(moved) == pytest.approx(rank, rel=1e-6)


def test_unit_std_of_even_directions_is_one():
    assert unit_std(normal(4000, 512)) == pytest.approx(1, abs=0.01)
    assert unit_std(1e-3 * normal(4000, 512)) == pytest.approx(1, abs=0.01)


def test_unit_std_of_features_beside_a_common_one():
    # directions (c, noise) / sqrt(c^2 + F): the noise keeps F / (c^2 + F) of the variance
    features = normal(4000, 512)
    features[:, 0] = 512**0.5 * 3
    assert unit_std(features) == pytest.approx((1 / 10) ** 0.5, abs=0.01)


def test_unit_std_sees_directions_only():
    length = normal(50, 1).abs() + 0.1
    assert unit_std(length * normal(1, 8)) == pytest.approx(0, abs=1e-6)


def test_eigenvalues_are_those_of_numpys_covariance_largest_first():
    features = normal(50, 6) @ torch.diag(torch.tensor([3.0, 1, 4, 1, 5, 9]).double()) + 7
    expected = np.linalg.eigvalsh(np.cov(features.numpy().T, bias=True))[::-1]
    np.testing.assert_allclose(eigenvalues(features.float()), expected, rtol=1e-5)
    assert (eigenvalues(normal(3, 6)) >= 0).all()
