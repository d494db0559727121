"""The gradient of a batch in chunks is that of the whole batch, on one process and on several."""

from functools import partial

import pytest
import torch
from accelerate import Accelerator, PartialState
from forked import launch, results
from torch import Tensor, nn

from effssl import MultiView, PretrainConfig, create_model
from effssl.batch_norm import make_global
from effssl.data._loader import BatchShard, collate
from effssl.loss_specs import LOSSES
from effssl.losses import create_loss
from effssl.training._optim import keep_less
from effssl.training._staging import Stager
from effssl.training._step import TrainStep
from effssl.training._views import create_views

IMAGES, SIZE = 12, 32
CONFIG = {
    "img_size": SIZE,
    "projector_dim": 16,
    "batch_size": IMAGES,
    "views": 3,
    "preset": "cifar",
    "precision": "fp64",
    "cpu": True,
}
CONVNEXT = {"backbone": "convnext_atto", "patch_size": 2}
RESNET = {"backbone": "test_resnet"}
LOCAL = {"views": 2, "local_views": 3, "local_size": 16}
FINE = {"backbone": "convnext_atto", "patch_size": 1}  # leaves 2 x 2 of the small ones
# places in the global batch of images that could not be read: all of a chunk, and more
BROKEN = (4, 5, 6, 7, 9)


