"""Results of raw pixels and random weights, kept in a file so that they are measured once."""

from __future__ import annotations

import base64
import hashlib
import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import timm
import torch
import torch.distributed as dist
import torchvision
from torch import Tensor

from effssl.atomic import json_text, one_writer, write_text
from effssl.distributed import gather_objects, world_size
from effssl.evaluation._agreement import images_digest
from effssl.evaluation._encoders import Encoder
from effssl.evaluation._episodes import LEAST_EPISODES
from effssl.evaluation._images import Images
from effssl.evaluation._settings import Settings
from effssl.evaluation.accuracy import Accuracy
from effssl.foreign import check_type, read_json
from effssl.model import SSLModel
from effssl.shown import one_line
from effssl.transform import create_transform
from effssl.version import __version__

logger = logging.getLogger(__name__)

_FORMAT = 1  # increase it when the same model, images and settings give other numbers
_MOST_BYTES = 16_000_000  # the oldest entries are dropped

Results = dict[str, list[Accuracy]]  # by protocol


class KeptBaselines:
    """Results of baselines in a file.

    An entry is used for the same images in the same order, with the same labels, decoding and
    transform, protocol, seeds, precision, kind of device and versions, and that of random weights
    for the same backbone. Under a launcher the main process reads and writes, and all get what it
    has read.

    Args:
        file: The file; None to keep nothing.
        model: The pretrained model.
        images: Images with their classes.
        settings: Protocols and their options, with the precision and k that are used.
    """

    def __init__(
        self, file: Path | None, model: SSLModel, images: Images, settings: Settings
    ) -> None:
        self.file, self.model, self.settings = file, model, settings
        if file is not None and _is_main():
            self._entries = _entries(file)
            self._common = _common(model, images, settings)

    def find(self, encoder: Encoder, names: Sequence[str]) -> Results | None:
        """Return the results of an encoder by some protocols; None if they are not all known.

        Every process must call it.
        """
        if self.file is None or not names:
            return None
        return gather_objects(self._find(encoder, names) if _is_main() else None)[0]

    def _find(self, encoder: Encoder, names: Sequence[str]) -> Results | None:
        found = {}
        for name in names:
            entry = self._entries.get(self._key(encoder, name))
            if entry is None or len(entry["top1"]) != self._count(encoder, name):
                return None
            found[name] = _results(entry)
        return found

    def keep(self, encoder: Encoder, results: Results) -> None:
        """Add results of an encoder to the file; say so if that cannot be."""
        if self.file is None or not _is_main():
            return
        new = {self._key(encoder, name): _entry(encoder, name, r) for name, r in results.items()}
        try:
            with one_writer(self.file):
                try:
                    known = _read(self.file)
                except ValueError:
                    known = {}
                kept = {key: entry for key, entry in known.items() if key not in new} | new
                write_text(self.file, _text(kept))
        except OSError as error:
            logger.warning("%s: %s are not kept: %s", self.file, encoder.words, one_line(error))

    def _count(self, encoder: Encoder, name: str) -> int:
        """Return how many results a protocol gives: one for each seed that makes a difference."""
        seeded = name == "linear" or (encoder.seeded and name in self.settings.frozen_names)
        return len(self.settings.seeds) if seeded else 1

    def _key(self, encoder: Encoder, name: str) -> str:
        size = encoder.img_size
        model, tuning = self.model, self.settings.tuning
        about = {
            "transform": f"{create_transform(model, img_size=size)}",
            "encoder": encoder.name,
            "protocol": name,
        }
        if encoder.seeded:
            cfg = model.backbone.pretrained_cfg
            about["backbone"] = f"{cfg['architecture']} {sorted(model.backbone_args.items())}"
        if name in self.settings.tuned_names:
            about["tuning"] = f"{tuning.epochs} {tuning.lr} {tuning.layer_decay}"
        elif name in self.settings.shot_names:
            about["episodes"] = f"{self.settings.shots.episodes}"
        elif name != "linear":
            about["temperature"] = f"{self.settings.vote.temperature}"
        return _digest(self._common | about)


def say_known(names: Iterable[str], file: Path) -> None:
    """Log which baselines are taken from a file."""
    logger.info("%s: measured before (%s)", " and ".join(names), one_line(file))


def _common(model: SSLModel, images: Images, settings: Settings) -> dict[str, str]:
    """Return what the results of all encoders depend on."""
    versions = [__version__, torch.__version__, timm.__version__, torchvision.__version__]
    sources = (images.train, images.test)
    return {
        "versions": f"{_FORMAT} {[*versions, PIL.__version__]}",
        "images": f"{[images_digest(source) for source in sources]}",
        "decoding": f"{[(source.in_chans, source.max_pixels) for source in sources]}",
        "labels": _digest([images.train_labels.tolist(), images.test_labels.tolist()]),
        "input": f"{model.backbone.pretrained_cfg['input_size']}",
        "seeds": f"{list(settings.seeds)}",
        "precision": f"{settings.precision} {next(model.parameters()).device.type}",
    }


