"""Weights for runs to go on from, in the forms that others have them in."""

import timm
import torch

import effssl
from effssl.training import loop

VIT = {"img_size": 32, "patch_size": 4}


def save_timms(folder, backbone="test_vit", *, cfg=None, num_classes=7, **model_args):
    """A folder of timm with random weights, all of them other than those of a fresh model."""
    torch.manual_seed(5)
    model = timm.create_model(backbone, num_classes=num_classes, **model_args)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.02 * torch.randn_like(parameter)
    model.pretrained_cfg.update(cfg or {})
    timm.models.save_for_hf(model, folder, model_args=model_args, safe_serialization=True)
    return model.eval()


def started_model(config):
    """The model that a run of a configuration begins with, and its views."""
    parts = []

    def built(*arguments):
        parts.append(build(*arguments))
        raise Stopped

    build, loop.build = loop.build, built
    try:
        effssl.pretrain(config)
    except Stopped:
        return parts[0]
    finally:
        loop.build = build


class Stopped(Exception):
    pass
