"""Losses and sums on real processes: value and gradient are those of one process."""

import processes
import pytest
import torch
from forked import launch, results

from effssl.distributed import all_reduce_sum


@pytest.fixture(scope="module", params=processes.SPLITS)
def found(request, tmp_path_factory) -> list[dict]:
    """Of each process."""
    return results(launch(tmp_path_factory.mktemp("losses"), request.param, processes.compare_all))


def test_losses_on_uneven_skewed_processes_equal_those_of_one_process(found):
    for of_rank in found:
        # losses, views with a split, widths
        assert len(of_rank["results"]) == len(processes.LOSSES) * 3 * 2
        for case in of_rank["results"]:
            assert case["value"] <= 1e-10, case
            assert case["gradient"] <= 1e-10, case
            assert case["cosine"] >= 1 - 1e-12, case


def test_all_reduce_sum_sums_in_both_directions(found):
    for of_rank in found:
        assert of_rank["sums"]["forward"] == [sum(range(1, len(found) + 1))] * 2
        # the gradients on each process are 1 and its rank
        assert of_rank["sums"]["backward"] == [len(found), sum(range(len(found)))]


def test_all_reduce_sum_without_processes_is_the_identity():
    x = torch.ones(3, requires_grad=True)
    assert all_reduce_sum(x) is x
