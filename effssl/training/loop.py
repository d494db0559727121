"""The pretraining loop: batches to views to projections to loss, through Accelerate."""

from __future__ import annotations

import copy
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
from torch import Tensor

from effssl.batch_norm import make_global
from effssl.data._broken import BrokenImages
from effssl.data._loader import Batch
from effssl.data.sources import Source, load_source
from effssl.distributed import all_reduce_max, is_lost_connection, rows_known
from effssl.hub._folder import is_model_folder, read_training, save_pretrained
from effssl.liveness import heartbeat, lost_connection, silent_processes, wait_with_others
from effssl.losses import create_loss
from effssl.model import SSLModel, check_input, create_model
from effssl.seeding import derived_seed
from effssl.training._background import BackgroundWriter, host_copy
from effssl.training._batches import create_batches, create_loader
from effssl.training._checkpoint import load_checkpoint, save_checkpoint
from effssl.training._faults import NonFiniteGuard
from effssl.training._launch import create_accelerator, explain_determinism
from effssl.training._monitor import Monitor, start_tracker
from effssl.training._online_evaluation import OnlineEvaluation
from effssl.training._optim import (
    create_optimizer,
    create_schedule,
    freeze_unused_parameters,
    scaled_lr,
)
from effssl.training._record import training_record
from effssl.training._run_folder import (
    check_run_folder,
    prepare_run_folder,
    tolerate_disk_full,
)
from effssl.training._staging import StagedBatch, StagedBatches, Stager
from effssl.training._step import StepOutput, TrainStep
from effssl.training._stop import StopSignals, raise_for
from effssl.training.config import PretrainConfig
from effssl.views import MultiView

logger = logging.getLogger(__name__)

