"""Losses and views of one's own, as the tests name them."""

import torch
from torchvision.transforms import v2

from effssl.losses import barlow_twins, vicreg
from effssl.views import ViewOptions

OPTIONS = ViewOptions(flip=0.0, jitter=0.5, scale=(0.3, 1.0), mean=(0.25,))
NUMBER = 3
_VIEW = v2.Compose(
    [
        v2.RandomResizedCrop(32, scale=(0.3, 1.0), antialias=True),
        v2.RandomHorizontalFlip(),
        v2.ToDtype(torch.float32, scale=True),
        v2.Normalize([0.5], [0.25]),
    ]
)


def same_as_bt(z, *, return_parts=False):
    return barlow_twins(z, lambd=0.04, return_parts=return_parts)


def of_global_views(z, *, return_parts=False, global_views):
    assert global_views == 2
    return barlow_twins(z, lambd=0.04, return_parts=return_parts, global_views=global_views)


def plain(z):
    return vicreg(z)


def vector(z):
    return z.square().mean(0)


def number(z):
    return 3.0


def dead(z):
    return z.detach().mean()


def raises(z):
    raise RuntimeError("a reason\nof two lines")


def part(z, *, return_parts=False):
    return z.square().mean(), {"lr": z.mean()}


def by_image(images, sizes, generator):
    assert images.dtype == torch.uint8 and images.shape[-2:] == tuple(sizes[0].tolist())
    noise = torch.rand(4, generator=generator).view(4, 1, 1, 1, 1)
    return torch.stack([_VIEW(images) for _ in range(4)]) + noise


def by_rows(images, sizes, generator, rows, batch_size):
    noise = torch.rand(4, batch_size, generator=generator)[:, rows]
    x = torch.nn.functional.interpolate(images / 255, size=32)
    return torch.stack([x * one.view(-1, 1, 1, 1) for one in noise + 0.5])


def too_few(images, sizes, generator):
    return torch.zeros(2, len(images), *images.shape[1:])
