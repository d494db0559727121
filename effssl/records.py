"""Records of a training and of its evaluations, as training.json of a model folder keeps them."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, get_type_hints

from effssl.foreign import check_type
from effssl.record_cells import mean_and_interval, mean_and_spread
from effssl.record_checks import (
    check_config,
    check_episodes,
    check_errors,
    check_history,
    check_spectrum,
    check_table,
)
from effssl.record_tables import joined_seeds, joined_tables, merged_tables, without_protocols

_SAME_IMAGES = ("dataset", "train_split", "test_split", "train_images", "test_images", "digest")
_NOT_OF_JSON = ("keys", "unknown")  # fields that say how the others lie in the file


@dataclass
class EvaluationRecord:
    """Results on one set of test images, from `effssl.evaluation.record` or a file.

    Attributes:
        dataset: Name of the dataset; None if it is not public.
        train_split: Split that votes and is fitted to; None without labels.
        train_images: Number of labeled training images; 0 without labels.
        test_split: Split that is measured.
        test_images: Number of test images.
        digest: Digest of all labels; it tells datasets without a name apart.
        classes: Number of classes.
        protocols: A sentence for each protocol, by its name.
        seeds: Seeds of each protocol.
        of: What a spread is taken over: ``seeds`` of the evaluation, or ``trainings``.
        top1: Percentages by encoder and protocol, one for each seed.
        top5: Likewise, where it is defined.
        spectrum: Label-free measures by ``features`` and ``projections``.
        precision: What the backbone computed in.
        probe: Bytes and sha256 of the file of the linear probe, if there is one.
        left_out: Number of ``unlabeled`` and of ``broken`` images by ``train`` and ``test``, where
            there are any.
        majority: Top-1 in percent of always guessing the most frequent class of train.
        tuning_steps: Steps of every protocol of fine-tuning.
        paired_errors: Standard errors in points, by baseline and protocol, of the difference to it,
            paired by test image (`effssl.evaluation`).
        episodes: Draws of labels of every few-shot protocol.
        episode_errors: Standard errors in points of the mean over draws, by encoder and protocol.
        paired_episode_errors: Likewise of the difference to a baseline, paired by draw.
        class_names: Names of the classes of the linear probe, in order; they go with its file.
        keys: Keys of the JSON object, in order; others with a default value are left out.
        unknown: Values of keys that this version does not know.
    """

    dataset: str | None = None
    train_split: str | None = None
    train_images: int = 0
    test_split: str = ""
    test_images: int = 0
    digest: str | None = None
    classes: int | None = None
    protocols: dict[str, str] = field(default_factory=dict)
    seeds: dict[str, list[int]] = field(default_factory=dict)
    of: str | None = "seeds"
    top1: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    top5: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    spectrum: dict[str, dict[str, Any]] = field(default_factory=dict)
    precision: str = "fp32"
    probe: dict[str, Any] | None = None
    left_out: dict[str, dict[str, int]] = field(default_factory=dict)
    majority: float | None = None
    tuning_steps: dict[str, int] = field(default_factory=dict)
    paired_errors: dict[str, dict[str, float]] = field(default_factory=dict)
    episodes: dict[str, int] = field(default_factory=dict)
    episode_errors: dict[str, dict[str, float]] = field(default_factory=dict)
    paired_episode_errors: dict[str, dict[str, float]] = field(default_factory=dict)
    class_names: list[str] = field(default_factory=list)
    keys: tuple[str, ...] = (
        "dataset",
        "train_split",
        "train_images",
        "test_split",
        "test_images",
        "digest",
        "classes",
        "protocols",
        "seeds",
        "of",
        "top1",
        "top5",
        "spectrum",
    )
    unknown: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> EvaluationRecord:
        """Read an entry of ``evaluation`` in training.json.

        Raises:
            ValueError: If it is not an object, or a value is of another type or not finite.
        """
        record = cls(**_fields(cls, content))
        check_table(record.top1, "top1")
        check_table(record.top5, "top5")
        check_spectrum(record.spectrum)
        check_errors(record.paired_errors, record.majority)
        check_episodes(record.episodes, record.episode_errors, record.paired_episode_errors)
        for name, kind in {"bytes": int, "sha256": str}.items() if record.probe else ():
            check_type(record.probe.get(name), kind, f"{name} of probe")
        return record

    def to_json(self) -> dict[str, Any]:
        """Return the entry for training.json: the keys it came with, in their order."""
        return _content(self)

    def same_images(self, other: EvaluationRecord) -> bool:
        """Whether both were measured on the same images."""
        return all(getattr(self, name) == getattr(other, name) for name in _SAME_IMAGES)

    def extends(self, earlier: EvaluationRecord) -> bool:
        """Whether both can be one record: no protocol of the same name is another one in it."""
        return (
            self.same_images(earlier)
            and (self.of, self.precision) == (earlier.of, earlier.precision)
            and all(earlier.protocols.get(k, text) == text for k, text in self.protocols.items())
        )

    def merged(self, later: EvaluationRecord) -> EvaluationRecord:
        """Combine with a later evaluation that extends this one.

        Numbers of other protocols, encoders and seeds are added; those of the same ones replaced.
        """
        content = self.to_json() | later.to_json()
        drawn = {"episodes": self.episodes | later.episodes} if "episodes" in content else {}
        both = EvaluationRecord.from_json(content | drawn)
        seeds = (self.seeds, later.seeds)
        both.top1 = joined_tables(self.top1, later.top1, *seeds)
        both.top5 = joined_tables(self.top5, later.top5, *seeds)
        both.seeds = joined_seeds(later.top1, *seeds)
        both.protocols = self.protocols | later.protocols
        both.tuning_steps = self.tuning_steps | later.tuning_steps
        both.episode_errors = merged_tables(self.episode_errors, later.episode_errors)
        measured = later.top1.get("pretrained", {})
        for name in ("paired_errors", "paired_episode_errors"):
            kept = without_protocols(getattr(self, name), measured)  # numbers that are still here
            setattr(both, name, merged_tables(kept, getattr(later, name)))
        both.spectrum = later.spectrum or self.spectrum
        names = (*both.keys, "top1", "top5", "protocols", "seeds", "spectrum")
        both.keys = tuple(dict.fromkeys(names))
        return both

    def check_complete(self) -> None:
        """Raise KeyError for a key that a model card needs and the file lacks.

        Raises:
            ValueError: If the spectrum is not whole.
        """
        check_spectrum(self.spectrum, whole=True)
        _check_keys(
            self.keys,
            (
                "dataset",
                "train_images",
                "test_split",
                "test_images",
                "protocols",
                "seeds",
                "of",
                "top1",
                "spectrum",
            ),
        )

    def means(self, encoder: str) -> dict[str, float]:
        """Return the mean top-1 of an encoder by protocol."""
        row = self.top1.get(encoder, {})
        return {name: statistics.mean(values) for name, values in row.items() if values}

    def guesses(self, measure: str = "top1") -> dict[str, float]:
        """Return what guessing gives in percent: by chance, and the most frequent class of train.

        Args:
            measure: ``top1`` or ``top5``.
        """
        found = {}
        if self.classes is not None and self.classes > 0:
            found["chance"] = 100 * min(1.0, (1 if measure == "top1" else 5) / self.classes)
        if self.majority is not None and measure == "top1":
            found["majority class"] = self.majority
        return found

    def rows(self, measure: str = "top1", *, digits: int = 1) -> list[tuple[str, list[str]]]:
        """Return a row for each protocol: its name, and a cell for each encoder of `top1`.

        Args:
            measure: ``top1`` or ``top5``.
            digits: Decimals of a cell.
        """
        table = self.top1 if measure == "top1" else self.top5
        return [
            (name, [self.cell(encoder, name, measure, digits=digits) for encoder in self.top1])
            for name in self.protocols
            if any(name in row for row in table.values())
        ]

    def cell(self, encoder: str, protocol: str, measure: str = "top1", *, digits: int = 1) -> str:
        """Return mean and spread, or over draws of labels mean and interval of 95 %.

        Args:
            encoder: Name of the encoder.
            protocol: Name of the protocol.
            measure: ``top1`` or ``top5``.
            digits: Decimals.
        """
        table = self.top1 if measure == "top1" else self.top5
        values = table.get(encoder, {}).get(protocol)
        error = self.episode_errors.get(encoder, {}).get(protocol)
        if not values or error is None or measure == "top5":
            return mean_and_spread(values, digits=digits)
        return mean_and_interval(values, error, self.episodes[protocol], digits=digits)


@dataclass
class TrainingRecord:
    """Content of training.json: how a model was trained, and what was measured since.

    A value is None where the file does not have it, as in the folder of a model that was only
    saved.

    Attributes:
        config: Configuration of the run, by the version of effssl that trained.
        command: Command that trains the same model.
        images: Number of training images, without broken ones.
        step: Optimizer steps.
        epoch: Epochs.
        images_seen: Images trained on, with repetition.
        views_seen: Views seen.
        minutes: Training time.
        hardware: Name of the GPU or CPU.
        processes: Number of processes.
        precision: ``no`` (float32), ``bf16`` or ``fp16``.
        versions: Versions of Python and of packages.
        history: Columns of metrics over training.
        evaluation: Evaluations, each of other images.
        keys: Keys of the JSON object, in order; others with a default value are left out.
        unknown: Values of keys that this version does not know.
    """

    config: dict[str, Any] | None = None
    command: str | None = None
    images: int | None = None
    step: int | None = None
    epoch: float | None = None
    images_seen: int | None = None
    views_seen: int | None = None
    minutes: float | None = None
    hardware: str | None = None
    processes: int | None = None
    precision: str | None = None
    versions: dict[str, str] | None = None
    history: dict[str, list] | None = None
    evaluation: list[EvaluationRecord] = field(default_factory=list)
    keys: tuple[str, ...] = ()
    unknown: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> TrainingRecord:
        """Read what training.json holds.

        Raises:
            ValueError: If it or an evaluation is not an object, or a value is of another type or
                not finite.
        """
        known = _fields(cls, content)
        check_config(known.get("config") or {})
        check_history(known.get("history"))
        found = known.get("evaluation", [])
        if not isinstance(found, list):
            raise ValueError(f"evaluation must be a list of objects, is {type(found).__name__}")
        known["evaluation"] = [EvaluationRecord.from_json(one) for one in found]
        return cls(**known)

    def to_json(self) -> dict[str, Any]:
        """Return the content of training.json: the keys it came with, in their order."""
        content = _content(self)
        if "evaluation" in content:
            content["evaluation"] = [one.to_json() for one in self.evaluation]
        return content

    def add(self, evaluation: EvaluationRecord) -> EvaluationRecord:
        """Add an evaluation, merged into an earlier one that it extends, and return it."""
        others = []
        for earlier in self.evaluation:
            if evaluation.extends(earlier):
                evaluation = earlier.merged(evaluation)
            else:
                others.append(earlier)
        self.evaluation = [*others, evaluation]
        return evaluation

    def set_probe(self, evaluation: EvaluationRecord, probe: dict[str, Any]) -> None:
        """Note the file of the linear probe at its evaluation, and at no other one."""
        for other in (one for one in self.evaluation if one is not evaluation):
            other.probe, other.class_names = None, []
            other.keys = tuple(key for key in other.keys if key not in ("probe", "class_names"))
        evaluation.probe = probe

    def check_complete(self) -> None:
        """Raise KeyError for a key that a model card needs and the file lacks."""
        for one in self.evaluation:
            one.check_complete()
        if self.config is not None:
            needed = ("images", "step", "epoch", "images_seen", "views_seen", "minutes")
            needed += ("hardware", "precision", "versions")
            _check_keys([key for key in self.keys if vars(self).get(key) is not None], needed)


def _fields(cls: type, content: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments that make a record of a JSON object."""
    if not isinstance(content, Mapping):
        raise ValueError(f"a record must be an object, is {type(content).__name__}")
    names = {f.name for f in dataclasses.fields(cls)} - {*_NOT_OF_JSON}
    known: dict[str, Any] = {name: value for name, value in content.items() if name in names}
    hints = get_type_hints(cls)
    for name, value in known.items():
        if name != "evaluation":  # is read one by one
            check_type(value, hints[name], name)
    known["unknown"] = {name: value for name, value in content.items() if name not in names}
    known["keys"] = tuple(content)
    return known


def _content(record: EvaluationRecord | TrainingRecord) -> dict[str, Any]:
    """Return a record as a JSON object, without values that are neither of the file nor set."""
    empty = type(record)()
    values = {name: getattr(record, name) for name in vars(record) if name not in _NOT_OF_JSON}
    names = [*record.keys, *(n for n in values if values[n] != getattr(empty, n))]
    return {name: (values | record.unknown)[name] for name in dict.fromkeys(names)}


def _check_keys(keys: Sequence[str], needed: Sequence[str]) -> None:
    for name in needed:
        if name not in keys:
            raise KeyError(name)
