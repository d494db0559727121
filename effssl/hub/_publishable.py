"""What may be published: keys that effssl writes, with values of known forms, and nothing else."""

from __future__ import annotations

import dataclasses
import re
import shlex
from pathlib import Path
from typing import Any

from effssl.background import FORM
from effssl.foreign import read_json
from effssl.hub._folder import PROBE, TRAINING, read_record
from effssl.hub._license import LICENSE, License
from effssl.hub._model_config import WEIGHT_FILES, ModelConfig, set_license
from effssl.hub._record_keys import COLUMNS, CONFIG, PRIVATE, VERSIONS, VIEW
from effssl.hub._tensor_file import open_tensors
from effssl.shown import shown

_ID = r"(hf-hub:)?[\w-][\w.-]*/[\w-][\w.-]*(@[\w.-]+)?"  # on the Hub
_WORD = r"[\w.+:%\[\]()=,-]*"
# a slash stands between spaces only, as in a formula, and so in no path
_TEXT = r"(?:[\w .,:;%()\[\]=+*^'²±≥≤-]| / )*"
_ADDRESS = r"https://(github\.com|huggingface\.co|arxiv\.org|doi\.org|cv\.gluon\.ai)/[\w./%#-]*"
_TOKEN = re.compile(
    r"\b(hf|gh[a-z]|github_pat|glpat|sk|xox[a-z]|AKIA)[_-]?[A-Za-z0-9_-]{16,}"
    # what no other word holds is found within words, too
    r"|(hf|gh[a-z]|github_pat)_[A-Za-z0-9_]{16,}|(glpat|xox[a-z])-[\w-]{16,}|sk-[A-Za-z0-9]{20,}"
    r"|AKIA[A-Z0-9]{16}"
)
_IP = re.compile(r"(?<![\w.])\d{1,3}(\.\d{1,3}){3}(?![\w.]*\w)")
_LOCAL_PATH = re.compile(r"""(^|[\s'"=(,;:])(\.{0,2}/[\w.]|~|[A-Za-z]:[\\/]|\\\\)|\bfile:""")
# of a class: any characters that show
_NAME = r"[^\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]{0,80}"
_FORMS = {
    r"config\.dataset|evaluation\.dataset": f"{_ID}|{_WORD}",
    r"(config|effssl)\.background": FORM,
    r"config\.(image_column|label_column)": r"[\w ]*",
    r"config\.\w+|model_args\.\w+": f"{_ID}|{_WORD}",
    r"pretrained_cfg\.origin_url": _ADDRESS,
    r"effssl\.base\.model": f"{_ID}|{_WORD}",
    r"effssl\.license_link": r"https?://[^\s@/?#]+([/?#]\S*)?|LICENSE[\w.]*",  # and no user
    r"evaluation\.\w*split": rf"{_WORD}( \([\d.e-]+ %, stratified, seed \d+\))?",
    r"evaluation\.class_names": _NAME,
    r"evaluation\.digest": r"[0-9a-f]*",
    r"(effssl\.files|evaluation\.probe)\..*sha256": r"[0-9a-f]{64}",
    r"precision|evaluation\.precision": r"\w*",
    # RTX 6000/8000, CPU @ 2.2GHz; a point as in 2.2 or Inc., and so no name of a host
    r"hardware": r"(?:[\w ,:()+™®-]|\.(?=\s|$)|(?<=\d)\.(?=\d)| [/@] |(?<=\d)/(?=\d))*",
    r"versions\.\w+": r"\d[\w.+!-]*",
}
"""Forms of text, by the keys that lead to it; other text has that of a sentence."""
_KEYS = {
    "": {"architecture", "num_classes", "num_features", "model_args", "pretrained_cfg", "effssl"},
    "effssl": {"format", *LICENSE[1:], *(field.name for field in dataclasses.fields(ModelConfig))},
}
_RECORD_KEYS = {"config": CONFIG | PRIVATE, "versions": VERSIONS, "history": COLUMNS}


def check_publishable(copy: Path, folder: Path, license: License | None = None) -> None:
    """Check that the files of a model hold nothing but what effssl writes into them.

    Args:
        copy: Copy of a model folder that loads.
        folder: The folder, for errors.
        license: License that config.json gets; the one that it has if None.

    Raises:
        ValueError: If one holds another key, a number that is not finite, or text that may be a
            path, a host or a token.
    """
    path = folder / "config.json"
    config = read_json(copy / "config.json")
    if license is not None:
        set_license(config, license)
    for key, known in _KEYS.items():
        _check_keys((config[key] if key else config).keys() - known, key, path)
    _check(config, path)
    if (copy / TRAINING).is_file():
        path, record = folder / TRAINING, read_record(copy)
        # values first: they say more
        _check(read_json(copy / TRAINING), path)
        _check_keys(record.unknown, "", path)
        for key, known in _RECORD_KEYS.items():
            _check_keys((getattr(record, key) or {}).keys() - known, key, path)
        view = (record.config or {}).get("view", {})
        _check_keys(view.keys() - VIEW, "config.view", path)
        for name in sorted(PRIVATE):
            if (record.config or {}).get(name) is not None:
                raise ValueError(f"{path}: config.{name} is private: take it out")
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
    elif isinstance(value, str) and not _is_good(key, value):
        what = "may be private"
        if _LOCAL_PATH.search(value):
            what = "holds a path of this machine"
        raise ValueError(f"{path}: {key} {what}, {shown(value)}: take it out")


def _is_good(key: str, value: str) -> bool:
    if _TOKEN.search(value) or _LOCAL_PATH.search(value):
        return False
    if not key.startswith("versions.") and _IP.search(value):
        return False
    if key == "command":
        return _is_command(value)
    form = next((form for where, form in _FORMS.items() if re.fullmatch(where, key)), _TEXT)
    return re.fullmatch(form, value) is not None


def _is_command(value: str) -> bool:
    try:
        words = shlex.split(value)
    except ValueError:
        return False
    names = CONFIG | {f"view.{name}" for name in VIEW}
    flags = {"--" + name.replace("_", "-") for name in names}
    return all(
        word in flags if word.startswith("--") else re.fullmatch(rf"{_ID}|{_WORD}|{FORM}", word)
        for word in words
    )
