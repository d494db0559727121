"""benchmarks/gpu_budget.py estimates a step of a tiny configuration."""

import importlib
import sys
from pathlib import Path

import pytest


@pytest.fixture
def budget():
    folder = str(Path(__file__).parents[1] / "benchmarks")
    sys.path.insert(0, folder)
    try:
        yield importlib.import_module("gpu_budget")
    finally:
        sys.path.remove(folder)


TINY = "--backbone test_resnet --img-size 32 --views 2 --images 8 --projector-dim 16".split()


@pytest.mark.parametrize(
    "more",
    [
        [],
        ["--micro-batch", "4"],
        ["--precision", "fp32"],
        ["--local-views", "3", "--local-size", "16"],
    ],
)
def test_the_budget_of_a_tiny_step_adds_up(budget, more):
    args = budget.arguments([*TINY, *more])
    costs = budget.estimate(args)
    text, ratio = budget.table(costs, {}, args)
    rows = {line.split("|")[1].strip(): line for line in text.splitlines() if line.startswith("|")}
    assert [name.split(",")[0] for name in rows] == ["stage", "---", *budget.STAGES, "bare"]
    flops = {name: sum(cost.flops for cost in found) for name, found in costs.items()}
    # the same network: a second forward pass in chunks
    passes = 2 if "--micro-batch" in more else 1
    assert flops["forward"] >= passes * flops["bare"] / 3.2
    assert flops["forward"] + flops["backward"] >= flops["bare"]
    assert ratio > 1 and f"step / bare step {ratio:.3f}" in text


def test_a_stage_takes_as_long_as_its_kernels_or_as_launching_them(budget):
    card = budget.Card()
    half, single = budget.torch.bfloat16, budget.torch.float32
    large = budget.Launch("mm", "here", 3 * 10**9, 0, half)
    assert card.seconds(budget.Cost([large])) == pytest.approx(1e-3)
    products = [budget.Launch("mm", "here", 0, 79 * 10**10, half)]
    assert card.seconds(budget.Cost(products)) == pytest.approx(1e-3)
    in_tf32 = [budget.Launch("convolution", "here", 0, 4 * 10**11, single)]
    assert card.seconds(budget.Cost(in_tf32)) == pytest.approx(1e-3)
    tiny = [budget.Launch("add", "here", 10, 0, single)] * 200
    assert card.seconds(budget.Cost(tiny)) == pytest.approx(1e-3)
    assert card.seconds(budget.Cost(tiny, waits=["item here"])) == pytest.approx(1.02e-3)
