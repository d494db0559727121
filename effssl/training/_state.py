"""State of a run: what a checkpoint saves and a resume loads."""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass, field

import torch
from torch import nn

from effssl.data._broken import BrokenImages
from effssl.optim import take_groups_of
from effssl.training._background import host_copy
from effssl.training._ema import AveragedWeights
from effssl.training._faults import NonFiniteGuard


@dataclass
class RunState:
    """Everything that changes during a run.

    Attributes:
        model: Model, not wrapped by Accelerate.
        optimizer: Optimizer prepared by Accelerate.
        scaler: Gradient scaler of fp16, or None.
        faults: Counts of skipped steps.
        broken: Broken images met so far.
        average: Moving average of the weights, if there is one.
        step: Number of steps done.
        images_seen: Images of the steps that trained, with repetition, over all processes.
        skipped_batches: Steps skipped because broken images left fewer images than the loss takes.
        knn_start: Accuracy in percent of the initial weights, if it was measured in this process.
        tracker_id: Identifier of the run for trackers.
        earlier_minutes: Minutes of training of earlier launches.
        started: Time when this launch began to train; set it.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler | None
    faults: NonFiniteGuard
    broken: BrokenImages
    average: AveragedWeights | None = None
    step: int = 0
    images_seen: int = 0
    skipped_batches: int = 0
    knn_start: float | None = None
    tracker_id: str = field(default_factory=lambda: uuid.uuid4().hex)
    earlier_minutes: float = 0.0
    started: float = field(default_factory=time.perf_counter)

    @property
    def minutes(self) -> float:
        """Minutes of training, over all launches."""
        return self.earlier_minutes + (time.perf_counter() - self.started) / 60

    @property
    def published(self) -> nn.Module:
        """Model that is evaluated and published: the average of the weights, if there is one."""
        return self.model if self.average is None else self.average.model

    def state_dict(
        self, weights: dict[str, torch.Tensor], published: dict[str, torch.Tensor]
    ) -> dict:
        """Return what `load_state_dict` takes, apart from the step; tensors are on the CPU.

        Args:
            weights: Copy of the model's state on the CPU.
            published: Copy of the state of `published`, which the model folder is made of.
        """
        state = {
            "model": weights,
            "optimizer": host_copy(self.optimizer.state_dict()),
            "broken": list(self.broken),
            "faults": self.faults.state_dict(),
            "images_seen": self.images_seen,
            "skipped_batches": self.skipped_batches,
            "knn_start": self.knn_start,
            "tracker_id": self.tracker_id,
            "minutes": self.minutes,
        }
        if self.average is not None:
            state["average"] = self.average.state_dict(published)
        if self.scaler is not None:
            state["scaler"] = self.scaler.state_dict()
        return state

    def load_state_dict(self, state: dict) -> None:
        """Restore a state from `load_checkpoint`, on every process."""
        self.step, self.tracker_id = state["step"], state["tracker_id"]
        self.images_seen = state["images_seen"]
        self.earlier_minutes = state.get("minutes", 0.0)  # older checkpoints have none
        self.skipped_batches = state.get("skipped_batches", 0)  # likewise
        self.knn_start = state.get("knn_start")  # likewise
        self.broken = BrokenImages(
            self.broken.num_images, state["broken"], max_broken=self.broken.max_broken
        )
        self.model.load_state_dict(state["model"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        take_groups_of(self.optimizer, state["optimizer"], self.model)
        self.optimizer.load_state_dict(state["optimizer"])
        # a run that had another precision saved no scaler: it starts afresh
        if self.scaler is not None and state.get("scaler"):
            self.scaler.load_state_dict(state["scaler"])
        self.faults.load_state_dict(state["faults"])
