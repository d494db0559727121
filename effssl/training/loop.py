"""The pretraining loop: batches to views to projections to loss, through Accelerate."""

from __future__ import annotations

import logging
import math
import signal
import time
from collections.abc import Callable
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from torch import Tensor

from effssl.distributed import all_reduce_max, is_lost_connection, rows_known
from effssl.hub._folder import is_model_folder, read_training, save_pretrained
from effssl.liveness import heartbeat, lost_connection, silent_processes, wait_with_others
from effssl.loss_specs import least_images
from effssl.model import SSLModel
from effssl.processes import check_main_guard, explain_lost_workers
from effssl.training._agreement import check_same_flags, together
from effssl.training._background import BackgroundWriter, host_copy
from effssl.training._build import RunParts, build
from effssl.training._checkpoint import save_checkpoint
from effssl.training._launch import create_accelerator, explain_determinism
from effssl.training._monitor import Monitor, start_tracker
from effssl.training._optim import top_rate
from effssl.training._own import Own
from effssl.training._record import training_record
from effssl.training._run_folder import (
    MODEL,
    held_run_folder,
    open_run_folder,
    tolerate_disk_full,
)
from effssl.training._staging import StagedBatch, StagedBatches
from effssl.training._start import find_start, named
from effssl.training._step import StepOutput
from effssl.training._stop import SAVE, Requests, StopSignals, raise_for, signal_of
from effssl.training._update import Update
from effssl.training.config import PretrainConfig
from effssl.views import MultiView, ViewOptions

logger = logging.getLogger(__name__)

_PATIENCE = 60.0  # seconds without a sign of life from a process, while a GPU waits for it


def pretrain(
    config: PretrainConfig,
    *,
    loss: Callable | None = None,
    views: Callable | ViewOptions | MultiView | None = None,
    model: SSLModel | None = None,
) -> Path:
    """Pretrain a backbone, in this process alone or in each process of a launcher.

    The result is a function of the configuration: the order of images and the views are drawn from
    its seed and the step, and all statistics, those of batch norm included, are of the global
    batch. The run folder (``config.run_folder``) gets config.json, metrics.jsonl, checkpoints, and
    a model folder at the end of every epoch. After SIGTERM or SIGINT the run finishes its step,
    saves a checkpoint and ends.

    Objects are recorded by their names, and a run is resumed with objects of the same names only.

    Args:
        config: Configuration of the run.
        loss: Function of projections (V, N, D) in place of ``config.loss``. It returns a scalar;
            with a keyword ``return_parts`` also a dict of scalars by name.
        views: Views in place of ``config.preset``: options, or a function that makes views; see
            `effssl.views.own.OwnViews`.
        model: Model to start from, which stays as it is; it determines the backbone, the projector
            and the channels.

    Returns:
        Path of the model folder, for `from_pretrained`.

    Raises:
        ValueError: If the configuration does not fit the data, the backbone or the launcher, the
            backbone cannot be deterministic, or more than ``max_broken`` of the images are broken.
        FileNotFoundError: If there is no such data set.
        FileExistsError: If the run folder exists and neither resume nor overwrite is set.
        FloatingPointError: If the loss or its gradient is not finite in ten consecutive steps.
        OSError: If the last checkpoint cannot be written, or with ``stop_when_disk_full`` any.
        ConnectionError: If another process of the run does not answer.
        SystemExit: With code 143, after SIGTERM.
        KeyboardInterrupt: After SIGINT.
        RuntimeError: If a process imports the script that started it, which calls this function.
        TypeError: If an object is of the wrong kind.
    """
    check_main_guard("effssl.pretrain")
    own = Own(loss, views, model)
    config = named(own.named_in(config))
    accelerator = create_accelerator(config)
    with heartbeat(), explain_lost_workers("effssl.pretrain"):
        try:
            with explain_determinism(config.backbone or str(config.init)):
                stopped_by = _train(config, accelerator, own)
        except RuntimeError as error:
            if accelerator.num_processes == 1 or not is_lost_connection(error):
                raise
            raise lost_connection(silent_processes()) from error
    accelerator.end_training()
    if stopped_by:
        raise_for(stopped_by)
    return config.run_folder / MODEL


def _train(config: PretrainConfig, accelerator: Accelerator, own: Own) -> int:
    """Train to the end or to a signal; return the signal's number, else 0."""
    with together():
        config, own = own.imported_for(config)
    check_same_flags(config)
    with held_run_folder(config, is_main_process=accelerator.is_main_process) as checked:
        found, start = find_start(checked, is_main_process=accelerator.is_main_process)
        run = _Run(accelerator, build(found, accelerator, start, own))
        run.open_folder()
        run.measure_start()
        with StopSignals() as signals:
            return run.train(signals)


