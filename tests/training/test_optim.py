"""Optimizer: what is frozen, decayed, scaled and clipped, against parameters before and after."""

import copy

import pytest
import timm.optim
import torch
from runs import Killed, assert_equal, kill, metrics, state, steps_of_checkpoints, tiny

import effssl
from effssl.loss_specs import LOSSES
from effssl.optim import create_optimizer
from effssl.training._optim import check_lr, freeze_unused_parameters, scaled_lr

SHIFTS = {
    "convnext_atto": ({"patch_size": 2}, ["head.norm.bias"]),
    "vit_tiny_patch16_224": ({"patch_size": 4}, ["norm.bias"]),
    "resnet18_cifar": ({}, []),
    "test_resnet": ({}, []),
}


def create(backbone, projector_dim=16):
    torch.manual_seed(0)
    changes = SHIFTS[backbone][0]
    return effssl.create_model(
        backbone, projector_dim=projector_dim, in_chans=1, img_size=32, **changes
    )


def weights_after(tmp_path, **changes):
    """Parameters after each step of a run, in a list."""
    config = tiny(tmp_path, checkpoint_steps=1, keep_checkpoints=100, evaluate_every=0, **changes)
    effssl.pretrain(config)
    run = tmp_path / "run"
    states = [state(run, step)["model"] for step in steps_of_checkpoints(run)]
    return [{k: v for k, v in saved.items() if not is_buffer(k)} for saved in states]


def is_buffer(name):
    return name.rpartition(".")[2] in ("running_mean", "running_var", "num_batches_tracked")


@pytest.mark.parametrize("backbone", SHIFTS)
def test_only_the_shift_of_all_features_is_frozen_and_nothing_else_is_touched(backbone):
    model = create(backbone).train()
    model.backbone.eval()  # a mode of its own
    before = copy.deepcopy(model.state_dict())
    modes = {name: module.training for name, module in model.named_modules()}
    random = torch.get_rng_state()

    frozen = freeze_unused_parameters(model)

    assert frozen == SHIFTS[backbone][1]
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad == (name.removeprefix("backbone.") not in frozen), name
        assert parameter.grad is None and parameter.dtype == torch.float32
    after = model.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert {name: module.training for name, module in model.named_modules()} == modes
    assert torch.equal(torch.get_rng_state(), random)


def test_no_weights_make_a_parameter_that_matters_look_like_a_shift():
    for seed in range(25):  # one pass of two images freezes some
        torch.manual_seed(seed)
        model = effssl.create_model("test_resnet", projector_dim=16, in_chans=1, img_size=32)
        assert freeze_unused_parameters(model) == [], seed


@pytest.mark.parametrize("backbone", ["convnext_atto", "vit_tiny_patch16_224"])
def test_the_gradient_of_what_is_frozen_is_rounding_noise_under_every_loss(backbone):
    model = create(backbone).double().train()
    (frozen,) = SHIFTS[backbone][1]
    views = torch.randn(2, 3, 1, 32, 32, dtype=torch.float64)
    z = model(views.flatten(0, 1), project=True).unflatten(0, (2, 3))
    shift = model.backbone.get_parameter(frozen)
    scale = model.backbone.get_parameter(frozen.replace("bias", "weight"))
    for loss in LOSSES:
        dim = 2 if loss == "wmse" else 16  # fewer dimensions than images
        value = effssl.create_loss(loss, dim=dim)(z[..., :dim])
        noise, gradient = torch.autograd.grad(value, [shift, scale], retain_graph=True)
        assert noise.norm() < 1e-10 * gradient.norm(), loss


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("layers", [1, 2])
def test_a_shift_of_the_features_is_trained_only_if_the_loss_depends_on_it(tmp_path, loss, layers):
    changes, (shift,) = SHIFTS["convnext_atto"]
    first, *_, last = weights_after(
        tmp_path,
        backbone="convnext_atto",
        max_steps=3,
        loss=loss,
        projector_layers=layers,
        **changes | {"projector_dim": 4},
    )
    name = f"backbone.{shift}"
    trained = layers == 1 and loss in ("simclr", "sigreg", "coding_rate")
    assert torch.equal(first[name], last[name]) != trained


