"""The model card, made from what a model folder knows of itself; it holds no number of its own."""

from __future__ import annotations

import re
import statistics
from pathlib import Path

import yaml
from huggingface_hub import EvalResult, ModelCardData

from effssl.hub.card_content import DATA_IDS, PROTOCOL_TITLES, card_content, started_from
from effssl.hub.figures import draw_figures
from effssl.hub.folder import CARD, read_training
from effssl.hub.model_config import ModelConfig, read_config

_LOSS_TAGS = {"bt": "barlow-twins", "vicreg": "vicreg", "spectral": "spectral-contrastive"}
# metadata that an earlier card may have had made; a licence may have been written there by hand
_MADE = ("datasets", "base_model", "model-index")
_START = "<!-- effssl: made from the files beside it; write above this line -->"
_END = "<!-- effssl: until here; write below this line -->"


def write_card(folder: Path, repo_id: str, theirs: str = "") -> None:
    """Write README.md of a model folder and its figures.

    Only the block between two marks is made anew. What stands above and below it is kept, of the
    card in the folder or of the one on the Hub, whichever has anything there; so are metadata that
    are not made here.

    Args:
        folder: The model folder.
        repo_id: Where it is to be published, which the lines of code name.
        theirs: The card that is there already.

    Raises:
        ValueError: If both cards were written in by hand and differ there, or the metadata of one
            are no YAML.
    """
    path = folder / CARD
    ours = path.read_text() if path.is_file() else ""
    kept = _kept(ours, theirs, path)
    config, training = read_config(folder), read_training(folder)
    try:
        card = compose_card(config, training, repo_id, kept)
        draw_figures(training, folder)
    except KeyError as error:
        raise ValueError(
            f"{folder / 'training.json'} lacks {error}, which effssl writes: complete or delete it"
        ) from error
    partial = path.with_name(f"{path.name}.partial")
    partial.write_text(card)
    partial.replace(path)


def compose_card(
    config: ModelConfig, training: dict, repo_id: str, kept: tuple[dict, str, str] = ({}, "", "")
) -> str:
    """The text of the card, from config.json and training.json alone.

    Args:
        config: Of the model folder.
        training: Of the model folder; empty if it has none.
        repo_id: ``owner/name``.
        kept: Metadata, text above and text below the block, of an earlier card.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    metadata, above, below = kept
    made = _metadata(config, training, repo_id)
    tags = metadata.get("tags") or []
    theirs = {*([tags] if isinstance(tags, str) else tags)} - {*made["tags"], *_LOSS_TAGS.values()}
    made["tags"] += sorted(theirs)
    metadata = made | {k: v for k, v in metadata.items() if k not in {*made, *_MADE}}
    environment = Environment(
        loader=PackageLoader("effssl", "hub"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    block = environment.get_template("card.md.jinja").render(
        card_content(config, training, repo_id)
    )
    parts = ["---\n" + yaml.safe_dump(metadata, sort_keys=False, allow_unicode=True) + "---"]
    parts += [above, f"{_START}\n\n{block.strip()}\n\n{_END}", below]
    return "\n\n".join(part for part in parts if part) + "\n"


def _kept(ours: str, theirs: str, path: Path) -> tuple[dict, str, str]:
    """Metadata, text above and text below the block of the card that somebody wrote in."""
    mine, other = _split(ours), _split(theirs)
    written = any(mine[1:]), any(other[1:])
    if all(written) and mine[1:] != other[1:]:
        raise ValueError(
            f"{path} and the card on the Hub were both written in by hand and differ: delete the "
            "one here to keep the Hub's, or copy its text into the one here"
        )
    newer = mine if written[0] else other
    return (mine[0] | other[0] if written[1] else other[0] | mine[0]), *newer[1:]


def _split(card: str) -> tuple[dict, str, str]:
    found = re.match(r"---\n(.*?\n)?---\n", card, re.S)
    try:
        metadata = yaml.safe_load(found[1] or "") if found else {}
    except yaml.YAMLError as error:
        raise ValueError(f"the metadata of the card are no YAML: {error}") from error
    if not isinstance(metadata or {}, dict):
        raise ValueError(
            f"the metadata of the card are {type(metadata).__name__}, not names: values"
        )
    text = card[found.end() :] if found else card
    above, start, rest = text.partition(_START)
    block, end, below = rest.partition(_END)
    if not start or not end:  # somebody's own card: all of it is kept
        above, below = "", text
    return metadata or {}, above.strip(), below.strip()


def _metadata(config: ModelConfig, training: dict, repo_id: str) -> dict:
    """What the Hub reads: see https://huggingface.co/docs/hub/model-cards."""
    trained = training.get("config", {})
    data = DATA_IDS.get(trained.get("dataset"), trained.get("dataset"))
    loss = [_LOSS_TAGS[config.name.loss]] if config.name else []
    results = [
        EvalResult(
            task_type="image-classification",
            dataset_type=DATA_IDS.get(evaluation["dataset"], evaluation["dataset"]),
            dataset_name=evaluation["dataset"],
            dataset_split=evaluation["test_split"],
            metric_type="accuracy",
            metric_name=f"top-1 in percent, {PROTOCOL_TITLES[protocol]}",
            metric_value=round(statistics.mean(values), 2),
        )
        for evaluation in training.get("evaluation", [])
        for protocol, values in evaluation["top1"]["pretrained"].items()
        if evaluation["dataset"] is not None
    ]
    data = ModelCardData(
        library_name="timm",
        pipeline_tag="image-feature-extraction",
        tags=["timm", "transformers", "effssl", "self-supervised-learning", *loss],
        license=config.pretrained_cfg.get("license"),
        datasets=[data] if data else None,
        base_model=started_from(trained),
        model_name=repo_id.partition("/")[2] if results else None,
        eval_results=results or None,
    )
    return data.to_dict()
