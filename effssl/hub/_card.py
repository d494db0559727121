"""The model card, made from what a model folder knows of itself; it holds no number of its own."""

from __future__ import annotations

import hashlib
import re
import statistics
from dataclasses import dataclass
from pathlib import Path

import yaml
from huggingface_hub import EvalResult, ModelCardData

from effssl.hub._card_content import DATA_IDS, card_content, started_from
from effssl.hub._figures import draw_figures
from effssl.hub._folder import CARD, read_training
from effssl.hub._model_config import ModelConfig, read_config
from effssl.loss_specs import LOSSES

_TAGS = ("timm", "transformers", "effssl", "self-supervised-learning")
_MADE = ("library_name", "pipeline_tag", "license", "datasets", "base_model", "model-index")
_START = "<!-- effssl {}: made from the files beside it; write above this line -->"
_END = "<!-- effssl: until here; write below this line -->"


def compose_card(folder: Path, repo_id: str, theirs: str | None = None) -> str:
    """README.md of a model folder, from its config.json and training.json.

    Only the block between two marks is made anew. What stands above and below it, and metadata that
    are not made here, are taken from the card in the folder or from the one on the Hub: from the
    one that was written in since they were the same, which the first mark tells.

    Args:
        folder: The model folder.
        repo_id: Where it is to be published, which the lines of code name.
        theirs: The card that is there already, empty if there is none; None if that is not known.

    Raises:
        ValueError: If both cards were written in and differ, the metadata of one are no YAML, or
            training.json is not what effssl writes.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    path = folder / CARD
    ours = _Card.parse(path.read_text(encoding="utf-8") if path.is_file() else "")
    kept = _merged(ours, _Card.parse(theirs or ""), path)
    config, training = read_config(folder), read_training(folder)
    environment = Environment(
        loader=PackageLoader("effssl", "hub"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    try:
        made = _metadata(config, training, repo_id)
        content = card_content(config, training, repo_id)
    except KeyError as error:
        raise ValueError(
            f"{folder / 'training.json'} lacks {error}, which effssl writes: complete or delete it"
        ) from error
    block = environment.get_template("card.md.jinja").render(content)
    if "license" in kept.metadata:  # which only its owner knows, by whatever way they say it
        made.setdefault("license", kept.metadata["license"])
    by_hand = kept.by_hand()
    made["tags"] += by_hand.pop("tags")
    card = _Card(made | by_hand, kept.above, kept.below)
    # what is written by hand in both: what is sent now, or still what was sent before
    card.base = ours.base if theirs is None and ours.is_changed() else card.digest()
    return card.text(block)


def write_card(folder: Path, card: str) -> None:
    """Put a card and its figures into a model folder."""
    draw_figures(read_training(folder), folder)
    partial = folder / f".{CARD}.partial"
    partial.write_text(card, encoding="utf-8")
    partial.replace(folder / CARD)


@dataclass
class _Card:
    """A card but for its block: its metadata, and the text above and below."""

    metadata: dict
    above: str = ""
    below: str = ""
    base: str = ""
    """The digest of what was written by hand when it was last sent."""

    @classmethod
    def parse(cls, text: str) -> _Card:
        found = re.match(r"---\n(.*?\n)?---\n", text, re.S)
        try:
            metadata = (yaml.safe_load(found[1] or "") if found else {}) or {}
        except yaml.YAMLError as error:
            raise ValueError(f"the metadata of the card are no YAML: {error}") from error
        if not isinstance(metadata, dict):
            raise ValueError(f"the metadata of the card are {type(metadata).__name__}, not pairs")
        text = text[found.end() :] if found else text
        start = re.search(_START.format(r"([0-9a-f]*)"), text)
        above, end, below = text.partition(_END)
        if not start or not end:  # somebody's own card: all of it is kept
            return cls(metadata, "", text.strip())
        return cls(metadata, above[: start.start()].strip(), below.strip(), start[1])

    def by_hand(self) -> dict:
        """The metadata that effssl does not make."""
        tags = self.metadata.get("tags") or []
        tags = {str(tag) for tag in ([tags] if isinstance(tags, str) else tags)}
        others = {key: value for key, value in self.metadata.items() if key not in _MADE}
        made = {*_TAGS, *(spec.card_tag for spec in LOSSES.values())}
        return others | {"tags": sorted(tags - made)}

    def digest(self) -> str:
        """Of all that is written by hand."""
        parts = yaml.safe_dump([self.by_hand(), self.above, self.below], sort_keys=True)
        return hashlib.sha256(parts.encode()).hexdigest()[:16]

    def is_changed(self) -> bool:
        return self.digest() != (self.base or _NOTHING)

    def text(self, block: str) -> str:
        metadata = yaml.safe_dump(self.metadata, sort_keys=False, allow_unicode=True)
        made = f"{_START.format(self.base)}\n\n{block.strip()}\n\n{_END}"
        parts = [f"---\n{metadata}---", self.above, made, self.below]
        return "\n\n".join(part for part in parts if part) + "\n"


_NOTHING = _Card({}).digest()


def _merged(ours: _Card, theirs: _Card, path: Path) -> _Card:
    """The card that was changed since both were the same; theirs if none was."""
    if theirs == _Card({}):  # there is none
        return ours
    there = theirs.digest()
    if ours.is_changed() and there not in (ours.digest(), ours.base, _NOTHING):
        raise ValueError(
            f"{path} and the card on the Hub were both written in by hand and differ: delete the "
            "one here to keep the Hub's, then write in the one that comes in its place"
        )
    return ours if ours.is_changed() else theirs


def _metadata(config: ModelConfig, training: dict, repo_id: str) -> dict:
    """What the Hub reads: see https://huggingface.co/docs/hub/model-cards."""
    trained = training.get("config", {})
    data = DATA_IDS.get(trained.get("dataset"), trained.get("dataset"))
    loss = [LOSSES[config.name.loss].card_tag] if config.name else []
    results = [
        EvalResult(
            task_type="image-classification",
            dataset_type=DATA_IDS.get(evaluation["dataset"], evaluation["dataset"]),
            dataset_name=evaluation["dataset"],
            dataset_split=evaluation["test_split"],
            metric_type="accuracy",
            metric_name=f"top-1 in percent, {protocol}",
            metric_value=round(statistics.mean(values), 2),
        )
        for evaluation in training.get("evaluation", [])
        for protocol, values in evaluation["top1"].get("pretrained", {}).items()
        if evaluation["dataset"] is not None
    ]
    data = ModelCardData(
        library_name="timm",
        pipeline_tag="image-feature-extraction",
        tags=[*_TAGS, *loss],
        license=config.pretrained_cfg.get("license"),
        datasets=[data] if data else None,
        base_model=started_from(trained),
        model_name=repo_id.partition("/")[2] if results else None,
        eval_results=results or None,
    )
    return data.to_dict()