@pytest.mark.parametrize("loss", LOSSES)
def test_a_loss_ignores_shifts_if_its_record_says_so(loss):
    z = torch.randn(3, 12, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    loss_fn = effssl.create_loss(loss, dim=4)
    torch.manual_seed(0)
    value = loss_fn(z)
    torch.manual_seed(0)
    same = torch.allclose(loss_fn(z + torch.tensor([3.0, -2.0, 1.0, 0.5])), value, rtol=1e-9)
    assert same == LOSSES[loss].ignores_shifts


@pytest.mark.parametrize("backbone", ["convnext_atto", "vit_tiny_patch16_224"])
def test_frozen_parameters_keep_their_value_through_a_run(tmp_path, caplog, backbone):
    changes, (frozen,) = SHIFTS[backbone]
    with caplog.at_level("INFO", logger="effssl"):
        first, *_, last = weights_after(tmp_path, backbone=backbone, max_steps=3, **changes)
    (said,) = [text for text in caplog.messages if text.endswith(f"depend on it: {frozen}")]
    assert said.startswith("kept at its initial value, as it should be,")
    same = [name for name in first if torch.equal(first[name], last[name])]
    assert same == [f"backbone.{frozen}"]
    assert not first[same[0]].any()


@pytest.mark.parametrize(
    "scaling, batch_size, expected",
    [
        ("none", 512, 0.1),
        ("linear", 512, 0.2),
        ("sqrt", 512, 0.1414213562),
        ("linear", 64, 0.025),
        ("sqrt", 64, 0.05),
    ],
)
def test_the_learning_rate_is_scaled_by_the_batch_and_logged(caplog, scaling, batch_size, expected):
    with caplog.at_level("INFO", logger="effssl"):
        assert scaled_lr(0.1, scaling, batch_size) == pytest.approx(expected)
    logged = [record.getMessage() for record in caplog.records]
    if scaling == "none":
        assert logged == []
    else:
        assert len(logged) == 1
        assert f"{expected:.4g} = 0.1 x {expected / 0.1:.4g}, {scaling}" in logged[0]
        assert f"batch of {batch_size} over 256" in logged[0]


@pytest.mark.parametrize("scaling, factor", [("linear", 8 / 256), ("sqrt", (8 / 256) ** 0.5)])
def test_the_schedule_warms_up_to_the_scaled_rate_and_ends_near_zero(tmp_path, scaling, factor):
    effssl.pretrain(tiny(tmp_path, lr_scaling=scaling, epochs=4, log_every=1, evaluate_every=0))
    rates = [line["lr"] for line in metrics(tmp_path / "run")]
    top = 1e-3 * factor
    assert rates[:3] == pytest.approx([top / 3, 2 * top / 3, top])  # a tenth of 20 steps
    assert rates[2:] == sorted(rates[2:], reverse=True) and rates[-1] < 0.02 * top


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_fused_optimizers_step_as_the_plain_ones_do(name):
    fused_model = create("test_resnet")
    plain_model = copy.deepcopy(fused_model)
    fused = create_optimizer(fused_model, name, lr=1e-2, weight_decay=0.1)
    plain = timm.optim.create_optimizer_v2(plain_model, opt=name, lr=1e-2, weight_decay=0.1)
    assert all(group["fused"] for group in fused.param_groups)
    assert not any(group["fused"] for group in plain.param_groups)
    draw = torch.Generator().manual_seed(0)
    for _ in range(5):
        for a, b in zip(fused_model.parameters(), plain_model.parameters(), strict=True):
            a.grad = torch.randn(a.shape, generator=draw)
            b.grad = a.grad.clone()
        fused.step()
        plain.step()
    for a, b in zip(fused_model.parameters(), plain_model.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", ["lars", "lamb", "adamw", "sgd"])
def test_optimizers_by_name_train_and_decay_no_bias_and_no_norm(tmp_path, name):
    first, _, last = weights_after(tmp_path, optimizer=name, max_steps=3, log_every=1)
    assert all(value.isfinite().all() for value in last.values())
    assert [k for k in first if torch.equal(first[k], last[k])] == []
    assert all(line["loss"] is not None for line in metrics(tmp_path / "run"))

    model = create("test_resnet")
    decayed = {}
    for group in create_optimizer(model, name, lr=1e-3, weight_decay=0.1).param_groups:
        decayed |= {id(p): group["weight_decay"] for p in group["params"]}
    assert {n: decayed[id(p)] for n, p in model.named_parameters()} == {
        n: 0.0 if p.ndim < 2 else 0.1 for n, p in model.named_parameters()
    }


@pytest.mark.parametrize("micro_batch", [None, 4])
def test_the_applied_gradient_has_the_norm_it_is_clipped_to(tmp_path, micro_batch):
    plain = {
        **{"optimizer": "momentum", "weight_decay": 0.0, "precision": "fp64"},  # a step: lr * grad
        **{"max_steps": 1, "log_every": 1, "micro_batch": micro_batch},
    }
    (before,) = weights_after(tmp_path / "before", lr=1e-300, **plain)

    def applied(folder, **changes):
        (after,) = weights_after(tmp_path / folder, lr=1e-3, **changes, **plain)
        (line,) = metrics(tmp_path / folder / "run")
        gradient = torch.cat([(before[k] - after[k]).flatten() / 1e-3 for k in before])
        return gradient, line["grad_norm"]

    whole, norm = applied("whole")
    assert whole.norm().item() == pytest.approx(norm, rel=1e-6)
    clipped, norm_before = applied("clipped", grad_clip=norm / 50)
    assert norm_before == norm
    assert clipped.norm().item() == pytest.approx(norm / 50, rel=1e-6)
    torch.testing.assert_close(clipped, whole / 50, rtol=1e-6, atol=1e-9 * norm)
    loose, _ = applied("loose", grad_clip=2 * norm)
    assert torch.equal(loose, whole)


def relative_steps(name, weight_decay, gradient):
    """Norm of the first step over that of the weights, by parameter."""
    model = create("test_resnet")
    optimizer = create_optimizer(model, name, lr=0.1, weight_decay=weight_decay)
    draw = torch.Generator().manual_seed(0)
    before = {key: value.detach().clone() for key, value in model.named_parameters()}
    for parameter in model.parameters():
        parameter.grad = gradient * torch.randn(parameter.shape, generator=draw)
    optimizer.step()
    steps = {key: (value - before[key]).norm() for key, value in model.named_parameters()}
    return {key: (step / before[key].norm()).item() for key, step in steps.items()}, model


@pytest.mark.parametrize("weight_decay", [0.0, 1e-6])
@pytest.mark.parametrize("gradient", [1e-3, 1e3])
@pytest.mark.parametrize("name, trust", [("lars", 0.001), ("nlars", 0.0019), ("lamb", 1.0)])
def test_a_step_has_the_size_of_the_weights_and_not_that_of_the_gradient(
    name, trust, gradient, weight_decay
):
    steps, model = relative_steps(name, weight_decay, gradient)
    for key, parameter in model.named_parameters():
        if parameter.ndim > 1:
            assert steps[key] == pytest.approx(0.1 * trust, rel=0.02), key


@pytest.mark.parametrize("weight_decay", [0.0, 1e-6])
@pytest.mark.parametrize("name", ["lars", "larc", "lamb", "lambc", "clamb"])
def test_the_steps_of_biases_and_norms_are_never_scaled_to_their_size(name, weight_decay):
    model = create("test_resnet")
    plain = copy.deepcopy(model)
    adapts = create_optimizer(model, name, lr=0.1, weight_decay=weight_decay)
    plainly = timm.optim.create_optimizer_v2(plain, opt=name, lr=0.1, weight_decay=0.0)
    for a, b in zip(model.parameters(), plain.parameters(), strict=True):
        a.grad, b.grad = torch.ones_like(a), torch.ones_like(b)
    adapts.step()
    plainly.step()
    pairs = dict(zip(model.named_parameters(), plain.parameters(), strict=True))
    assert {key: torch.equal(a, b) for (key, a), b in pairs.items()} == {
        key: a.ndim == 1 for (key, a) in pairs
    }


@pytest.mark.parametrize("name", ["lars", "lamb"])
def test_a_run_of_one_group_of_parameters_resumes_as_it_began(tmp_path, monkeypatch, caplog, name):
    """Earlier versions made one group where there is no weight decay."""

    def pretrain(folder, **changes):
        given = {"optimizer": name, "weight_decay": 0.0, "log_every": 1, "evaluate_every": 0}
        effssl.pretrain(tiny(tmp_path / folder, **(given | {"checkpoint_steps": 2} | changes)))
        return tmp_path / folder / "run"

    def earlier(model, name, lr, weight_decay, *, layer_decay):
        return timm.optim.create_optimizer_v2(model, opt=name, lr=lr, weight_decay=weight_decay)

    with monkeypatch.context() as patch:
        patch.setattr("effssl.training._build.create_optimizer", earlier)
        whole = pretrain("whole")
        with patch.context() as killed, pytest.raises(Killed):
            kill(killed, "step", 6)
            pretrain("parts")
    parts = pretrain("parts", resume=True)
    assert_equal(state(parts, 10)["model"], state(whole, 10)["model"])
    assert_equal(state(parts, 10)["optimizer"], state(whole, 10)["optimizer"])
    assert [line["lr"] for line in metrics(parts)] == [line["lr"] for line in metrics(whole)]
    assert caplog.text.count("did not scale their steps") == 1


def test_an_optimizer_that_needs_what_is_not_here_is_one_line():
    # apex is not installed
    with pytest.raises(ValueError, match="optimizer 'fusedadam' cannot be used here: "):
        create_optimizer(torch.nn.Linear(2, 2), "fusedadam", 1e-3, 0.05)


@pytest.mark.parametrize(
    ("optimizer", "usual", "mad"),
    [("adamw", [1e-5, 1e-3, 1e-2], [5.0, 1e-8]), ("lars", [0.1, 4.8], [1000.0, 1e-6])],
)
def test_a_mad_learning_rate_is_warned_of_and_a_usual_one_is_not(caplog, optimizer, usual, mad):
    for lr in usual:
        check_lr(lr, optimizer)
    assert not caplog.messages
    for lr in mad:
        check_lr(lr, optimizer)
    for lr, message in zip(mad, caplog.messages, strict=True):
        assert message.startswith(f"learning rate {lr:g} is unusual for {optimizer}, ")
        assert "try --lr 0." in message
    caplog.clear()


def test_a_run_with_a_mad_learning_rate_says_so_at_its_start(tmp_path, caplog):
    effssl.pretrain(tiny(tmp_path, lr=5.0, max_steps=1, evaluate_every=0))
    assert sum("learning rate 5 is unusual for adamw" in text for text in caplog.messages) == 1
