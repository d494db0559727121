"""examples/augmentation_graph.py: what is called exact is, and what is learned follows theory."""

import importlib
import itertools
import sys
from pathlib import Path

import pytest
import torch

from effssl import losses

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def example():
    """The module of the example."""
    folder = str(ROOT / "examples")
    sys.path.insert(0, folder)
    try:
        yield importlib.import_module("augmentation_graph")
    finally:
        sys.path.remove(folder)


@pytest.fixture(scope="module")
def graph(example):
    return example.Graph.of_classes()


def test_two_images_that_share_a_point_have_the_eigenfunctions_worked_out_by_hand(example):
    """Of the points a, b, c image 1 has a and b, image 2 has b and c: rho is 1/4, 1/2, 1/4.

    T_M f is (f_a + f_b) / 2 at a, (f_a + 2 f_b + f_c) / 4 at b and (f_b + f_c) / 2 at c, so that
    (1, 0, -1) has eigenvalue 1/2 and (1, -1, 1) has 0.
    """
    graph = example.Graph(torch.zeros(3, 2), torch.tensor([[0, 1], [1, 2]]))
    values, functions = graph.spectrum
    f = functions / graph.root
    f = f / f[0]
    torch.testing.assert_close(values, torch.tensor([0.5, 0.0]).double(), atol=1e-12, rtol=0)
    torch.testing.assert_close(f, torch.tensor([[1, 1], [0, -1], [-1, 1]]).double())


def test_all_views_give_the_exact_expectations_of_the_losses(example, graph):
    g, t = 3 * graph.start(5, 1.0), graph.operator
    moments = g.T @ g
    apart = (moments - g.T @ t @ g).trace()
    z = graph.all_views(g)
    expected = apart + 0.7 * (moments - torch.eye(5)).square().sum()
    torch.testing.assert_close(losses.spectral(z, beta=0.7), expected)

    unit = g / (moments.diag() + 1e-5).sqrt()
    c = unit.T @ t @ unit
    on = (1 - c.diag()).square().sum()
    off = c.square().sum() - c.diag().square().sum()
    torch.testing.assert_close(losses.barlow_twins(z, lambd=0.3), on + 0.3 * off)

    covariance = moments * len(z[0]) / (len(z[0]) - 1)
    off = covariance.square().sum() - covariance.diag().square().sum()
    hinge = (1 - (covariance.diag() + 1e-4).sqrt()).relu().mean()
    expected = 4 * 2 * apart / 5 + 4 * hinge + 2 * off / 5
    torch.testing.assert_close(losses.vicreg(z, invariance=4, variance=4), expected)


@pytest.mark.parametrize("weight, used", [(0.12, 3), (0.145, 4), (0.3, 6)])
def test_spectral_learns_the_spectrum_of_its_formula_from_each_threshold_on(
    example, graph, weight, used
):
    values, functions = graph.spectrum
    g = example.minimize(graph, "spectral", weight, 8)
    expected = (1 - (1 - values) / (2 * weight)).clamp(min=0)
    assert int((expected > 0).sum()) == used
    torch.testing.assert_close(example.strengths(graph, g), expected, atol=1e-5, rtol=0)
    assert example.overlap(g, functions[:, :used]) > 0.9999
    assert example.thresholds("spectral", values, 8)[used - 1] < weight
    assert example.thresholds("spectral", values, 8)[used] > weight


def test_spectral_learns_nothing_below_the_first_threshold(example, graph):
    first = example.thresholds("spectral", graph.spectrum[0], 4)[0]
    assert example.minimize(graph, "spectral", 0.5 * first, 4).square().sum() < 1e-3
    assert example.minimize(graph, "spectral", 2 * first, 4).square().sum() > 0.4


@pytest.mark.parametrize(
    "name, dim, weight, used",
    [
        ("bt", 4, 0.008, 3),
        ("bt", 16, 0.008, 4),
        ("bt", 16, 0.1, 8),
        ("vicreg", 4, 0.045, 3),
        ("vicreg", 16, 0.045, 4),
    ],
)
def test_the_other_losses_use_as_many_of_the_top_eigenfunctions_as_their_thresholds_say(
    example, graph, name, dim, weight, used
):
    values, functions = graph.spectrum
    g = example.minimize(graph, name, weight, dim)
    assert example.span(g).shape[1] == used
    assert sum(limit < weight for limit in example.thresholds(name, values, dim)) == used
    assert example.overlap(g, functions[:, :used]) > 0.99


def test_a_wider_projector_needs_a_weaker_weight_of_the_losses_that_fix_the_variance(
    example, graph
):
    values = graph.spectrum[0]
    for k in (2, 3):
        for name in ("bt", "vicreg"):
            needed = [dim * example.thresholds(name, values, dim)[k] for dim in (64, 256, 1024)]
            assert max(needed) < 1.1 * min(needed)
        of_any = [example.thresholds("spectral", values, dim)[k] for dim in (8, 16)]
        assert of_any[0] == of_any[1]


