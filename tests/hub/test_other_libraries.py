"""A published folder gives the same features in effssl, in timm alone and in transformers."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from server import HubServer

import effssl

BACKBONES = {
    "resnet10t": {},
    "convnext_atto": {"patch_size": 2},
    "vit_tiny_patch16_224": {"patch_size": 8},
    "mobilenetv3_small_050": {},
    "efficientvit_b0": {"img_size": 64},
    "regnetx_002": {},
    "pvt_v2_b0": {},
    "fastvit_t8": {"img_size": 64},
    "levit_128s": {"img_size": 224},
    "mobilevitv2_050": {"img_size": 64},
    "gmlp_ti16_224": {},
    # last, since it needs effssl to be imported
    "resnet18_cifar": {},
}


def save(folder, backbone, in_chans):
    """A folder with statistics and an input of its own, a batch, a picture, and their features."""
    arguments = {"img_size": 32} | BACKBONES[backbone]
    size = arguments["img_size"]
    torch.manual_seed(0)
    model = effssl.create_model(backbone, in_chans=in_chans, projector_dim=8, **arguments)
    model.set_input(size, (0.4, 0.45, 0.5)[:in_chans], (0.2, 0.25, 0.3)[:in_chans])
    images = torch.rand(4, in_chans, size, size)
    with torch.no_grad():
        model(images, project=True)  # so that batch norm has statistics to lose
    effssl.save_pretrained(model, folder)
    save_file({"images": images}, folder.with_suffix(".images"))
    image = Image.effect_noise((size + 20, size + 40), 90).convert("RGB")
    image.save(folder.with_suffix(".png"))
    with torch.no_grad():
        pixels = effssl.create_transform(model)(image)[None]
        return {"images": model.eval()(images), "pixels": pixels, "picture": model(pixels)}


@pytest.mark.parametrize(
    "channels",
    [
        pytest.param(lambda i: [1 + 2 * (i % 2)], id="1 or 3 channels"),
        pytest.param(lambda i: [3 - 2 * (i % 2)], id="3 or 1 channels", marks=pytest.mark.slow),
    ],
)
def test_timm_and_transformers_give_the_same_features(tmp_path, channels):
    assert len(BACKBONES) == 12
    cases = [(b, c) for i, b in enumerate(BACKBONES) for c in channels(i)]
    with HubServer(tmp_path / "large") as hub:
        expected, names = {}, []
        for backbone, in_chans in cases:
            name = f"{backbone}-{in_chans}"
            folder = tmp_path / name
            expected[name] = save(folder, backbone, in_chans)
            repo = hub.add_repo(f"org/{name}", folder)
            revision = repo.branches["main"]
            del repo.branches["main"]  # what asks for no revision fails
            names.append([str(folder), f"org/{name}", revision, in_chans])
            with torch.no_grad():
                images = load_file(folder.with_suffix(".images"))["images"]
                assert torch.equal(effssl.from_pretrained(folder)(images), expected[name]["images"])
        (tmp_path / "names.json").write_text(json.dumps(names))
        result = subprocess.run(
            [sys.executable, Path(__file__).with_name("other_libraries.py")]
            + [tmp_path / "names.json", tmp_path / "out.safetensors"],
            env=os.environ | hub.environment(tmp_path / "home"),
            capture_output=True,
            text=True,
        )
    assert result.returncode == 0, result.stderr
    found = load_file(tmp_path / "out.safetensors")
    for name, features in expected.items():
        assert torch.equal(found[f"{name}/local-dir"], features["images"]), name
        assert torch.equal(found[f"{name}/hf-hub"], features["images"]), name
        assert torch.allclose(found[f"{name}/transformers"], features["images"], atol=1e-6), name
        before, after = found[f"{name}/fine-tuned"].tolist()
        assert after < before, name
        if name.endswith("-3"):
            assert torch.equal(found[f"{name}/pixels"], features["pixels"]), name
            assert torch.allclose(found[f"{name}/pipeline"], features["picture"], atol=1e-6), name
