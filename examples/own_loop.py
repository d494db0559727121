"""Pretrain with a loop of your own: the losses, MultiView and Accelerate, without effssl.pretrain.

    python examples/own_loop.py --epochs 4
    accelerate launch --multi_gpu --num_processes 8 examples/own_loop.py --batch-size 64

The loss is that of the images of all processes, and so is its gradient once DDP has averaged it.
The projector's batch norm takes the images of its own process here; effssl.pretrain takes all.
"""

import torch
import tyro
from accelerate import Accelerator
from accelerate.utils import set_seed

import effssl


def images_of(rows: list[tuple[torch.Tensor, int]]) -> list[torch.Tensor]:
    """Return the images of a batch, which may be of any sizes, without their labels."""
    return [image for image, _ in rows]


def main(
    split: str = "train",
    epochs: int = 4,
    batch_size: int = 64,
    output: str = "own-model",
    cpu: bool = False,
) -> None:
    """Train, and save a model folder that effssl, timm and transformers load."""
    accelerator = Accelerator(cpu=cpu)
    set_seed(0, device_specific=True)  # each process draws views of its own
    views = effssl.MultiView("grey", views=4, size=32)
    # told of the views, the saved model has their size, mean and std
    model = effssl.create_model("test_convnext2", in_chans=1, patch_size=4, views=views)
    loss_fn = effssl.create_loss("vicreg", dim=model.projector_dim)  # or any function of (V, N, D)
    source = effssl.data.load_source("fashion-mnist-sample", split, in_chans=1)
    loader = torch.utils.data.DataLoader(
        source, batch_size, shuffle=True, drop_last=True, collate_fn=images_of
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=1.5e-3, weight_decay=0.05)
    model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    for epoch in range(epochs):
        for images in loader:  # uint8, N times (C, H, W)
            x = views(images)  # (V, N, C, S, S), normalized
            z = model(x.flatten(0, 1), project=True).unflatten(0, x.shape[:2])  # (V, N, D)
            loss = loss_fn(z)
            accelerator.backward(loss)
            optimizer.step()
            optimizer.zero_grad()
        accelerator.print(f"epoch {epoch + 1}: loss {loss.item():.3f}")
    if accelerator.is_main_process:
        effssl.save_pretrained(accelerator.unwrap_model(model), output)


if __name__ == "__main__":
    tyro.cli(main)
