"""The pretraining loop: batches to views to projections to loss, through Accelerate."""

from __future__ import annotations

import logging
import math
import signal
import time
import uuid
from collections.abc import Iterable
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list

from effssl.batch_norm import make_global
from effssl.data.broken import BrokenImages
from effssl.data.loader import Batch
from effssl.data.sources import Source, load_source
from effssl.distributed import heartbeat, is_lost_connection, max_, silent_processes
from effssl.hub.folder import is_ours, read_training, save_pretrained
from effssl.losses import create_loss
from effssl.model import SSLModel, check_input, create_model
from effssl.seeding import derived_seed
from effssl.training.batches import create_batches, create_loader
from effssl.training.checkpoint import load_checkpoint, save_checkpoint
from effssl.training.config import PretrainConfig
from effssl.training.faults import Faults
from effssl.training.launch import create_accelerator
from effssl.training.monitor import Monitor, start_tracker
from effssl.training.online_evaluation import OnlineEvaluation
from effssl.training.optim import (
    create_optimizer,
    create_schedule,
    freeze_what_gets_no_gradient,
    scaled_lr,
)
from effssl.training.record import training_record
from effssl.training.run_folder import (
    check_run_folder,
    prepare_run_folder,
    surviving_a_full_disk,
)
from effssl.training.step import Gradient, GradientOfBatch
from effssl.training.stop import StopSignals, raise_for
from effssl.views import MultiView

logger = logging.getLogger(__name__)

_SAVE, _TIME_IS_UP, _SIGNAL = 1, 2, 100  # what a process asks all for; signals are added to 100


def pretrain(config: PretrainConfig) -> Path:
    """Pretrain a backbone as configured, alone or as one of the processes of a launcher.

    What the run computes is a function of the configuration: the order of images and the views are
    drawn from its seed and the step, and every statistic, batch norm's too, is of the global batch.
    The run folder (``config.run_folder``) gets config.json, metrics.jsonl, checkpoints, and a model
    folder at the end of every epoch. SIGTERM and SIGINT end the run with a checkpoint after the
    step they come in.

    Returns:
        The model folder, for `from_pretrained`.

    Raises:
        ValueError: If the configuration does not fit the data, the backbone or the launcher, or
            more than 1 % of the images are broken.
        FileNotFoundError: If there is no such data set.
        FileExistsError: If the run folder exists and neither resume nor overwrite is set.
        FloatingPointError: If the loss or its gradient is not finite ten steps in a row.
        OSError: If the last checkpoint cannot be written; any, if so configured.
        ConnectionError: If another process of the run does not answer any more.
        SystemExit: With code 143, after SIGTERM.
        KeyboardInterrupt: After SIGINT.
    """
    accelerator = create_accelerator(config)
    with heartbeat():
        try:
            run = _Run(accelerator, config)
            with StopSignals() as signals:
                stopped_by = run.train(signals)
        except RuntimeError as error:
            if accelerator.num_processes == 1 or not is_lost_connection(error):
                raise
            silent = ", ".join(str(rank) for rank in silent_processes()) or "none"
            raise ConnectionError(
                f"process {accelerator.process_index} of {accelerator.num_processes} lost the "
                f"others; no sign of life from process: {silent}; see its log, then go on with "
                "--resume"
            ) from error
    accelerator.end_training()
    if stopped_by:
        raise_for(stopped_by)
    return config.run_folder / "model"


