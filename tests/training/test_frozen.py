"""Steps with a frozen backbone, and with one that computes its blocks again."""

import pytest
import torch
from test_micro_batch import BROKEN, CONVNEXT, RESNET, Step, difference

VIT = {"backbone": "test_vit", "patch_size": 8, "drop_path": 0.5}


@pytest.mark.parametrize("broken", [(), BROKEN], ids=["whole", "broken"])
@pytest.mark.parametrize("backbone", [RESNET, VIT], ids=["batch norm", "drop path"])
def test_a_frozen_backbone_computes_the_same_of_any_chunk(backbone, broken):
    """Its batch norms have running statistics, so that chunks are exact with them too."""
    step = Step(freeze_epochs=1, **backbone)
    before = {name: value.clone() for name, value in step.net.backbone.state_dict().items()}
    whole = step(broken)
    assert len(whole["backbone"]) == 0 and whole["projector"].norm() > 0
    assert step.net.training and step.net.backbone.training
    after = step.net.backbone.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    for micro_batch in (2, 4):
        chunked = Step(freeze_epochs=1, micro_batch=micro_batch, **backbone)(broken)
        assert torch.allclose(chunked["loss"], whole["loss"], rtol=1e-12)
        error = (chunked["projector"] - whole["projector"]).norm() / whole["projector"].norm()
        assert error <= 1e-12


def test_the_gradient_of_the_projector_is_that_of_features_in_eval_mode():
    step = Step(freeze_epochs=1, **RESNET)
    found = step()["projector"]
    step.net.backbone.eval()
    step.gradient_of.frozen_steps = 0
    expected = step()  # the backbone gets a gradient too
    assert len(expected["backbone"])
    torch.testing.assert_close(found, expected["projector"], rtol=1e-12, atol=0)


@pytest.mark.parametrize("micro_batch", [None, 3])
@pytest.mark.parametrize("backbone", [RESNET, CONVNEXT, VIT], ids=["resnet", "convnext", "vit"])
def test_blocks_computed_again_give_the_same_gradient_and_statistics(backbone, micro_batch):
    kept, again = (
        Step(grad_checkpointing=flag, micro_batch=micro_batch, **backbone) for flag in (False, True)
    )
    counted = count_passes(again)
    for number in range(2):
        expected, found = kept(step=number), again(step=number)
        assert difference(found, expected) <= 1e-12
    passes = 4 if micro_batch is None else 3 * 2 * 4  # a chunk passes without a graph before
    assert len(counted) == passes
    buffers = dict(kept.net.named_buffers())
    for name, buffer in again.net.named_buffers():
        assert torch.equal(buffer, buffers[name]), name


def count_passes(step):
    """The passes through a layer in the middle of the backbone."""
    seen = []
    layers = [
        m for m in step.net.backbone.modules() if isinstance(m, torch.nn.Conv2d | torch.nn.Linear)
    ]
    layers[len(layers) // 2].register_forward_hook(lambda *_: seen.append(1))
    return seen


def test_a_backbone_that_cannot_compute_its_blocks_again_is_named():
    with pytest.raises(ValueError, match="does not go with backbone 'vgg11'.*give micro_batch"):
        Step(backbone="vgg11", grad_checkpointing=True)
