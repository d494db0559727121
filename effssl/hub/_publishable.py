"""What may be published: keys that effssl writes, with values of known forms, and nothing else."""

from __future__ import annotations

import dataclasses
import re
import shlex
from pathlib import Path
from typing import Any

from effssl.foreign import read_json
from effssl.hub._folder import PROBE, TRAINING, read_record
from effssl.hub._license import LICENSE
from effssl.hub._model_config import WEIGHT_FILES, ModelConfig
from effssl.hub._tensor_file import open_tensors
from effssl.shown import shown

_ID = r"(hf-hub:)?[\w-][\w.-]*/[\w-][\w.-]*(@[\w.-]+)?"  # on the Hub
_WORD = r"[\w.+:%\[\]()=,-]*"
# a slash stands between spaces only, as in a formula, and so in no path
_TEXT = r"(?:[\w .,:;%()\[\]=+*^'²±≥≤-]| / )*"
_ADDRESS = r"https://(github\.com|huggingface\.co|arxiv\.org|doi\.org|cv\.gluon\.ai)/[\w./%#-]*"
_TOKEN = re.compile(r"\b(hf|ghp|gho|github_pat|glpat|sk|xox[bp]|AKIA)[_-]?[A-Za-z0-9_-]{16,}")
_LOCAL_PATH = re.compile(r"""(^|[\s'"=(,;:])(\.{0,2}/[\w.]|~|[A-Za-z]:[\\/]|\\\\)|\bfile:""")
_BY_KEY = {
    "dataset": f"{_ID}|{_WORD}",
    "origin_url": _ADDRESS,
    "license_link": r"https?://\S+|LICENSE[\w.]*",
    "split": _WORD,
    "image_column": r"[\w ]*",
    "label_column": r"[\w ]*",
    "digest": r"[0-9a-f]*",
    "sha256": r"[0-9a-f]{64}",
    "precision": r"\w*",
    "hardware": r"(?:[\w .,:()+™®-]| [/@] |(?<=\d)/(?=\d))*",  # RTX 6000/8000, CPU @ 2.2GHz
}
_KEYS = {
    "": {"architecture", "num_classes", "num_features", "model_args", "pretrained_cfg", "effssl"},
    "effssl": {"format", *LICENSE[1:], *(field.name for field in dataclasses.fields(ModelConfig))},
}


def check_publishable(copy: Path, folder: Path) -> None:
    """Check that the files of a model hold nothing but what effssl writes into them.

    Args:
        copy: Copy of a model folder that loads.
        folder: The folder, for errors.

    Raises:
        ValueError: If one holds another key, a number that is not finite, or text that may be a
            path, a host or a token.
    """
    path = folder / "config.json"
    config = read_json(copy / "config.json")
    for key, known in _KEYS.items():
        _check_keys((config[key] if key else config).keys() - known, key, path)
    _check(config, path)
    if (copy / TRAINING).is_file():
        path, record = folder / TRAINING, read_record(copy)
        # values first: they say more
        _check(read_json(copy / TRAINING), path)
        _check_keys(record.unknown, "", path)
        for evaluation in record.evaluation:
            _check_keys(evaluation.unknown, "evaluation", path)
    for name in (*WEIGHT_FILES.values(), PROBE):
        if (copy / name).is_file():
            with open_tensors(copy / name) as file:
                if file.metadata.keys() - {"format"} or file.metadata.get("format", "pt") != "pt":
                    raise ValueError(
                        f"{folder / name} has metadata {shown(file.metadata)}, which effssl does "
                        "not write: save it without"
                    )


def _check_keys(unknown: Any, where: str, path: Path) -> None:
    for key in sorted(unknown):
        lead = f"{where}." if where else ""
        raise ValueError(
            f"{path}: {lead}{shown(key)[1:-1]} is nothing that effssl writes or publishes: "
            "take it out"
        )


def _check(value: Any, path: Path, key: str = "") -> None:
    name = key.rpartition(".")[2]
    if isinstance(value, dict):
        for inner, item in value.items():
            where = f"{key}.{inner}" if key else inner
            if not re.fullmatch(_TEXT, inner) or _TOKEN.search(inner):
                raise ValueError(f"{path}: {shown(where)} may be private as a key: take it out")
            _check(item, path, where)
    elif isinstance(value, list):
        for item in value:
            _check(item, path, key)
    elif isinstance(value, float) and not abs(value) < float("inf"):
        raise ValueError(f"{path}: {key} is {value}, and only finite numbers are published")
    elif isinstance(value, str) and not _is_good(name, key, value):
        what = "may be private"
        if _LOCAL_PATH.search(value):
            what = "holds a path of this machine"
        raise ValueError(f"{path}: {key} {what}, {shown(value)}: take it out")


def _is_good(name: str, key: str, value: str) -> bool:
    if _TOKEN.search(value) or _LOCAL_PATH.search(value):
        return False
    if key == "command":
        try:
            words = shlex.split(value)
        except ValueError:
            return False
        return all(re.fullmatch(rf"{_ID}|{_WORD}", word) for word in words)
    form = _BY_KEY.get(name, f"{_ID}|{_TEXT}" if key.startswith("config.") else _TEXT)
    return re.fullmatch(form, value) is not None
