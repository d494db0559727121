"""Pretrain with a loss and views of your own: here as objects, on the command line by their names.

    python examples/own_loss.py
    cd examples && effssl pretrain --loss own_loss:near_and_spread --preset own_loss:crops \
        --views 2 --in-chans 1 --img-size 32

The loss is made of sums over the images of this process; effssl's own losses take those of all.
"""

import torch
from torch import Tensor
from torchvision.transforms import v2

import effssl


def near_and_spread(z: Tensor, *, return_parts: bool = False) -> Tensor | tuple[Tensor, dict]:
    """Pull views (V, N, D) of an image together, and push images apart on the unit sphere."""
    z = torch.nn.functional.normalize(z, dim=2)
    near = (z - z.mean(0)).square().sum(2).mean()
    others = ~torch.eye(z.shape[1], dtype=torch.bool, device=z.device)
    squares = torch.cdist(z, z)[:, others].square()  # as in arXiv:2005.10242
    spread = squares.mul(-2).exp().mean().log()
    loss = near + 0.5 * spread
    return (loss, {"near": near, "spread": spread}) if return_parts else loss


CROP = v2.Compose(
    [
        v2.RandomResizedCrop(32, scale=(0.4, 1.0), antialias=True),
        v2.RandomHorizontalFlip(),
        v2.ToDtype(torch.float32, scale=True),
        v2.Normalize([0.5], [0.5]),
    ]
)


def crops(images: Tensor, sizes: Tensor, generator: torch.Generator) -> Tensor:
    """Two views of an image, (2, 1, C, 32, 32); torch's own generator is seeded for each image."""
    return torch.stack([CROP(images), CROP(images)])


if __name__ == "__main__":
    config = effssl.PretrainConfig(
        backbone="test_convnext2",
        patch_size=4,
        in_chans=1,
        img_size=32,
        projector_dim=64,
        views=2,
        split="train[:256]",
        batch_size=64,
        epochs=2,
        output="runs/own-loss",
    )
    folder = effssl.pretrain(config, loss=near_and_spread, views=crops)
    print(f"model folder: {folder}")
