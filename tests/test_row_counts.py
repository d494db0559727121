"""Counts of rows, known beforehand or exchanged, and gathers of what they count."""

import pytest
import torch
import torch.distributed as dist
from forked import launch, results

from effssl.distributed import all_reduce_max, count_rows, gather_counts, gather_rows, rows_known
from effssl.losses import spectral, vicreg

CPU = torch.device("cpu")
COUNTS = [3, 0, 2]


def test_one_process_counts_its_own_rows():
    assert gather_counts([5, 3]) == [[5], [3]] and count_rows(5, CPU) == [5]
    with rows_known([5]):
        assert count_rows(5, CPU) == [5]
        with pytest.raises(ValueError, match="process 0 has 4 rows, but 5 were announced"):
            count_rows(4, CPU)
    assert count_rows(4, CPU) == [4]


def test_known_rows_are_one_count_a_process():
    with pytest.raises(ValueError, match=r"one number a process, 1, got \[5, 6\]"):
        with rows_known([5, 6]):
            pass


def test_known_rows_end_with_an_error():
    with pytest.raises(KeyError):
        with rows_known([5]):
            raise KeyError
    assert count_rows(4, CPU) == [4]


def of_process() -> dict:
    """What one process of a launch finds."""
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    z = torch.arange(2 * sum(COUNTS) * 4, dtype=torch.float64).sin().view(2, -1, 4)
    mine = z.split(COUNTS, dim=1)[rank]
    (counts,) = gather_counts([COUNTS[rank]])
    found = {
        "counts": counts,
        "max": all_reduce_max(COUNTS[rank]),
        "rows": gather_rows(mine, max(counts)),
    }
    found["asked"] = [loss(mine) for loss in (vicreg, spectral)]
    asked = dist.all_reduce
    sums = []
    dist.all_reduce = lambda x, *how: (sums.append(x.dtype), asked(x, *how))
    with rows_known(counts):
        found["known"] = [loss(mine) for loss in (vicreg, spectral)]
        found["integers sent"] = torch.int64 in sums
        try:
            vicreg(torch.ones(2, 7, 4))
        except ValueError as error:
            found["error"] = str(error)
    dist.destroy_process_group()
    return found


def test_losses_of_known_rows_exchange_no_counts_and_are_the_same(tmp_path):
    for rank, found in enumerate(results(launch(tmp_path, 3, of_process))):
        assert found["counts"] == COUNTS and found["max"] == max(COUNTS)
        assert found["asked"] == found["known"] and len(found["known"]) == 2
        assert not found["integers sent"]
        assert f"process {rank} has 7 rows, but {COUNTS[rank]} were announced" in found["error"]
        z = torch.arange(2 * sum(COUNTS) * 4, dtype=torch.float64).sin().view(2, -1, 4)
        parts = found["rows"].split(max(COUNTS), dim=1)
        for part, expected in zip(parts, z.split(COUNTS, dim=1), strict=True):
            assert torch.equal(part[:, : expected.shape[1]], expected)
            assert not part[:, expected.shape[1] :].any()
