"""Every loss on real processes against one process that holds the whole batch.

The shards are uneven and differ in mean and scale.
"""

import warnings
from itertools import product

import references
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from effssl.distributed import all_reduce_sum
from effssl.losses import _gram as gram
from effssl.losses import barlow_twins, coding_rate, sigreg, simclr, spectral, vicreg, wmse

WEIGHTS = (25.0, 15.0, 2.0)
GLOBAL = 2  # of the views, where not all pairs count


def wider(z: torch.Tensor) -> torch.Tensor:
    return torch.cat([z, z.square()], -1)


def own_generator() -> torch.Generator:
    """Different on each process, so that only what process 0 draws gives the expected loss."""
    return torch.Generator().manual_seed(1 + dist.get_rank())


LOSSES = {
    "barlow_twins pairs": (
        lambda z: barlow_twins(z, lambd=0.03),
        lambda z: references.barlow_twins_pairs(z, 0.03),
    ),
    "barlow_twins mean": (
        lambda z: barlow_twins(z, lambd=0.03, multiview="mean"),
        lambda z: references.barlow_twins_mean(z, 0.03),
    ),
    "vicreg": (
        lambda z: vicreg(z, invariance=WEIGHTS[0], variance=WEIGHTS[1], covariance=WEIGHTS[2]),
        lambda z: references.vicreg_pairs(z, WEIGHTS),
    ),
    "spectral": (
        lambda z: spectral(z, beta=0.7),
        lambda z: references.spectral(z, 0.7),
    ),
    "barlow_twins pairs with a global view": (
        lambda z: barlow_twins(z, lambd=0.03, global_views=GLOBAL),
        lambda z: references.barlow_twins_pairs(z, 0.03, GLOBAL),
    ),
    "barlow_twins mean with global views": (
        lambda z: barlow_twins(z, lambd=0.03, multiview="mean", global_views=GLOBAL),
        lambda z: references.barlow_twins_mean(z, 0.03, GLOBAL),
    ),
    "vicreg with global views": (
        lambda z: vicreg(
            z,
            invariance=WEIGHTS[0],
            variance=WEIGHTS[1],
            covariance=WEIGHTS[2],
            global_views=GLOBAL,
        ),
        lambda z: references.vicregl_global_loss(z, WEIGHTS, GLOBAL),
    ),
    "spectral with global views": (
        lambda z: spectral(z, beta=0.7, global_views=GLOBAL),
        lambda z: references.spectral(z, 0.7, GLOBAL),
    ),
    "coding rate": (
        lambda z: coding_rate(z, eps=0.3, invariance=7.0),
        lambda z: references.coding_rate(z, 0.3, 7.0),
    ),
    "coding rate of wider projections with global views": (
        lambda z: coding_rate(wider(z), eps=0.3, invariance=7.0, global_views=GLOBAL),
        lambda z: references.coding_rate(wider(z), 0.3, 7.0, GLOBAL),
    ),
    "wmse": (
        lambda z: wmse(z[..., :3], size=5, generator=own_generator()),
        lambda z: references.wmse(z[..., :3], references.sub_batches(z[..., :3], 5, 1), 1e-6),
    ),
    "wmse with global views": (
        lambda z: wmse(z[..., :3], size=5, generator=own_generator(), global_views=GLOBAL),
        lambda z: references.wmse(
            z[..., :3], references.sub_batches(z[..., :3], 5, 1), 1e-6, GLOBAL
        ),
    ),
    "simclr": (
        lambda z: simclr(z, temperature=0.5),
        lambda z: references.simclr(z, 0.5),
    ),
    "simclr, debiased, with global views": (
        lambda z: simclr(z, temperature=0.5, positive_prior=0.1, global_views=GLOBAL),
        lambda z: references.simclr(z, 0.5, 0.1, GLOBAL),
    ),
    "sigreg": (
        lambda z: sigreg(z, lambd=0.3, directions=7, generator=own_generator()),
        lambda z: references.sigreg(z, 0.3, references.random_directions(z.shape[2], 7, 1)),
    ),
    "sigreg with global views": (
        lambda z: sigreg(
            z, lambd=0.3, directions=7, generator=own_generator(), global_views=GLOBAL
        ),
        lambda z: references.sigreg(z, 0.3, references.random_directions(z.shape[2], 7, 1), GLOBAL),
    ),
}
SPLITS = {
    2: [[5, 11], [15, 1], [8, 8]],
    3: [[3, 9, 4], [8, 1, 7], [16, 0, 1]],
    4: [[2, 6, 1, 7], [4, 4, 4, 4], [9, 3, 1, 1]],
}


def shifted_and_scaled(inputs: torch.Tensor, counts: list[int]) -> list[torch.Tensor]:
    """The batch (V, N, I) cut into shards, each with its own mean and scale."""
    shards = inputs.split(counts, dim=1)
    return [shard * (1 + 0.8 * i) + 0.6 * i for i, shard in enumerate(shards)]


def gradients(network: nn.Module) -> torch.Tensor:
    return torch.cat([parameter.grad.flatten() for parameter in network.parameters()])


def compare(name: str, views: int, dim: int, counts: list[int]) -> dict[str, float]:
    loss, reference = LOSSES[name]
    inputs = references.views_of_images(views, sum(counts), 10, seed=dim)
    shards = shifted_and_scaled(inputs, counts)
    torch.manual_seed(dim)
    network = nn.Sequential(nn.Linear(10, 12), nn.Tanh(), nn.Linear(12, dim)).double()

    expected = reference(network(torch.cat(shards, dim=1)))
    expected.backward()
    expected_gradient = gradients(network)
    network.zero_grad()

    parallel = DistributedDataParallel(network)
    value = loss(parallel(shards[dist.get_rank()]))
    value.backward()
    gradient = gradients(network)
    return {
        "value": references.relative_difference(value.detach(), expected.detach()),
        "gradient": references.relative_difference(gradient, expected_gradient),
        "cosine": torch.cosine_similarity(gradient, expected_gradient, dim=0).item(),
    }


def compare_all() -> dict:
    """What one process of a launch finds."""
    warnings.simplefilter("error")
    dist.init_process_group("gloo")
    rank, processes = dist.get_rank(), dist.get_world_size()
    x = torch.full((2,), rank + 1.0, requires_grad=True)
    total = all_reduce_sum(x)
    (total * torch.tensor([1.0, rank])).sum().backward()
    sums = {"forward": total.tolist(), "backward": x.grad.tolist()}

    results = []
    batches = zip((2, 3, 4), SPLITS[processes], strict=True)
    forms = ((6, False), (40, True))  # narrow: direct, wide: Gram
    for name, (views, counts), (dim, form) in product(LOSSES, batches, forms):
        gram.gram_is_cheaper = lambda form=form, **shape: form
        case = {"loss": name, "views": views, "dim": dim, "counts": counts, "gram": form}
        results.append(case | compare(name, views, dim, counts))
    dist.destroy_process_group()
    return {"sums": sums, "results": results}