class _Run:
    """The parts of a run, made in the order in which they depend on each other."""

    def __init__(self, accelerator: Accelerator, config: PretrainConfig) -> None:
        self.accelerator, self.config = accelerator, config
        # everything that can be wrong is found before anything is written
        check_run_folder(config)
        source = load_source(
            config.dataset,
            config.split,
            in_chans=config.in_chans,
            image_column=config.image_column,
            label_column=config.label_column,
            streaming=config.streaming,
        )
        self.batches = create_batches(
            config, source, accelerator.process_index, accelerator.num_processes
        )
        multi_view = MultiView(config.preset, views=config.views, size=config.img_size)
        loss_fn = create_loss(
            config.loss,
            dim=config.projector_dim,
            weight=config.loss_weight,
            multiview=config.multiview,
        )
        model = _create_model(config, multi_view)
        if accelerator.num_processes > 1:
            model = make_global(model, accelerator.device)
        lr = scaled_lr(config)
        optimizer = create_optimizer(model, config, lr)
        self.total_steps = config.epochs * len(self.batches)
        if config.max_steps is not None:
            self.total_steps = min(self.total_steps, config.max_steps)
        self.schedule = create_schedule(optimizer, config, lr, self.total_steps, len(self.batches))
        self.loader = create_loader(config, source, self.batches, accelerator.device)
        self.evaluation = _online_evaluation(config, source, self.loader)

        accelerator.wait_for_everyone()  # all have checked the folder before one changes it
        self.net = model  # without what Accelerate wraps around it
        state = None
        if accelerator.is_main_process:
            prepare_run_folder(config)
            state = load_checkpoint(config.run_folder)
        (state,) = broadcast_object_list([state])
        self.step = state["step"] if state else 0
        self.minutes_before = state.get("minutes", 0.0) if state else 0.0
        self.started = time.perf_counter()
        self.tracker_id = state["tracker_id"] if state else uuid.uuid4().hex
        self.broken = BrokenImages(self.batches.images, state["broken"] if state else ())
        if state:
            model.load_state_dict(state["model"])
        if config.compile:
            model.backbone.compile()
        model = model.to(memory_format=torch.channels_last)
        self.model, self.optimizer = accelerator.prepare(model, optimizer)
        self.faults = Faults(config, self.net)
        if state:
            self.optimizer.load_state_dict(state["optimizer"])
            if accelerator.scaler is not None:
                accelerator.scaler.load_state_dict(state["scaler"])
            self.faults.load_state_dict(state["faults"])
            saved = config.run_folder / "model"
            if not is_ours(saved) or read_training(saved).get("step") != self.step:
                with surviving_a_full_disk(config, "the model folder", last=False):
                    self._save_model()  # the stop came just before it
        self.gradient_of = GradientOfBatch(
            accelerator, config, self.model, multi_view, loss_fn, self.batches.local
        )

    def train(self, signals: StopSignals) -> int:
        """Train to the end, or to a signal, whose number is returned; else 0."""
        self.started = self.saved = time.perf_counter()
        monitor = Monitor(
            *(self.accelerator, self.config, self.broken, self.faults),
            *(self.step, self.total_steps, len(self.batches)),
        )
        self.model.train()
        with monitor:
            start_tracker(self.accelerator, self.config, self.step, self.tracker_id)
            while self.step < self.total_steps:
                self.batches.epoch, self.batches.first = divmod(self.step, len(self.batches))
                for batch in monitor.waiting(self.loader):
                    self._train_on(batch, monitor)
                    last = self.step == self.total_steps
                    request = max_(self._request(signals))
                    ends_epoch, stops = monitor.ends_epoch(self.step), request > _SAVE
                    if request or ends_epoch or self._is_save_due():
                        with monitor.aside():
                            self._save(last=last or stops, model=ends_epoch or stops)
                    if stops and not last:
                        signal_number = max(0, request - _SIGNAL)
                        logger.warning(
                            "%s: stopped after step %d of %d, the checkpoint is saved; --resume "
                            "goes on",
                            signal.Signals(signal_number).name if signal_number else "time is up",
                            *(self.step, self.total_steps),
                        )
                        return signal_number
                    if last:
                        break
        return 0

    def _train_on(self, batch: Batch, monitor: Monitor) -> None:
        self.broken.add(batch.broken)
        self.schedule.step_update(self.step)
        self.optimizer.zero_grad()
        self.faults.before_step()
        gradient = self.gradient_of(batch, self.step, watch=monitor.is_due(self.step + 1))
        loss, norm, good = self._check(gradient)
        self.step += 1
        if good:
            self.optimizer.step()
            self.faults.good_step()
        else:
            if self.accelerator.scaler is not None:
                self.accelerator.scaler.update()
            self.faults.skip(self.step, gradient, loss, norm)
        more = {}
        if monitor.ends_epoch(self.step):
            epoch = self.step / len(self.batches)
            every = self.config.evaluate_every or max(1, self.config.epochs // 10)
            if self.evaluation is not None and (
                epoch % every == 0 or self.step == self.total_steps
            ):
                with monitor.aside():
                    autocast = self.accelerator.autocast
                    more = self.evaluation(self.net, self.accelerator.device, autocast)
        monitor.step(self.step, gradient, loss, norm, self.optimizer.param_groups[0]["lr"], **more)

    def _check(self, gradient: Gradient) -> tuple[float, float, bool]:
        """Clip the gradient; return the loss, the norm before, and whether to take the step."""
        self.accelerator.unscale_gradients(self.optimizer)
        gradients = [p.grad for p in self.net.parameters() if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        # one wait for the device, when all of the gradient's work is under way
        loss, norm = torch.stack([gradient.loss.double(), norm.double()]).tolist()
        good = math.isfinite(loss) and math.isfinite(norm)
        scaler = self.accelerator.scaler
        if scaler is not None and math.isfinite(loss) and scaler.get_scale() >= 1:
            good = True  # the scaler skips the step itself and lowers the scale, as it should
        if good and self.config.grad_clip is not None and norm > self.config.grad_clip:
            torch._foreach_mul_(gradients, self.config.grad_clip / norm)
        return loss, norm, good

    def _request(self, signals: StopSignals) -> int:
        """What this process asks all to do after this step, by the clock of the main one."""
        if signals.received:
            return _SIGNAL + signals.received
        if not self.accelerator.is_main_process:
            return 0
        minutes = self._minutes()
        if self.config.max_minutes is not None and minutes >= self.config.max_minutes:
            return _TIME_IS_UP
        since = (time.perf_counter() - self.saved) / 60
        every = self.config.checkpoint_minutes
        return _SAVE if every is not None and since >= every else 0

    def _minutes(self) -> float:
        """Since this launch began to train."""
        return (time.perf_counter() - self.started) / 60

    def _is_save_due(self) -> bool:
        every = self.config.checkpoint_steps
        return every is not None and self.step % every == 0

    def _save(self, *, last: bool, model: bool) -> None:
        """Write a checkpoint, and the model folder too if asked for; every process must call it."""
        self.saved = time.perf_counter()
        if self.faults.in_a_row and not last:
            return  # weights that give no finite loss; those saved before them stay
        self.broken.share()  # or those met since the last line would be forgotten by a resume
        self.faults.check_finite(self.step, self.net)
        failure = None
        if self.accelerator.is_main_process:
            try:
                with surviving_a_full_disk(self.config, "a checkpoint", last=last):
                    self._save_checkpoint()
                if model:
                    with surviving_a_full_disk(self.config, "the model folder", last=last):
                        self._save_model()
            except OSError as error:
                failure = error
        if max_(int(failure is not None)):
            raise failure or OSError("process 0 could not write to the run folder and stopped")

    def _save_checkpoint(self) -> None:
        state = {
            "model": self.net.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "broken": list(self.broken),
            "faults": self.faults.state_dict(),
            "tracker_id": self.tracker_id,
            "minutes": self.minutes_before + self._minutes(),
        }
        if self.accelerator.scaler is not None:
            state["scaler"] = self.accelerator.scaler.state_dict()
        folder, keep = self.config.run_folder, self.config.keep_checkpoints
        save_checkpoint(folder, self.step, state, keep=keep)

    def _save_model(self) -> None:
        if not self.accelerator.is_main_process:
            return
        training = training_record(
            *(self.config, self.accelerator, self.step, len(self.batches)),
            images=self.batches.images,
            minutes=self.minutes_before + self._minutes(),
        )
        save_pretrained(self.net, self.config.run_folder / "model", training=training)


def _create_model(config: PretrainConfig, multi_view: MultiView) -> SSLModel:
    torch.manual_seed(derived_seed(config.seed, "weights"))
    model = create_model(
        config.backbone,
        projector_dim=config.projector_dim,
        in_chans=config.in_chans,
        img_size=config.img_size,
        patch_size=config.patch_size,
        pretrained=config.pretrained,
    )
    model.set_input(config.img_size, *multi_view.options.channel_stats(config.in_chans))
    check_input(model)
    frozen = freeze_what_gets_no_gradient(model)
    if frozen:
        logger.info("frozen, since the loss does not depend on it: %s", ", ".join(frozen))
    return model.double() if config.precision == "fp64" else model


def _online_evaluation(
    config: PretrainConfig, source: Source, loader: Iterable[Batch]
) -> OnlineEvaluation | None:
    if config.evaluate_every == 0 or source.streaming:
        return None
    images, seed = loader.dataset, config.seed
    if source.label_column is not None:
        try:
            return OnlineEvaluation(source, images, seed, labelled=True)
        except ValueError as error:
            if config.label_column is not None:
                raise
            logger.info("no k-NN accuracy: %s", error)  # such as -1 for every image without a label
    return OnlineEvaluation(source, images, seed, labelled=False)