class _Run:
    """Trains the parts of a run and saves its state."""

    def __init__(self, accelerator: Accelerator, parts: RunParts) -> None:
        self.accelerator, self.config, self.parts = accelerator, parts.config, parts
        self.state, self.epoch_steps = parts.state, len(parts.batches)
        self.writer = BackgroundWriter()
        self.update = Update(
            self.state.model, self.state.optimizer, self.state.scaler, self.config.grad_clip
        )
        self.least_images = least_images(self.config.loss, self.config.projector_dim)

    def open_folder(self) -> None:
        """Create the run folder, or restore the state of the run in it."""
        saved, refusal = None, None
        if self.accelerator.is_main_process:
            try:
                saved = open_run_folder(self.config, self.parts.images, self.parts.start)
            except (ValueError, OSError) as error:
                refusal = error
        saved, refusal = broadcast_object_list([saved, refusal])
        if refusal is not None:
            raise refusal
        if saved is None:
            return
        # older checkpoints count the images of a step, broken ones included
        saved.setdefault("images_seen", saved["step"] * self.config.batch_size)
        self.state.load_state_dict(saved)
        folder = self.config.run_folder / MODEL
        # a run may be stopped after its checkpoint is written and before the model folder is
        if not is_model_folder(folder) or read_training(folder).get("step") != self.state.step:
            if self.accelerator.is_main_process:
                self._save_model(host_copy(self.state.published.state_dict()), last=False)
                self.writer.finish()

    def measure_start(self) -> None:
        """Measure the accuracy before training, if it is measured during training too.

        Nothing is lost by a signal meanwhile, so it ends the process at once.
        """
        evaluation = self.parts.evaluation
        if self.state.step == 0 and evaluation is not None:
            device, autocast = self.accelerator.device, self.accelerator.autocast
            self.state.knn_start = evaluation.accuracy(self.state.model, device, autocast)

    def train(self, signals: StopSignals) -> int:
        """Train to the end or to a signal; return the signal's number, else 0."""
        state, parts = self.state, self.parts
        self.requests = Requests(
            signals,
            self.writer,
            is_main_process=self.accelerator.is_main_process,
            max_minutes=self.config.max_minutes,
            checkpoint_minutes=self.config.checkpoint_minutes,
        )
        state.started = time.perf_counter()
        monitor = Monitor(
            self.accelerator,
            self.config,
            state,
            parts.total_steps,
            self.epoch_steps,
        )
        parts.model.train()
        with self.writer, monitor:
            start_tracker(self.accelerator, self.config, state.step, state.tracker_id)
            while state.step < parts.total_steps:
                parts.batches.epoch, parts.batches.first = divmod(state.step, self.epoch_steps)
                batches = StagedBatches(monitor.waiting(parts.loader), parts.stage, state.step)
                for batch in batches:
                    request = self._train_on(batch, batches, monitor)
                    last = state.step == parts.total_steps
                    self._save_if_due(request, monitor)
                    if request > SAVE and not last:
                        return self._stop(request)
                    if last:
                        break
        return 0

    def _train_on(self, batch: StagedBatch, batches: StagedBatches, monitor: Monitor) -> int:
        """Do a step; return the largest request of all processes after it."""
        state, faults = self.state, self.state.faults
        state.broken.add(batch.broken)
        self.parts.schedule.step_update(state.step)
        if sum(batch.images) < self.least_images:
            return self._skip(batch, batches, monitor)
        state.optimizer.zero_grad()
        faults.before_step()
        output = self.parts.train_step(batch, state.step, watch=monitor.is_due(state.step + 1))
        self.accelerator.unscale_gradients(state.optimizer)
        norm = self.update.norm()
        # the device has all of its work now; meanwhile the host does its own
        monitor.write()
        if state.step + 1 < self.parts.total_steps:
            batches.prefetch()
        loss, norm_value, *parts, request = self._read(output, norm)
        loss_parts = dict(zip(output.parts, parts, strict=True))
        state.step += 1
        if self.update.is_good(loss, norm_value):
            self.update.step(norm, norm_value)
            if state.average is not None and math.isfinite(norm_value):  # the weights changed
                state.average.update(state.model)
            faults.good_step()
            state.images_seen += sum(batch.images)
        else:
            self.update.skip()
            self.writer.wait()  # the guard may name the last checkpoint
            faults.skip(state.step, loss, norm_value, loss_parts)
        more = self._evaluate(monitor)
        lr = top_rate(state.optimizer)
        with rows_known(batch.images):
            monitor.step(state.step, output, loss, norm_value, loss_parts, lr, **more)
        return int(request) if self.accelerator.num_processes > 1 else self.requests.current()

    def _skip(self, batch: StagedBatch, batches: StagedBatches, monitor: Monitor) -> int:
        """Pass over a batch that is too small for a loss; return as `_train_on` does.

        Every process does so at the same step, since all know the images of all.
        """
        state, request = self.state, self.requests.current()
        monitor.write()
        if state.step + 1 < self.parts.total_steps:
            batches.prefetch()
        request = all_reduce_max(request)
        state.step += 1
        state.skipped_batches += 1
        if state.skipped_batches == 1:
            logger.warning(
                "step %d is skipped: broken images left %d of the %d images of its batch, and a "
                "loss needs %d; skipped_batches in metrics.jsonl counts such steps",
                state.step,
                sum(batch.images),
                self.config.batch_size,
                self.least_images,
            )
        more = self._evaluate(monitor)
        lr = top_rate(state.optimizer)
        monitor.step(state.step, None, math.nan, math.nan, {}, lr, **more)
        return request if self.accelerator.num_processes > 1 else self.requests.current()

    def _read(self, output: StepOutput, norm: Tensor) -> list[float]:
        """Loss, norm, parts of the loss, and request: the one wait for the device in a step."""
        values = [output.loss, norm.to(output.loss.dtype), *output.parts.values()]
        if self.accelerator.num_processes == 1:
            return [*torch.stack(values).tolist(), 0]
        asked = torch.full_like(output.loss, self.requests.current())
        torch.distributed.all_reduce(asked, torch.distributed.ReduceOp.MAX)
        read = torch.stack([*values, asked])
        if read.device.type == "cuda" and torch.cuda.is_initialized():
            done = torch.cuda.current_stream().record_event()
            patience = min(60 * self.config.timeout_minutes, _PATIENCE)
            wait_with_others(done.query, patience)
        return read.tolist()

    def _evaluate(self, monitor: Monitor) -> dict:
        """Metrics of the features, if they are due after this step."""
        evaluation, step = self.parts.evaluation, self.state.step
        if evaluation is None or not monitor.ends_epoch(step):
            return {}
        every = self.config.evaluate_every or max(1, self.config.epochs // 10)
        if (step / self.epoch_steps) % every and step < self.parts.total_steps:
            return {}
        with monitor.aside():
            return evaluation(
                self.state.published, self.accelerator.device, self.accelerator.autocast
            )

    def _save_if_due(self, request: int, monitor: Monitor) -> None:
        step, every = self.state.step, self.config.checkpoint_steps
        stops, ends_epoch = request > SAVE, monitor.ends_epoch(step)
        if request or ends_epoch or (every is not None and step % every == 0):
            last = stops or step == self.parts.total_steps
            with monitor.aside():
                monitor.write()
                self._save(last=last, model=ends_epoch or stops)

    def _stop(self, request: int) -> int:
        number = signal_of(request)
        logger.warning(
            "%s: stopped after step %d of %d, the checkpoint is saved; --resume goes on",
            signal.Signals(number).name if number else "time is up",
            self.state.step,
            self.parts.total_steps,
        )
        return number

    def _save(self, *, last: bool, model: bool) -> None:
        """Write a checkpoint, and if asked to the model folder; every process must call it.

        They are written in the background, except the last ones.
        """
        self.requests.saved = time.perf_counter()
        if self.state.faults.in_a_row and not last:
            return  # these weights give no finite loss; earlier checkpoints stay
        self.state.broken.share()  # or a resume would forget those met since the last line
        self.state.faults.check_finite(self.state.step, self.state.model)
        failure = None
        if self.accelerator.is_main_process:
            try:
                self.writer.finish()  # or copies of the state would pile up
            except OSError as error:
                failure, last, model = error, True, True  # the run ends, with what fits now
            try:
                self._write(last=last, model=model)
            except (OSError, RuntimeError) as error:  # RuntimeError: no memory to pin
                failure = failure or error
        if all_reduce_max(int(failure is not None)):
            raise failure or OSError("process 0 could not write to the run folder and stopped")

    def _write(self, *, last: bool, model: bool) -> None:
        """Queue a checkpoint and the model folder, and wait for the last ones."""
        published = weights = host_copy(self.state.model.state_dict())
        if self.state.average is not None:
            published = host_copy(self.state.published.state_dict())
        self._save_checkpoint(weights, published, last=last)
        if model:
            self._save_model(published, last=last)
        if last:
            self.writer.finish()

    def _save_checkpoint(
        self, weights: dict[str, Tensor], published: dict[str, Tensor], *, last: bool
    ) -> None:
        folder, step, saved = (
            self.config.run_folder,
            self.state.step,
            self.state.state_dict(weights, published),
        )
        stop, keep = self.config.stop_when_disk_full or last, self.config.keep_checkpoints

        def write() -> None:
            with tolerate_disk_full("a checkpoint", folder, stop=stop):
                save_checkpoint(folder, step, saved, keep=keep)

        self.writer.submit(write)

    def _save_model(self, weights: dict[str, Tensor], *, last: bool) -> None:
        config, step, minutes = self.config, self.state.step, self.state.minutes
        # what is known by now of images that cannot be read; of cached ones all is
        broken = max(len(self.state.broken), self.parts.known_broken)
        images, images_seen = self.parts.batches.images - broken, self.state.images_seen
        stop = config.stop_when_disk_full or last

        def write() -> None:
            training = training_record(
                config,
                self.accelerator,
                step,
                self.epoch_steps,
                images=images,
                images_seen=images_seen,
                public=self.parts.public,
                minutes=minutes,
            )
            model = self.parts.saved_model
            model.load_state_dict(weights, assign=True)
            with tolerate_disk_full("the model folder", config.run_folder, stop=stop):
                save_pretrained(model, config.run_folder / MODEL, training=training)

        self.writer.submit(write)
