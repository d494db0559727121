"""The model card, made from what a model folder knows of itself; it holds no number of its own."""

from __future__ import annotations

import functools
import re
import statistics
from pathlib import Path

import torch
import yaml
from huggingface_hub import EvalResult, ModelCardData

from effssl.hub.folder import CARD, PROBE, build_sketch, read_training
from effssl.hub.model_config import ModelConfig, read_config
from effssl.model import SSLModel

FIGURES = ("loss.png", "spectrum.png")
_START = "<!-- effssl: made from the files beside it; write above this line -->"
_END = "<!-- effssl: until here; write below this line -->"
_LOSSES = {"bt": "Barlow Twins", "vicreg": "VICReg", "spectral": "the spectral contrastive loss"}
_LOSS_TAGS = {"bt": "barlow-twins", "vicreg": "vicreg", "spectral": "spectral-contrastive"}
_PROTOCOLS = {"knn": "k-NN", "linear": "linear probe"}
_MODES = {1: "L", 3: "RGB", 4: "RGBA"}
# the sample of the package is part of a data set that the Hub knows
_DATA_IDS = {"fashion-mnist-sample": "zalando-datasets/fashion_mnist"}
_DATA_LICENCES = {"zalando-datasets/fashion_mnist": "MIT, copyright Zalando SE"}
_CITATIONS = {
    "bt": """@inproceedings{zbontar2021barlow,
  title={Barlow Twins: Self-Supervised Learning via Redundancy Reduction},
  author={Zbontar, Jure and Jing, Li and Misra, Ishan and LeCun, Yann and Deny, St{\\'e}phane},
  booktitle={International Conference on Machine Learning},
  year={2021}
}""",
    "vicreg": """@inproceedings{bardes2022vicreg,
  title={{VICReg}: Variance-Invariance-Covariance Regularization for Self-Supervised Learning},
  author={Bardes, Adrien and Ponce, Jean and LeCun, Yann},
  booktitle={International Conference on Learning Representations},
  year={2022}
}""",
}
_CITATION = """@inproceedings{agrawal2024harnessing,
  title={Harnessing small projectors and multiple views for efficient vision pretraining},
  author={Agrawal, Kumar Krishna and Ghosh, Arna and Sodhani, Shagun and Oberman, Adam and
    Richards, Blake},
  booktitle={Advances in Neural Information Processing Systems},
  year={2024}
}"""


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
    _draw_figures(training, folder)
    card = compose_card(config, training, repo_id, kept)
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
    environment = Environment(
        loader=PackageLoader("effssl", "hub"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    block = environment.get_template("card.md.jinja").render(_content(config, training, repo_id))
    made = _metadata(config, training, repo_id)
    for key, value in made.items():
        if isinstance(value, list) and isinstance(metadata.get(key), list) and key != "model-index":
            value = value + [item for item in metadata[key] if item not in value]
        metadata = metadata | {key: value}
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
    text = card[found.end() :] if found else card
    above, start, rest = text.partition(_START)
    block, end, below = rest.partition(_END)
    if not start or not end:  # somebody's own card: all of it is kept
        above, below = "", text
    return metadata or {}, above.strip(), below.strip()


def _metadata(config: ModelConfig, training: dict, repo_id: str) -> dict:
    """What the Hub reads: see https://huggingface.co/docs/hub/model-cards."""
    trained = training.get("config", {})
    data = _DATA_IDS.get(trained.get("dataset"), trained.get("dataset"))
    loss = [_LOSS_TAGS[config.name.loss]] if config.name else []
    results = [
        EvalResult(
            task_type="image-classification",
            dataset_type=_DATA_IDS.get(evaluation["dataset"], evaluation["dataset"]),
            dataset_name=evaluation["dataset"],
            dataset_split=evaluation["test_split"],
            metric_type="accuracy",
            metric_name=f"top-1 in percent, {_PROTOCOLS[protocol]}",
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
        license=_licence(config),
        datasets=[data] if data else None,
        base_model=_started_from(trained),
        model_name=repo_id.partition("/")[2] if results else None,
        eval_results=results or None,
    )
    return data.to_dict()


def _content(config: ModelConfig, training: dict, repo_id: str) -> dict:
    """What the template is filled with."""
    model, map_shape = build_sketch(config), None
    channels, size = config.pretrained_cfg["input_size"][:2]
    try:
        with torch.inference_mode(), torch.device("meta"):
            images = torch.empty(1, channels, size, size)
            map_shape = list(model.eval().backbone.forward_features(images).shape)
    except (AttributeError, NotImplementedError, RuntimeError):
        pass  # not every backbone of timm can say so without computing
    mode = _MODES.get(channels)
    image = f'import numpy as np\n\nimage = np.zeros(({channels}, {size}, {size}), "uint8")'
    if mode:
        image = 'from PIL import Image\n\nimage = Image.open("image.png")'
        if mode == "RGB":
            image += '.convert("RGB")'
    name, trained = config.name, training.get("config", {})
    used = name.loss if name else None
    return {
        "title": str(name or repo_id.partition("/")[2]),
        "repo_id": repo_id,
        "backbone": name.backbone if name else config.architecture,
        "architecture": config.architecture,
        "loss": _LOSSES[name.loss] if name else None,
        "views": name.views if name else None,
        "started_from": _started_from(trained),
        "projector_dim": config.projector_dim,
        "data": _data(training),
        "channels": channels,
        "size": size,
        "num_features": model.num_features,
        "map_shape": map_shape,
        "small": config.architecture.endswith("_cifar"),
        "mode": mode,
        "image": image,
        "facts": _facts(config, training, model),
        "evaluations": [_evaluation(found) for found in training.get("evaluation", [])],
        "has_history": bool(training.get("history")),
        "figures": dict(zip(("loss", "spectrum"), FIGURES, strict=True)),
        "command": training.get("command"),
        "training": _training(training),
        "limits": _limits(config, training),
        "licences": _licences(config, trained),
        "citations": [_CITATION] + [_CITATIONS[loss] for loss in _CITATIONS if loss == used],
    }


def _facts(config: ModelConfig, training: dict, model: SSLModel) -> list[tuple[str, str]]:
    cfg = config.pretrained_cfg
    facts = [
        (f"Parameters of the {name}", f"{sum(p.numel() for p in module.parameters()):,}")
        for name, module in model.named_children()
    ]
    side, share = cfg["input_size"][-1], cfg.get("crop_pct", 1.0)
    transform = (
        f"shorter side to {int(side / share)} px ({cfg.get('interpolation', 'bilinear')}), centre "
        f"crop of {side} px, values from 0 to 1, mean {_numbers(cfg['mean'])}, std "
        f"{_numbers(cfg['std'])}"
    )
    facts += [("Features", f"{model.num_features:,}"), ("Transform", transform)]
    files = [(name, file, "") for name, file in config.files.items()]
    files += [
        (PROBE, found["probe"], f"weight and bias of the linear probe on {found['dataset']}; ")
        for found in training.get("evaluation", [])
        if "probe" in found
    ]
    facts += [
        (f"`{name}`", f"{text}{file['bytes']:,} bytes, sha256 `{file['sha256']}`")
        for name, file, text in files
    ]
    return facts


def _evaluation(found: dict) -> dict:
    seeds = ", ".join(str(seed) for seed in found["seeds"])
    spread = f"seed {seeds}"
    if len(found["seeds"]) > 1:
        spread = f"mean ± standard deviation of {len(found['seeds'])} {found['of']}, seeds {seeds}"
        if found["of"] == "trainings":
            spread += f"; the weights here are those of seed {found['seeds'][0]}"
    lead = (
        f"Top-1 in percent on {found['test_images']:,} images of {found['dataset'] or 'the data'} "
        f"({found['test_split']}), of frozen features; {found['train_images']:,} labelled images "
        f"({found['train_split']}) vote and are fitted to; {spread}"
    )
    rows = [
        (name, [_mean_and_spread(row[protocol]) for protocol in found["protocols"]])
        for name, row in found["top1"].items()
    ]
    return {
        "lead": lead,
        "titles": [_PROTOCOLS[protocol] for protocol in found["protocols"]],
        "protocols": found["protocols"].values(),
        "rows": rows,
        "effective_rank": f"{found['spectrum']['effective_rank']:,}",
    }


def _training(training: dict) -> list[tuple[str, str]]:
    if "config" not in training:
        return []
    config, versions = training["config"], training["versions"]
    rows = {
        "Images": f"{training['images']:,}",
        "Epochs": f"{training['epoch']:,}",
        "Steps": f"{training['step']:,} of {config['batch_size']:,} images",
        "Images seen": f"{training['images_seen']:,}",
        "Views seen": f"{training['views_seen']:,}",
        "Views": f"preset {config['preset']}, {config['img_size']} px",
        "Optimizer": f"{config['optimizer']}, lr {config['lr']:g}, scaled by the batch: "
        f"{config['lr_scaling']}; weight decay {config['weight_decay']:g}; cosine decay after a "
        f"warm-up of {config['warmup_epochs']:g} epochs or a tenth of the run",
        "Seed": str(config["seed"]),
        "Precision": {"no": "float32"}.get(training["precision"], training["precision"]),
        "Hardware": training["hardware"],
        "Minutes": f"{training['minutes']:,}",
        "Versions": ", ".join(f"{name} {version}" for name, version in versions.items()),
    }
    return list(rows.items())


def _limits(config: ModelConfig, training: dict) -> list[str]:
    channels, size = config.pretrained_cfg["input_size"][:2]
    limits = [
        f"The backbone has seen {channels}-channel views of {size} px only; other images, sizes "
        "and tasks were not tried."
    ]
    for found in training.get("evaluation", []):
        for name in ("raw pixels", "random initialisation"):
            worse = [
                _PROTOCOLS[protocol]
                for protocol, values in found["top1"]["pretrained"].items()
                if statistics.mean(values) <= statistics.mean(found["top1"][name][protocol])
            ]
            if worse:
                limits.append(f"By {' and '.join(worse)} the features are no better than {name}.")
    limits.append("Features repeat whatever bias the images have; nothing was done about it.")
    return limits


def _licences(config: ModelConfig, trained: dict) -> list[str]:
    licences = []
    if _licence(config):
        licences.append(f"Weights: {_licence(config)}.")
    data = _DATA_IDS.get(trained.get("dataset"), trained.get("dataset"))
    if data in _DATA_LICENCES:
        licences.append(f"Images of the training: {_DATA_LICENCES[data]}.")
    elif data:
        licences.append(f"Images of the training: see https://huggingface.co/datasets/{data}.")
    return licences


def _licence(config: ModelConfig) -> str | None:
    return config.pretrained_cfg.get("license")


def _started_from(trained: dict) -> str | None:
    return f"timm/{trained['backbone']}" if trained.get("pretrained") else None


def _data(training: dict) -> str | None:
    trained = training.get("config")
    if trained is None:
        return None
    data = trained.get("dataset") or "a data set that is not published"
    return f"{training['images']:,} images of {data}"


def _numbers(values: list[float]) -> str:
    return ", ".join(f"{value:g}" for value in values)


def _mean_and_spread(values: list[float]) -> str:
    mean = f"{statistics.mean(values):.1f}"
    return mean if len(values) < 2 else f"{mean} ± {statistics.stdev(values):.1f}"


def _draw_figures(training: dict, folder: Path) -> None:
    """Write the figures that there are facts for, and delete the others."""
    history = training.get("history")
    spectra = [found["spectrum"] for found in training.get("evaluation", [])]
    draws = {
        FIGURES[0]: functools.partial(_draw_loss, history) if history else None,
        FIGURES[1]: functools.partial(_draw_spectrum, spectra[0]) if spectra else None,
    }
    for name, draw in draws.items():
        if draw is None:
            (folder / name).unlink(missing_ok=True)
            continue
        from matplotlib.figure import Figure

        figure = Figure(figsize=(6, 3), dpi=120, layout="constrained")
        draw(figure.subplots())
        figure.savefig(folder / name, metadata={"Software": None})


def _draw_loss(history: dict, axes) -> None:
    axes.plot(history["epoch"], history["loss"], color="C0")
    axes.set(xlabel="epoch", ylabel="loss")
    if any(value is not None for value in history.get("knn", [])):
        points = [
            (e, k) for e, k in zip(history["epoch"], history["knn"], strict=True) if k is not None
        ]
        other = axes.twinx()
        other.plot(*zip(*points, strict=True), "o-", color="C1")
        other.set_ylabel("k-NN top-1 of held-out images, %", color="C1")
    axes.grid(alpha=0.3)


def _draw_spectrum(spectrum: dict, axes) -> None:
    axes.loglog(spectrum["rank"], spectrum["eigenvalue"], ".-")
    axes.set(xlabel="rank", ylabel="eigenvalue of the covariance")
    axes.grid(alpha=0.3, which="both")
