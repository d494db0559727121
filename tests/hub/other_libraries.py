"""Loads models of effssl by timm and transformers, where effssl cannot be imported.

    python other_libraries.py NAMES.json OUT.safetensors

NAMES.json holds lists of [folder, Hub id, revision, channels]. For each folder OUT gets the
features of the images beside it, as every way of loading gives them.
"""

import json
import sys
from pathlib import Path

import timm
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import AutoImageProcessor, AutoModel, pipeline

sys.modules["effssl"] = None  # which cannot be imported then


def by_timm(source, images):
    model = timm.create_model(source, pretrained=True).eval()
    return model(images)


def fine_tune(source, images):
    """The loss before and after three steps of a fresh classifier and its backbone."""
    model = timm.create_model(source, pretrained=True, num_classes=10)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    losses = []
    for _ in range(2):
        logits = model.eval()(images)
        assert logits.shape == (len(images), 10)
        loss = torch.nn.functional.cross_entropy(logits, torch.arange(len(images)))
        losses.append(loss.detach())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return torch.stack(losses)


def by_transformers(repo_id, revision, images):
    model = AutoModel.from_pretrained(repo_id, revision=revision)
    return model(pixel_values=images).pooler_output


def by_pipeline(repo_id, revision, image):
    """Features of a picture, and the tensor that the backbone was given."""
    processor = AutoImageProcessor.from_pretrained(repo_id, revision=revision)
    extract = pipeline("image-feature-extraction", model=repo_id, revision=revision, pool=True)
    return torch.tensor(extract(image)), processor(image, return_tensors="pt")["pixel_values"]


def main(names, out):
    torch.set_num_threads(1)
    found = {}
    for folder, repo_id, revision, channels in json.loads(Path(names).read_text()):
        folder = Path(folder)
        if folder.name.startswith("resnet18_cifar"):
            try:
                timm.create_model(f"local-dir:{folder}")
                raise AssertionError("timm knows it by itself")
            except RuntimeError:
                sys.modules.pop("effssl", None)
                import effssl.backbones  # noqa: F401  as the card says
        images = load_file(folder.with_suffix(".images"))["images"]
        with torch.no_grad():
            found[f"{folder.name}/local-dir"] = by_timm(f"local-dir:{folder}", images)
            found[f"{folder.name}/hf-hub"] = by_timm(f"hf-hub:{repo_id}@{revision}", images)
            found[f"{folder.name}/transformers"] = by_transformers(repo_id, revision, images)
            if channels == 3:
                image = Image.open(folder.with_suffix(".png"))
                pooled, pixels = by_pipeline(repo_id, revision, image)
                found[f"{folder.name}/pipeline"], found[f"{folder.name}/pixels"] = pooled, pixels
        found[f"{folder.name}/fine-tuned"] = fine_tune(f"local-dir:{folder}", images)
        if "effssl" not in sys.modules:
            raise AssertionError("this process was to do without effssl")
    save_file({name: tensor.contiguous() for name, tensor in found.items()}, out)


if __name__ == "__main__":
    main(*sys.argv[1:])
