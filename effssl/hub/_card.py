"""The model card, generated from the files of a model folder."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

import yaml
from huggingface_hub import EvalResult, ModelCardData

from effssl.atomic import write_text
from effssl.hub._card_content import DATA_IDS, card_content, started_from
from effssl.hub._figures import draw_figures
from effssl.hub._folder import CARD, TRAINING, read_record
from effssl.hub._model_config import ModelConfig, read_config
from effssl.loss_specs import LOSSES
from effssl.records import TrainingRecord

_TAGS = ("timm", "transformers", "effssl", "self-supervised-learning")
_MADE = ("library_name", "pipeline_tag", "license", "datasets", "base_model", "model-index")
_START = "<!-- effssl {}: made from the files beside it; write above this line -->"
_END = "<!-- effssl: until here; write below this line -->"


def compose_card(folder: Path, repo_id: str, theirs: str | None = None) -> str:
    """Generate README.md of a model folder from its config.json and training.json.

    Only the block between two markers is generated. Text above and below it, and other metadata,
    come from the card in the folder or the one on the Hub, whichever was edited since both were the
    same; the first marker holds a digest that tells.

    Args:
        folder: Model folder.
        repo_id: Repository to publish to, named in the examples.
        theirs: Card on the Hub, empty if there is none; None if it is not known.

    Raises:
        ValueError: If both cards were edited and differ, the metadata of one are not YAML, or
            training.json lacks something that effssl writes.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    path = folder / CARD
    ours = _Card.parse(path.read_text(encoding="utf-8") if path.is_file() else "")
    kept = _merged(ours, _Card.parse(theirs or ""), path)
    config, training = read_config(folder), read_record(folder)
    environment = Environment(
        loader=PackageLoader("effssl", "hub"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    try:
        training.check_complete()
        made = _metadata(config, training, repo_id)
        content = card_content(config, training, repo_id)
    except KeyError as error:
        raise ValueError(
            f"{folder / TRAINING} lacks {error}, which effssl writes: complete or delete it"
        ) from error
    block = environment.get_template("card.md.jinja").render(content)
    if "license" in kept.metadata:  # only the owner knows it
        made.setdefault("license", kept.metadata["license"])
    by_hand = kept.by_hand()
    made["tags"] += by_hand.pop("tags")
    card = _Card(made | by_hand, kept.above, kept.below)
    # digest of the text by hand that both cards share: now, or when it was last sent
    card.base = ours.base if theirs is None and ours.is_changed() else card.digest()
    return card.text(block)


def write_card(folder: Path, card: str) -> None:
    """Write a card and its figures to a model folder."""
    draw_figures(read_record(folder), folder)
    write_text(folder / CARD, card)


@dataclass
class _Card:
    """A card without its generated block: metadata, and the text above and below."""

    metadata: dict
    above: str = ""
    below: str = ""
    base: str = ""
    """Digest of the text by hand when it was last sent."""

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
        if not start or not end:  # a card that effssl did not write: keep all of it
            return cls(metadata, "", text.strip())
        return cls(metadata, above[: start.start()].strip(), below.strip(), start[1])

    def by_hand(self) -> dict:
        """Return the metadata that effssl does not generate."""
        tags = self.metadata.get("tags") or []
        tags = {str(tag) for tag in ([tags] if isinstance(tags, str) else tags)}
        others = {key: value for key, value in self.metadata.items() if key not in _MADE}
        made = {*_TAGS, *(spec.card_tag for spec in LOSSES.values())}
        return others | {"tags": sorted(tags - made)}

    def digest(self) -> str:
        """Return a digest of all that is written by hand."""
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
    """Return the card that was edited since both were the same; theirs if none was."""
    if theirs == _Card({}):  # there is none
        return ours
    there = theirs.digest()
    if ours.is_changed() and there not in (ours.digest(), ours.base, _NOTHING):
        raise ValueError(
            f"{path} and the card on the Hub were both written in by hand and differ: delete the "
            "one here to keep the Hub's, then write in the one that comes in its place"
        )
    return ours if ours.is_changed() else theirs


def _metadata(config: ModelConfig, training: TrainingRecord, repo_id: str) -> dict:
    """Return the metadata that the Hub reads; see https://huggingface.co/docs/hub/model-cards."""
    trained = training.config or {}
    data = DATA_IDS.get(trained.get("dataset"), trained.get("dataset"))
    loss = [LOSSES[config.name.loss].card_tag] if config.name else []
    results = [
        EvalResult(
            task_type="image-classification",
            dataset_type=DATA_IDS.get(evaluation.dataset, evaluation.dataset),
            dataset_name=evaluation.dataset,
            dataset_split=evaluation.test_split,
            metric_type="accuracy",
            metric_name=f"top-1 in percent, {protocol}",
            metric_value=round(mean, 2),
        )
        for evaluation in training.evaluation
        for protocol, mean in evaluation.means("pretrained").items()
        if evaluation.dataset is not None
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