class CountedViews(MultiView):
    """Notes how many images it makes views of at a time."""

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.counts: list[int] = []

    def render(self, pixels: Tensor, plan: Tensor, **options) -> Tensor:
        self.counts.append(plan.shape[1] // self.views)
        return super().render(pixels, plan, **options)


class Step:
    """All that computes gradients of one configuration, with the same weights for all."""

    def __init__(self, rank: int = 0, world_size: int = 1, **changes) -> None:
        self.config = config = PretrainConfig(**(CONFIG | changes))
        torch.manual_seed(0)
        self.net = create_model(
            config.backbone,
            projector_dim=config.projector_dim,
            img_size=config.img_size,
            patch_size=config.patch_size,
            drop_path=config.drop_path,
            dynamic_img_size=config.local_views > 0,
        )
        if config.grad_checkpointing:
            keep_less(self.net.backbone)
        if config.precision == "fp64":
            self.net.double()
        if world_size > 1:
            make_global(self.net)
        self.views = [
            CountedViews(v.options, views=v.views, size=v.size) for v in create_views(config)
        ]
        self.local = BatchShard(config.batch_size, config.micro_batch, rank, world_size)
        accelerator = Accelerator(cpu=True)
        assert accelerator.num_processes == world_size
        loss_fn = create_loss(config.loss, dim=config.projector_dim, global_views=config.views)
        model = accelerator.prepare(self.net).train()
        self.gradient_of = TrainStep(
            accelerator,
            model,
            self.views,
            loss_fn,
            seed=config.seed,
            fp64=config.precision == "fp64",
            in_chunks=config.micro_batch is not None,
            frozen_steps=config.freeze_epochs,  # of one step each
            recomputes=config.grad_checkpointing,
        )
        self.stage = Stager(self.views, self.local, config.seed, accelerator.device)

    def __call__(self, broken: tuple[int, ...] = (), step: int = 0) -> dict[str, Tensor]:
        """Loss and gradient, by part of the model."""
        self.net.zero_grad()
        draw = torch.Generator().manual_seed(step)
        images = torch.randint(
            256, (IMAGES, 3, SIZE + 8, SIZE + 8), generator=draw, dtype=torch.uint8
        )
        images[::2] //= 3
        places = self.local.places
        rows = [row for row, place in enumerate(places.tolist()) if place not in broken]
        rows = torch.tensor(rows, dtype=torch.long)
        batch = collate(list(images[places[rows]]), 3)._replace(rows=rows)
        loss = self.gradient_of(self.stage(batch, step), step).loss
        return {
            "loss": loss.double(),
            "backbone": flat_gradient(self.net.backbone),
            "projector": flat_gradient(self.net.projector),
        }

    def loss_at(self, shift: float, direction: list[Tensor]) -> float:
        """The loss with the weights moved."""
        parameters = list(self.net.parameters())
        with torch.no_grad():
            torch._foreach_add_(parameters, direction, alpha=shift)
        loss = float(self()["loss"])
        with torch.no_grad():
            torch._foreach_add_(parameters, direction, alpha=-shift)
        return loss


def flat_gradient(module: nn.Module) -> Tensor:
    gradients = [p.grad.flatten().double() for p in module.parameters() if p.grad is not None]
    return torch.cat([torch.empty(0, dtype=torch.float64), *gradients])


def difference(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """The largest of the parts, each relative to its norm."""
    return max(
        float((found[name] - expected[name]).norm() / expected[name].norm()) for name in expected
    )


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("precision, tolerance", [("fp64", 1e-12), ("fp32", 1e-5)])
def test_chunks_give_the_gradient_of_the_whole_batch(loss, precision, tolerance):
    narrow = {"projector_dim": 4} if loss == "wmse" else {}  # fewer dimensions than images
    step = partial(Step, loss=loss, precision=precision, **CONVNEXT, **narrow)
    whole = step()()
    for micro_batch in (3, 6):
        found = difference(step(micro_batch=micro_batch)(), whole)
        print(f"{loss}, {precision}, {IMAGES} images in chunks of {micro_batch}: {found:.1e}")
        assert found <= tolerance


@pytest.mark.parametrize(
    "changes, tolerance",
    [
        (FINE, 1e-12),
        # timm interpolates position embeddings in float32, whatever their type
        pytest.param(
            {"backbone": "vit_tiny_patch16_224", "patch_size": 8}, 1e-8, marks=pytest.mark.slow
        ),
    ],
    ids=lambda value: value["backbone"] if isinstance(value, dict) else "",
)
def test_chunks_of_views_of_two_sizes_give_the_gradient_of_the_whole_batch(changes, tolerance):
    step = partial(Step, **changes, **LOCAL)
    for broken in ((), BROKEN):
        whole = step()(broken)
        found = difference(step(micro_batch=4)(broken), whole)
        print(f"{changes}, 2 + 3 views in chunks, {len(broken)} broken: {found:.1e}")
        assert found <= tolerance


@pytest.mark.parametrize("micro_batch", [2, 4])
def test_broken_images_leave_chunks_smaller_or_empty(micro_batch):
    whole = Step(**CONVNEXT)(BROKEN)
    chunked = Step(micro_batch=micro_batch, **CONVNEXT)(BROKEN)
    found = difference(chunked, whole)
    print(f"chunks of {micro_batch} without {len(BROKEN)} broken images: {found:.1e}")
    assert found <= 1e-12


def test_a_chunk_without_images_leaves_running_statistics_finite():
    step = Step(micro_batch=4, **RESNET)
    step(BROKEN)
    assert all(buffer.isfinite().all() for buffer in step.net.buffers())


def test_views_are_made_of_a_chunk_at_a_time():
    whole, chunked = Step(**RESNET), Step(micro_batch=3, **RESNET)
    whole()
    chunked()
    assert whole.views[0].counts == [12]
    assert chunked.views[0].counts == [3] * 8  # two passes of each of four chunks


@pytest.mark.parametrize("views", [{}, LOCAL], ids=["one size", "two sizes"])
def test_batch_norm_counts_a_batch_in_chunks_once(views):
    whole, chunked = Step(**RESNET, **views), Step(micro_batch=3, **RESNET, **views)
    for step in range(2):
        whole(step=step)
        chunked(step=step)
    expected = dict(whole.net.named_buffers())
    for name, buffer in chunked.net.named_buffers():
        if name.endswith("num_batches_tracked"):
            assert buffer == expected[name] == 2, name
    # what the first one sees does not depend on other norms, and its mean is that of the batch
    first = next(name for name in expected if name.endswith("running_mean"))
    found = dict(chunked.net.named_buffers())[first]
    torch.testing.assert_close(found, expected[first], rtol=1e-12, atol=1e-12)
    momenta = {m.momentum for m in chunked.net.modules() if isinstance(m, nn.BatchNorm2d)}
    assert momenta == {0.1}


def with_dropout(step: Step) -> list[Tensor]:
    """Put dropout into the backbone; the list gets what it left of each pass."""
    seen: list[Tensor] = []
    dropout = nn.Dropout(0.3).train()
    dropout.register_forward_hook(lambda module, args, out: seen.append(out == 0))
    backbone = step.net.backbone
    backbone.stages[1].blocks[0].drop_path = dropout
    return seen


def test_both_passes_of_a_chunk_drop_the_same_and_others_do_not():
    step = Step(micro_batch=3, **CONVNEXT)
    seen = with_dropout(step)
    step()
    step(step=1)
    assert len(seen) == 16
    first, second, third = seen[:4], seen[4:8], seen[8:12]
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert not any(torch.equal(first[0], other) for other in (*first[1:], third[0]))


def smooth(module: nn.Module) -> None:
    """Replace what has kinks, at which differences are no slopes."""
    for name, child in module.named_children():
        if isinstance(child, nn.ReLU):
            setattr(module, name, nn.Softplus())
        elif isinstance(child, nn.MaxPool2d):
            setattr(module, name, nn.AvgPool2d(child.kernel_size, child.stride, child.padding))
        else:
            smooth(child)


@pytest.mark.parametrize("backbone", ["batch norm", "dropout"])
def test_the_gradient_of_chunks_is_the_slope_of_their_loss(backbone):
    step = Step(micro_batch=3, **(RESNET if backbone == "batch norm" else CONVNEXT))
    smooth(step.net)
    if backbone == "dropout":
        with_dropout(step)
    step()
    torch.manual_seed(1)
    parameters = list(step.net.parameters())
    direction = [torch.randn_like(p) * p.detach().abs().mean() for p in parameters]
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    expected = sum(float((g * d).sum()) for g, d in zip(gradients, direction, strict=True))
    near, far = (
        (step.loss_at(h, direction) - step.loss_at(-h, direction)) / (2 * h) for h in (1e-5, 2e-5)
    )
    slope = (4 * near - far) / 3
    print(f"{backbone}: slope {slope:.9g}, gradient {expected:.9g}")
    assert slope == pytest.approx(expected, rel=1e-7)


# what the processes compute, and which images are broken: in some all of a process's
OF_PROCESSES = {
    "no batch norm, whole": (CONVNEXT, ()),
    "no batch norm": (CONVNEXT | {"micro_batch": 4}, ()),
    "no batch norm, broken": (CONVNEXT | {"micro_batch": 4}, (0, 5)),
    "no batch norm, a chunk broken": (CONVNEXT | {"micro_batch": 4}, BROKEN),
    "no batch norm, whole, second half broken": (CONVNEXT, tuple(range(6, 12))),
    "no batch norm, second halves broken": (
        CONVNEXT | {"micro_batch": 4},
        (2, 3, 6, 7, 10, 11),
    ),
    "batch norm, whole, second half broken": (RESNET, tuple(range(6, 12))),
    "batch norm, half a chunk broken": (RESNET | {"micro_batch": 4}, (2, 3)),
    "batch norm, whole": (RESNET, ()),
    "batch norm": (RESNET | {"micro_batch": 4}, ()),
    "batch norm, broken": (RESNET | {"micro_batch": 6}, (0, 5, 11)),
    "two sizes, whole": (RESNET | LOCAL, (1, 2)),
    "two sizes, whole, second half broken": (RESNET | LOCAL, tuple(range(6, 12))),
    "two sizes, a chunk broken": (RESNET | LOCAL | {"micro_batch": 4}, BROKEN),
    "two sizes, no batch norm": (FINE | LOCAL | {"micro_batch": 4}, (0, 5)),
}


def buffers(module: nn.Module) -> Tensor:
    return torch.cat([buffer.flatten().double() for buffer in module.buffers()])


def compute_all() -> dict[str, dict[str, Tensor]]:
    """What one process of a launch, or one alone, computes."""
    state = PartialState(cpu=True)
    found = {}
    for name, (changes, broken) in OF_PROCESSES.items():
        step = Step(state.process_index, state.num_processes, **changes)
        found[name] = step(broken) | {"buffers": buffers(step.net)}
    return found


@pytest.fixture(scope="module")
def of_one_process():
    return compute_all()


@pytest.fixture(scope="module", params=[2, pytest.param(3, marks=pytest.mark.slow)])
def of_processes(request, tmp_path_factory):
    return results(launch(tmp_path_factory.mktemp("micro_batch"), request.param, compute_all))


@pytest.mark.parametrize("name", OF_PROCESSES)
def test_processes_compute_the_gradient_of_one(of_one_process, of_processes, name):
    for of_rank in of_processes:
        found = difference(of_rank[name], of_one_process[name])
        print(f"{name}, {len(of_processes)} processes: {found:.1e}")
        assert found <= 1e-12
        assert of_rank[name]["buffers"].isfinite().all()
        assert of_rank[name].keys() == {"loss", "backbone", "projector", "buffers"}
