"""Spectra: values by hand, formulas typed again, and what must not change them."""

import json
import math

import numpy as np
import pytest
import torch

from effssl.evaluation import (
    effective_rank,
    eigenvalues,
    power_law,
    rankme,
    spectrum,
    unit_std,
)


def normal(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def even(rows, width):
    """Centered features all of whose min(rows - 1, width) singular values are the same."""
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


@pytest.mark.parametrize("alpha", [0.5, 1.0, 2.0])
def test_alpha_of_a_power_law_is_its_exponent(alpha):
    decay = torch.arange(1, 257, dtype=torch.float64) ** -alpha
    fit = power_law(7 * decay)
    assert fit.alpha == pytest.approx(alpha, rel=1e-9) and fit.r2 == pytest.approx(1)
    assert (fit.first, fit.last, fit.scale) == (11, 100, pytest.approx(7))
    # of a sample, whose tail is not that of the distribution
    features = normal(20_000, 256) * decay.sqrt()
    assert spectrum(features).power_law.alpha == pytest.approx(alpha, rel=0.02)


def test_the_fit_is_least_squares_with_weights_of_one_over_the_rank():
    values = torch.arange(1, 201, dtype=torch.float64) ** -1.3 * (1 + 0.2 * normal(200).tanh())
    values = values.sort(descending=True).values
    fit = power_law(values)
    rank = np.arange(11, 101)
    y = np.log(values.numpy()[10:100])
    slope, intercept = np.polyfit(np.log(rank), y, 1, w=1 / np.sqrt(rank))
    assert (-fit.alpha, math.log(fit.scale)) == pytest.approx((slope, intercept))
    rest = y - slope * np.log(rank) - intercept
    r2 = 1 - np.sum(rest**2 / rank) / np.sum((y - np.average(y, weights=1 / rank)) ** 2 / rank)
    assert fit.r2 == pytest.approx(r2) and 0.5 < fit.r2 < 1


@pytest.mark.parametrize("width, ranks", [(400, (11, 100)), (96, (5, 48)), (16, (1, 8))])
def test_narrow_features_are_fitted_over_fewer_ranks(width, ranks):
    fit = power_law(torch.arange(1, width + 1, dtype=torch.float64) ** -1.0)
    assert (fit.first, fit.last) == ranks and fit.alpha == pytest.approx(1)


def test_features_on_a_line_or_of_no_spread_have_no_alpha():
    line = normal(50, 1) @ normal(1, 30)
    assert spectrum(line).power_law is None
    nothing = spectrum(torch.ones(50, 30))
    assert nothing.power_law is None and nothing.effective_rank == 0
    assert nothing.record()["alpha"] is None and nothing.record()["alpha_fit"] is None


def rankme_in_numpy(features):
    """Equation 1 of arXiv:2210.02885."""
    values = np.linalg.svd(features, compute_uv=False)
    shares = values / np.abs(values).sum() + 1e-7
    return np.exp(-np.sum(shares * np.log(shares)))


@pytest.mark.parametrize("rows, width", [(50, 9), (9, 50), (200, 30)])
def test_rankme_is_the_papers(rows, width):
    features = normal(rows, width) @ torch.diag(torch.linspace(1, 0.01, width).double()) + 0.3
    assert rankme(features) == pytest.approx(rankme_in_numpy(features.numpy()), rel=1e-6)


def test_rankme_of_an_isotropic_gaussian_is_its_dimension():
    assert rankme(normal(20_000, 32)) == pytest.approx(32, rel=0.001)
    assert rankme(even(200, 32)) == pytest.approx(32, rel=1e-4)
    assert rankme(normal(200, 1) @ normal(1, 32)) == pytest.approx(1, abs=1e-3)


def test_a_spectrum_holds_every_measure_and_its_record_is_json():
    features = normal(300, 128) * torch.linspace(2, 0.1, 128) + 1
    found = spectrum(features.float())
    assert (found.images, found.width) == (300, 128)
    assert found.rankme == pytest.approx(rankme(features), rel=1e-4)
    assert found.effective_rank == pytest.approx(effective_rank(features), rel=1e-4)
    assert found.std == pytest.approx(unit_std(features), rel=1e-4)
    record = json.loads(json.dumps(found.record()))
    assert record["rank"][0] == 1 and record["rank"][-1] == 128 and len(record["rank"]) <= 60
    for rank, value in zip(record["rank"], record["eigenvalue"], strict=True):
        assert value == pytest.approx(found.eigenvalues[rank - 1].item(), rel=1e-3)


def test_what_cannot_be_measured_is_said():
    with pytest.raises(ValueError, match=r"of 2 images or more are wanted, got \(1, 4\)"):
        spectrum(torch.ones(1, 4))
    with pytest.raises(ValueError, match="the features are not finite"):
        spectrum(torch.full((5, 4), torch.nan))
