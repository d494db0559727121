"""Fine-tune pretrained weights with a classifier, as one fine-tunes any timm model.

    python examples/finetune.py runs/first
    python examples/finetune.py runs/first --train-split train --epochs 10

effssl.evaluation.finetune does the same with a schedule, warm-up, crops and several processes.
"""

from typing import Annotated

import torch
import tyro

import effssl


def load(model: torch.nn.Module, split: str) -> torch.utils.data.TensorDataset:
    """Decode, resize and normalize the labeled images of a split of the sample."""
    channels = model.pretrained_cfg["input_size"][0]
    source = effssl.data.load_source("fashion-mnist-sample", split, in_chans=channels)
    transform = effssl.create_transform(model)
    images, labels = zip(*((transform(image), label) for image, label in source), strict=True)
    return torch.utils.data.TensorDataset(torch.stack(images), torch.tensor(labels))


def main(
    model: Annotated[str, tyro.conf.Positional] = (
        "test_convnext2-spectral-p256-aug4-fashion-mnist-sample"
    ),
    train_split: str = "train[:2000]",
    test_split: str = "test",
    epochs: int = 5,
    lr: float = 1e-3,
) -> None:
    """Train all weights, and print the accuracy on the test split."""
    torch.manual_seed(0)
    net = effssl.from_pretrained(model, num_classes=10)  # a plain timm model in train mode
    train, test = load(net, train_split), load(net, test_split)
    optimizer = torch.optim.AdamW(net.parameters(), lr=lr, weight_decay=0.05)
    for epoch in range(epochs):
        for x, y in torch.utils.data.DataLoader(train, 64, shuffle=True):
            loss = torch.nn.functional.cross_entropy(net(x), y)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        print(f"epoch {epoch + 1}: loss {loss.item():.3f}")
    net.eval()
    with torch.no_grad():
        right = sum(
            (net(x).argmax(1) == y).sum() for x, y in torch.utils.data.DataLoader(test, 256)
        )
    print(f"top-1 {100 * int(right) / len(test):.1f} %")


if __name__ == "__main__":
    tyro.cli(main)
