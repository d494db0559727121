"""A run as one self-contained HTML file, made from what lies in its folder."""

from __future__ import annotations

import logging
import time
from pathlib import Path

import torch

from effssl.evaluation.features import extract_features
from effssl.hub.pull import from_pretrained
from effssl.report import _charts as charts
from effssl.report import _gallery as gallery
from effssl.report import _spectra as spectra
from effssl.report import _tables as tables
from effssl.report._notices import NO_MODEL, date, evaluate_command, find_notices
from effssl.report._run import Run, read_run
from effssl.report._svg import Chart

logger = logging.getLogger(__name__)


def write_report(
    run: str | Path,
    output: Path | None = None,
    *,
    dataset: str | None = None,
    images: int = 2000,
) -> Path:
    """Write a run as one HTML file that needs nothing else, while it goes on or afterwards.

    What cannot be shown, such as images that have moved, is said in its place.

    Args:
        run: A run folder.
        output: The file; report.html in the run folder if None.
        dataset: Where the images of the run are, if not where it found them.
        images: How many of them are embedded, at most, for their neighbours and the map.

    Returns:
        The file that was written.

    Raises:
        FileNotFoundError: If there is no such folder, no config.json in it, or no folder for the
            output.
        ValueError: If it is not a run folder, or images is below 1.
        OSError: If the file cannot be written.
    """
    if images < 1:
        raise ValueError(f"images must be 1 or more; got {images}")
    found = read_run(run)
    output = found.folder / "report.html" if output is None else Path(output)
    if output.is_dir() or not output.parent.is_dir():
        raise FileNotFoundError(f"cannot write {output}: give a file in a folder that exists")
    page = _render(found, dataset, images)
    partial = output.with_name(f".{output.name}.partial")
    partial.write_text(page, encoding="utf-8")
    partial.replace(output)
    return output


def _render(run: Run, dataset: str | None, images: int) -> str:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("effssl", "report"),
        autoescape=True,  # names of data and of classes come from anybody
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    pictures = _pictures(run, dataset, images)
    return environment.get_template("page.html.jinja").render(
        name=run.folder.resolve().name,
        made=date(time.time()),
        state=run.state,
        share=100 * run.step / run.total_steps if run.total_steps else None,
        facts=tables.facts(run),
        command=tables.command(run),
        notices=find_notices(run, labelled=pictures["labelled"]),
        curves=charts.training_charts(run),
        knn=charts.knn_chart(run),
        spectra=spectra.spectrum_charts(run),
        spectrum=spectra.spectrum_table(run),
        evaluations=[tables.evaluation(one) for one in run.training.get("evaluation", [])],
        evaluate=evaluate_command(run, labelled=pictures["labelled"]) if run.has_model else None,
        no_model=NO_MODEL,
        config=tables.configuration(run),
        lines=tables.lines(run),
        count=len(run.lines),
        **pictures,
    )


def _pictures(run: Run, dataset: str | None, images: int) -> dict:
    """What of a run needs its images and its model, and in place of each what is missing."""
    shown = {"views": None, "neighbours": [], "sample": None, "legend": [], "labelled": None}
    shown |= {"map": Chart("Map of the features", None), "without_images": "", "without_model": ""}
    shown |= {"model": "", "embedded": 0, "all_views": run.config.views}
    if run.config.streaming and dataset is None:
        shown["without_images"] = (
            "The run streamed its images, and a stream has none that can be looked up: name a "
            "copy that is not streamed with --dataset."
        )
        return shown
    try:
        sample = gallery.draw_sample(run.config, dataset, images)
    except (ValueError, OSError) as error:
        logger.warning("no images in the report: %s", error)
        shown["without_images"] = (
            f"The images of {dataset or run.config.dataset} cannot be read here: say where they "
            "are now with --dataset."
        )
        return shown
    shown |= {"sample": sample, "labelled": sample.labels is not None}
    shown["views"] = gallery.views_picture(run.config, sample)
    if not run.has_model:
        shown["without_model"] = NO_MODEL
        return shown
    try:
        embedded = _embed(run, sample)
    except (ValueError, OSError, RuntimeError) as error:
        logger.warning("no features in the report: %s", error)
        shown["without_model"] = "The model could not be applied to the images; the log says why."
        return shown
    step, epoch = run.training.get("step"), run.training.get("epoch")
    if step is not None:
        shown["model"] = f", of the model after step {step:,} (epoch {epoch:g})"
    kept = embedded.isfinite().all(1).nonzero()[:, 0].tolist()
    if len(kept) < 2:
        shown["without_model"] = (
            f"{len(kept)} of {len(embedded):,} images have finite features; neighbours need two."
        )
        return shown
    sample, embedded = sample.take(kept), embedded[kept]
    shown |= {"sample": sample, "embedded": len(embedded)}
    shown["neighbours"] = gallery.neighbours(sample, embedded)
    shown["map"], shown["legend"] = gallery.feature_map(sample, embedded)
    return shown


def _embed(run: Run, sample: gallery.Sample) -> torch.Tensor:
    model = from_pretrained(run.model_folder)
    # a run that goes on keeps its GPU for itself
    if torch.cuda.is_available() and not run.config.cpu and run.state != "running":
        model.to("cuda")
    return extract_features(model, sample.source, progress=True)
