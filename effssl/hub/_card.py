"""The model card, generated from the files of a model folder."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from effssl.atomic import write_text
from effssl.foreign import read_text
from effssl.hub._card_content import DATA_IDS, card_content, repository_of
from effssl.hub._card_metadata import (
    TAGS,
    by_hand,
    comment,
    digest,
    digests,
    license_of,
    merged,
    parse_comment,
)
from effssl.hub._figures import draw_figures
from effssl.hub._folder import CARD, MOST_CARD, TRAINING, read_record
from effssl.hub._license import License
from effssl.hub._model_config import ModelConfig, read_config
from effssl.hub._yaml import dump_yaml, parse_yaml
from effssl.local import MOVED_SAMPLE
from effssl.loss_specs import LOSSES
from effssl.records import TrainingRecord

_START = "<!-- effssl {}: made from the files beside it; write above this line -->"
_END = "<!-- effssl: until here; write below this line -->"


def compose_card(
    folder: Path, repo_id: str, theirs: str | None = None, license: License | None = None
) -> str:
    """Generate README.md of a model folder from its config.json and training.json.

    Only the block between two markers is generated. Text above and below it, and metadata that a
    person wrote or changed, come from the card in the folder or the one on the Hub, whichever was
    edited since both were the same; the block holds digests that tell.

    Args:
        folder: Model folder.
        repo_id: Repository to publish to, named in the examples.
        theirs: Card on the Hub, empty if there is none; None if it is not known.
        license: License of the weights; that of the cards or of config.json if None.

    Raises:
        ValueError: If both cards were edited and differ, the metadata of one are not YAML, the Hub
            does not know the license, or training.json lacks something that effssl writes.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    path = folder / CARD
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
        ours = _Card.parse(read_text(path, MOST_CARD) if path.is_file() else "", path, made)
        there = _Card.parse(theirs or "", "the card on the Hub", made)
        chosen = license or _license(config, ours, there)
        content = card_content(config, training, repo_id, chosen)
    except KeyError as error:
        raise ValueError(
            f"{folder / TRAINING} lacks {error}, which effssl writes: complete or delete it"
        ) from error
    block = environment.get_template("card.md.jinja").render(content)
    kept = _merged(ours, there, path)
    card = _Card(
        merged(made, kept.by_hand(), chosen),
        kept.above,
        kept.below,
        made=digests(made) | {"config_license": digest(config.license)},
    )
    if theirs is None:  # what both cards shared when it was last sent
        card.base, sent = ours.base or _NOTHING, ours.made.get("license")
    else:
        card.base, sent = card.digest(), digest(chosen.metadata() if chosen else {})
    if sent is not None:
        card.made["license"] = sent
    return card.text(block)


def read_license(card: str) -> License | None:
    """Return the license in the metadata of a card."""
    return license_of(_Card.parse(card, CARD, {}).metadata, CARD)


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
    made: dict[str, str] = field(default_factory=dict)
    """Digests of the metadata that effssl made."""

    @classmethod
    def parse(cls, text: str, where: Path | str, made: dict[str, Any]) -> _Card:
        """Read a card.

        Args:
            text: The card.
            where: Its name in errors.
            made: Metadata that effssl makes now; a card of an earlier version does not say what was
                made then.
        """
        found = re.match(r"---\r?\n(.*?\n)?---\r?\n", text, re.S)
        try:
            values = (parse_yaml(found[1] or "") if found else {}) or {}
        except ValueError as error:
            raise ValueError(f"the metadata of {where} cannot be read as YAML: {error}") from error
        if not isinstance(values, dict):
            raise ValueError(f"the metadata of {where} are {type(values).__name__}, not pairs")
        text = text[found.end() :] if found else text
        start = re.search(_START.format(r"([0-9a-f]*)"), text)
        above, end, below = text.partition(_END)
        if not start or not end:  # a card that effssl did not write: keep all of it
            return cls(values, "", text.strip())
        before = parse_comment(above[start.end() :])
        if before is None:
            before = digests(made)
            if "model-index" in values:
                before["model-index"] = digest(values["model-index"])
        return cls(values, above[: start.start()].strip(), below.strip(), start[1], before)

    def by_hand(self) -> dict[str, Any]:
        """Return the metadata that a person wrote or changed, but for the license."""
        return by_hand(self.metadata, self.made)

    def digest(self) -> str:
        """Return a digest of all that is written by hand, but for the license."""
        return digest([self.by_hand(), self.above, self.below])

    def is_changed(self) -> bool:
        return self.digest() != (self.base or _NOTHING)

    def licenses(self) -> list[str]:
        """Return digests of the licenses of card and config.json when it was made."""
        return [self.made[key] for key in ("license", "config_license") if key in self.made]

    def text(self, block: str) -> str:
        start = f"{_START.format(self.base)}\n{comment(self.made)}"
        made = f"{start}\n\n{block.strip()}\n\n{_END}"
        parts = [f"---\n{dump_yaml(self.metadata)}---", self.above, made, self.below]
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


def _license(config: ModelConfig, ours: _Card, theirs: _Card) -> License | None:
    """Return the license that was given last, in a card or in config.json.

    Raises:
        ValueError: If the Hub does not know one, or two places were changed since the last push and
            differ.
    """
    cards = {"README.md": ours, "the card on the Hub": theirs}
    said = {where: license_of(card.metadata, where) for where, card in cards.items()}
    in_config = license_of(config.license, "config.json")
    is_new = not any(digest(config.license) in card.licenses() for card in cards.values())
    changed = {}
    for where, license in said.items():
        made, now = cards[where].made, digest(license.metadata()) if license else None
        # one that was that of config.json goes with it
        if now not in (None, made.get("license")) and not (
            in_config and is_new and now == made.get("config_license")
        ):
            changed[where] = license
    if in_config and is_new:
        changed["config.json"] = in_config
    if len(set(changed.values())) > 1:
        places = " and ".join(f"{license} in {where}" for where, license in changed.items())
        raise ValueError(f"the license is {places}: give the right one")
    if changed:
        return next(iter(changed.values()))
    return said["the card on the Hub"] or said["README.md"] or in_config


def _metadata(config: ModelConfig, training: TrainingRecord, repo_id: str) -> dict:
    """Return the metadata that the Hub reads; see https://huggingface.co/docs/hub/model-cards."""
    trained = training.config or {}
    data = DATA_IDS.get(trained.get("dataset"), trained.get("dataset"))
    spec = LOSSES.get(config.name.loss) if config.name else None
    loss = [spec.card_tag] if spec else []
    # one result for a protocol on a split, though it may have been measured in two precisions
    results = {
        (evaluation.dataset, evaluation.test_split, protocol): EvalResult(
            task_type="image-classification",
            dataset_type=DATA_IDS.get(evaluation.dataset, evaluation.dataset),
            dataset_name=evaluation.dataset,
            # results on images of another kind are listed apart
            dataset_config="moved" if evaluation.dataset == MOVED_SAMPLE else None,
            dataset_split=evaluation.test_split,
            metric_type="accuracy",
            metric_name=f"top-1 in percent, {protocol}",
            metric_value=round(mean, 2),
        )
        for evaluation in training.evaluation
        for protocol, mean in evaluation.means("pretrained").items()
        if evaluation.dataset is not None
    }
    data = ModelCardData(
        library_name="timm",
        pipeline_tag="image-feature-extraction",
        tags=[*TAGS, *loss],
        datasets=[data] if data else None,
        base_model=repository_of(config, trained),
        model_name=repo_id.partition("/")[2] if results else None,
        eval_results=list(results.values()) or None,
    )
    return data.to_dict()