_PATIENCE = 60.0  # seconds without a sign of life from a process, while a GPU waits for it
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
        ValueError: If the configuration does not fit the data, the backbone or the launcher, the
            backbone cannot be deterministic, or more than 1 % of the images are broken.
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
            with explain_determinism(config.backbone):
                run = _Run(accelerator, config)
                with StopSignals() as signals:
                    stopped_by = run.train(signals)
        except RuntimeError as error:
            if accelerator.num_processes == 1 or not is_lost_connection(error):
                raise
            raise lost_connection(silent_processes()) from error
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
            model = make_global(model)
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
        self.writer = BackgroundWriter()
        self.saved_model = copy.deepcopy(model)  # that model folders are written from
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
        self.faults = NonFiniteGuard(config, self.net)
        if state:
            self.optimizer.load_state_dict(state["optimizer"])
            if accelerator.scaler is not None:
                if state.get("scaler"):  # none of a run in another precision: it begins anew
                    accelerator.scaler.load_state_dict(state["scaler"])
            self.faults.load_state_dict(state["faults"])
            saved = config.run_folder / "model"
            if not is_model_folder(saved) or read_training(saved).get("step") != self.step:
                if accelerator.is_main_process:  # the stop came just before it was written
                    self._save_model(host_copy(self.net.state_dict()), last=False)
        self.gradient_of = TrainStep(accelerator, config, self.model, multi_view, loss_fn)
        self.stage = Stager(multi_view, self.batches.local, config.seed, accelerator.device)

    def train(self, signals: StopSignals) -> int:
        """Train to the end, or to a signal, whose number is returned; else 0."""
        self.started = self.saved = time.perf_counter()
        monitor = Monitor(
            *(self.accelerator, self.config, self.broken, self.faults),
            *(self.step, self.total_steps, len(self.batches)),
        )
        self.model.train()
        with self.writer, monitor:
            start_tracker(self.accelerator, self.config, self.step, self.tracker_id)
            while self.step < self.total_steps:
                self.batches.epoch, self.batches.first = divmod(self.step, len(self.batches))
                batches = StagedBatches(monitor.waiting(self.loader), self.stage, self.step)
                for batch in batches:
                    request = self._train_on(batch, batches, monitor, signals)
                    if self.accelerator.num_processes == 1:
                        request = self._request(signals)
                    last = self.step == self.total_steps
                    ends_epoch, stops = monitor.ends_epoch(self.step), request > _SAVE
                    if request or ends_epoch or self._is_save_due():
                        with monitor.aside():
                            monitor.write()
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

    def _train_on(
        self, batch: StagedBatch, batches: StagedBatches, monitor: Monitor, signals: StopSignals
    ) -> int:
        """Do a step; return what a process asks all for after it."""
        self.broken.add(batch.broken)
        self.schedule.step_update(self.step)
        self.optimizer.zero_grad()
        self.faults.before_step()
        gradient = self.gradient_of(batch, self.step, watch=monitor.is_due(self.step + 1))
        self.accelerator.unscale_gradients(self.optimizer)
        gradients = [p.grad for p in self.net.parameters() if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        # the device has all of its work by now; meanwhile the host does its own
        monitor.write()
        if self.step + 1 < self.total_steps:
            batches.prefetch()
        loss, norm_value, *parts, request = self._read(gradient, norm, signals)
        parts = dict(zip(gradient.parts, parts, strict=True))
        self.step += 1
        if self._is_good(loss, norm_value):
            self._update(gradients, norm, norm_value)
            self.faults.good_step()
        else:
            if self.accelerator.scaler is not None:
                self.accelerator.scaler.update()
            self.faults.skip(self.step, loss, norm_value, parts)
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
        lr = self.optimizer.param_groups[0]["lr"]
        with rows_known(batch.images):
            monitor.step(self.step, gradient, loss, norm_value, parts, lr, **more)
        return int(request)

    def _read(self, gradient: StepOutput, norm: Tensor, signals: StopSignals) -> list[float]:
        """Loss, norm, parts of the loss, and request: the one wait for the device in a step."""
        values = [gradient.loss, norm.to(gradient.loss.dtype), *gradient.parts.values()]
        if self.accelerator.num_processes == 1:
            return [*torch.stack(values).tolist(), 0]
        asked = torch.full_like(gradient.loss, self._request(signals))
        torch.distributed.all_reduce(asked, torch.distributed.ReduceOp.MAX)
        read = torch.stack([*values, asked])
        if read.device.type == "cuda" and torch.cuda.is_initialized():
            done = torch.cuda.current_stream().record_event()
            patience = min(60 * self.config.timeout_minutes, _PATIENCE)
            wait_with_others(done.query, patience)
        return read.tolist()

    def _is_good(self, loss: float, norm: float) -> bool:
        """Whether to take the step, or to leave it to the scaler, which lowers the scale."""
        if math.isfinite(loss) and math.isfinite(norm):
            return True
        scaler = self.accelerator.scaler
        return scaler is not None and math.isfinite(loss) and scaler.get_scale() >= 1

    def _update(self, gradients: list[Tensor], norm: Tensor, norm_value: float) -> None:
        """Clip the gradient and take the step."""
        clip, scaler = self.config.grad_clip, self.accelerator.scaler
        if clip is not None and clip < norm_value < math.inf:
            parameters = [p for p in self.net.parameters() if p.grad is not None]
            torch.nn.utils.clip_grads_with_norm_(parameters, clip, norm)
        if scaler is None:
            self.optimizer.step()
            return
        # its own step would ask the device whether there is an overflow, which is known by now
        if math.isfinite(norm_value):
            self.optimizer.optimizer.step()
        scaler.update()

    def _request(self, signals: StopSignals) -> int:
        """What this process asks all to do after this step, by the clock of the main one."""
        if signals.received:
            return _SIGNAL + signals.received
        if not self.accelerator.is_main_process:
            return 0
        minutes = self._minutes()
        if self.config.max_minutes is not None and minutes >= self.config.max_minutes:
            return _TIME_IS_UP
        if self.writer.has_failed():
            return _SAVE  # which ends the run on all processes
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
        """Write a checkpoint, and the model folder too if asked for; every process must call it.

        They are written while training goes on, but for the last ones.
        """
        self.saved = time.perf_counter()
        if self.faults.in_a_row and not last:
            return  # weights that give no finite loss; those saved before them stay
        self.broken.share()  # or those met since the last line would be forgotten by a resume
        self.faults.check_finite(self.step, self.net)
        failure = None
        if self.accelerator.is_main_process:
            try:
                self.writer.finish()  # or copies of the state would pile up
                weights = host_copy(self.net.state_dict())
                self._save_checkpoint(weights, last=last)
                if model:
                    self._save_model(weights, last=last)
                if last:
                    self.writer.finish()
            except OSError as error:
                failure = error
        if all_reduce_max(int(failure is not None)):
            raise failure or OSError("process 0 could not write to the run folder and stopped")

    def _save_checkpoint(self, weights: dict[str, Tensor], *, last: bool) -> None:
        state = {
            "model": weights,
            "optimizer": host_copy(self.optimizer.state_dict()),
            "broken": list(self.broken),
            "faults": self.faults.state_dict(),
            "tracker_id": self.tracker_id,
            "minutes": self.minutes_before + self._minutes(),
        }
        if self.accelerator.scaler is not None:
            state["scaler"] = self.accelerator.scaler.state_dict()
        config, step = self.config, self.step

        def write() -> None:
            with tolerate_disk_full(config, "a checkpoint", last=last):
                save_checkpoint(config.run_folder, step, state, keep=config.keep_checkpoints)

        self.writer.submit(write)

    def _save_model(self, weights: dict[str, Tensor], *, last: bool) -> None:
        config, step, minutes = self.config, self.step, self.minutes_before + self._minutes()

        def write() -> None:
            training = training_record(
                *(config, self.accelerator, step, len(self.batches)),
                images=self.batches.images,
                minutes=minutes,
            )
            self.saved_model.load_state_dict(weights, assign=True)
            with tolerate_disk_full(config, "the model folder", last=last):
                save_pretrained(self.saved_model, config.run_folder / "model", training=training)

        self.writer.submit(write)


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
    frozen = freeze_unused_parameters(model)
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