def _entry(encoder: Encoder, name: str, results: list[Accuracy]) -> dict[str, Any]:
    top5 = [one.top5 for one in results]
    entry = {
        "encoder": encoder.name,
        "protocol": name,
        "top1": [one.top1 for one in results],
        "top5": None if None in top5 else top5,
        "images": len(results[0].correct),
        "correct": [_packed(one) for one in results],
    }
    if results[0].episodes is not None:
        entry["right"] = [_right(one).tolist() for one in results]
    return entry


def _results(entry: Mapping[str, Any]) -> list[Accuracy]:
    images, texts = entry["images"], entry["correct"]
    if "right" in entry:
        return [
            Accuracy.of_episodes(torch.tensor(right), _counts(text))
            for right, text in zip(entry["right"], texts, strict=True)
        ]
    top5 = entry["top5"] or [None] * len(texts)
    return [
        Accuracy(one, five, correct=_unpacked(bits, images))
        for one, five, bits in zip(entry["top1"], top5, texts, strict=True)
    ]


def _right(result: Accuracy) -> Tensor:
    """Return the number of right images by episode, (E,)."""
    return (result.episodes * len(result.correct) / 100).round().long()


def _packed(result: Accuracy) -> str:
    """Return a bit for each image, or with episodes a number of four bytes."""
    if result.episodes is None:
        packed = np.packbits(result.correct.numpy())
    else:
        packed = (result.correct * len(result.episodes)).round().numpy().astype("<u4")
    return base64.b64encode(packed.tobytes()).decode()


def _unpacked(bits: str, count: int) -> Tensor:
    packed = np.frombuffer(base64.b64decode(bits), np.uint8)
    return torch.from_numpy(np.unpackbits(packed, count=count).astype(bool))


def _counts(text: str) -> Tensor:
    return torch.from_numpy(np.frombuffer(base64.b64decode(text), "<u4").astype(np.int64))


def _text(entries: dict[str, Any]) -> str:
    """Return the content of the file, without the oldest entries if it would be too large."""
    text = json_text({"format": _FORMAT, "measured": entries})
    while len(text) > _MOST_BYTES and entries:
        entries = dict(list(entries.items())[(len(entries) + 1) // 2 :])
        text = json_text({"format": _FORMAT, "measured": entries})
    return text


def _entries(file: Path) -> dict[str, Any]:
    """Return the entries of a file by their keys; none, with a warning, if it cannot be read."""
    try:
        return _read(file)
    except (OSError, ValueError) as error:
        logger.warning("baselines are measured anew: %s", one_line(error))
        return {}


def _read(file: Path) -> dict[str, Any]:
    """Return the entries of a file by their keys; none if it is missing or of another format.

    Raises:
        OSError: If it cannot be read.
        ValueError: If it is not as we write it.
    """
    try:
        content = read_json(file, _MOST_BYTES)
    except FileNotFoundError:
        return {}
    if content.get("format") != _FORMAT:
        return {}
    entries = content.get("measured")
    try:
        check_type(entries, dict[str, dict], "measured")
        for entry in entries.values():
            _check(entry)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error
    return entries


def _check(entry: Mapping[str, Any]) -> None:
    top1, top5, correct = (entry.get(name) for name in ("top1", "top5", "correct"))
    check_type(top1, list[float], "top1")
    check_type(top5, list[float] | None, "top5")
    check_type(correct, list[str], "correct")
    check_type(entry.get("images"), int, "images")
    if not all(0 <= value <= 100 for value in [*top1, *(top5 or ())]):
        raise ValueError("a percentage must be from 0 to 100")
    if {len(top1), len(correct), *([] if top5 is None else [len(top5)])} != {len(top1)}:
        raise ValueError("top1, top5 and correct must be of one length")
    images, right = entry["images"], entry.get("right")
    check_type(right, list[list[int]] | None, "right")
    size = -(-images // 8) if right is None else 4 * images
    if size < 1 or any(len(base64.b64decode(bits, validate=True)) != size for bits in correct):
        raise ValueError("correct must have a bit for each image, or four bytes with episodes")
    if right is not None:
        _check_episodes(right, correct, images)


def _check_episodes(right: list[list[int]], correct: list[str], images: int) -> None:
    if len(right) != len(correct) or any(len(one) < LEAST_EPISODES for one in right):
        raise ValueError("right must have the episodes of each result")
    if not all(0 <= count <= images for one in right for count in one):
        raise ValueError("an episode must have from none to all images right")
    for one, text in zip(right, correct, strict=True):
        counts = _counts(text)
        if int(counts.max()) > len(one) or int(counts.sum()) != sum(one):
            raise ValueError("right and correct must count the same")


def _is_main() -> bool:
    return world_size() == 1 or dist.get_rank() == 0


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:32]