def test_alone_an_eigenfunction_grows_as_a_logistic_curve(example, graph):
    value, u = graph.spectrum[0][2], graph.spectrum[1][:, 2:3]
    end = 1 - (1 - value) / (2 * 0.25)
    for time in (0.5, 3.0, 20.0):
        found = example.flow(graph, 0.1 * u, 0.25, time).square().sum()
        expected = end / (1 + (end / 0.01 - 1) * torch.exp(-8 * 0.25 * end * time))
        torch.testing.assert_close(found, expected)


def test_gradient_descent_follows_the_flow_and_learns_dominant_eigenfunctions_first(example, graph):
    start = graph.start(8, 0.01)
    path = example.descend(graph, "spectral", 0.25, start, 600, lr=0.02)
    found = torch.stack([example.strengths(graph, g)[:4] for g in path])
    exact, g = [], start
    for _ in range(601):
        exact.append(example.strengths(graph, g)[:4])
        g = example.flow(graph, g, 0.25, 0.02)
    assert (found - torch.stack(exact)).abs().max() < 0.03
    end = 1 - (1 - graph.spectrum[0][:4]) / (2 * 0.25)
    half = (found > end / 2).float().argmax(0).tolist()
    assert all(0 < a < b for a, b in itertools.pairwise(half))


@pytest.mark.parametrize("name, weight, lr", [("bt", 0.3, 0.005), ("vicreg", 0.25, 0.02)])
def test_the_others_find_the_top_eigenspace_and_its_weakest_function_last(
    example, graph, name, weight, lr
):
    top = graph.spectrum[1][:, :4]
    path = example.descend(graph, name, weight, graph.start(4, 0.1), 500, lr)
    found = torch.stack([(example.span(g, 0).T @ top).square().sum(0) for g in path])
    learned = (found > 0.9).float().argmax(0).tolist()
    assert 2 * max(learned[:3]) < learned[3]
    assert found[0].mean() < 0.2 and found[-1].mean() > 0.99


@pytest.mark.parametrize("views", [2, 4, 16])
def test_the_error_of_the_spectrum_follows_its_law(example, graph, views):
    values, epochs, draws = graph.spectrum[0], 64, 200
    generator = torch.Generator().manual_seed(1)
    found = [
        example.estimate(graph, example.draw_views(graph, views, epochs, generator))[0][:3]
        for _ in range(draws)
    ]
    error = torch.stack(found) - values[:3]
    law = torch.tensor([example.variance(graph, i, i, views, epochs) for i in range(3)])
    torch.testing.assert_close(error.var(0) / law, torch.ones(3).double(), atol=0.3, rtol=0)
    assert (error.mean(0).square() < 0.25 * law).all()  # the law is all there is to small errors


def test_the_law_lies_between_one_over_the_views_and_one_over_their_pairs(example, graph):
    law = {v: example.variance(graph, 3, 3, v, 1) for v in (2, 4, 8, 512, 1024)}
    assert 2 < law[2] / law[4] < 6  # V, and V (V - 1)
    assert law[512] / law[1024] == pytest.approx(2, rel=0.01)
    assert law[2] * 2 > law[4] * 4 > law[8] * 8  # at equal views more of an image are better
    assert example.variance(graph, 3, 3, 4, 10) == pytest.approx(law[4] / 10)


def test_spectral_on_drawn_views_learns_the_spectrum_of_their_estimate(example, graph):
    drawn = example.draw_views(graph, 4, 2, torch.Generator().manual_seed(2))
    f = graph.start(3, 1.0).requires_grad_()
    optimizer = torch.optim.LBFGS(
        [f], max_iter=500, tolerance_grad=1e-10, tolerance_change=0, line_search_fn="strong_wolfe"
    )

    def closure():
        optimizer.zero_grad()
        loss = losses.spectral(f[drawn], beta=1.0)
        loss.backward()
        return loss

    optimizer.step(closure)
    z = f.detach()[drawn].flatten(0, 1)
    found = torch.linalg.eigvalsh(torch.cov(z.T, correction=0)).flip(0)
    expected = 1 - (1 - example.estimate(graph, drawn)[0][:3]) / 2
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_the_example_prints_its_tables_and_draws_the_figures_of_the_docs(
    example, tmp_path, monkeypatch, capsys
):
    for name, value in {"STEPS": 4, "DRAWS": 2}.items():
        monkeypatch.setattr(example, name, value)
    monkeypatch.syspath_prepend(ROOT / "examples")
    example.main(tmp_path / "figures")
    shown = capsys.readouterr().out
    assert "eigenvalues of T_M: 0.982 0.942 0.840" in shown
    assert "  vicreg    D 16  weight 1 " in shown
    drawn = {file.name for file in (tmp_path / "figures").iterdir()}
    assert len(drawn) == 4
    kept = {file.name: file.stat().st_size for file in (ROOT / "docs/figures").glob("theory-*")}
    assert drawn == set(kept) and max(kept.values()) < 80_000
    assert all(f"(figures/{name})" in (ROOT / "docs/theory.md").read_text() for name in drawn)
