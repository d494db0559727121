"""Report of a run: one self-contained HTML file, made from the run folder."""

from __future__ import annotations

import logging
import time
from pathlib import Path

import torch

from effssl.atomic import write_text
from effssl.evaluation.features import extract_features
from effssl.hints import nearest, option
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
    """Write the report of a run, finished or running, as one self-contained HTML file.

    Where something cannot be shown, such as images that have moved, the report says why.

    Args:
        run: Run folder.
        output: File to write; report.html in the run folder if None.
        dataset: Dataset with the images of the run; that of its configuration if None.
        images: Largest number of images to embed, for neighbors and map.

    Returns:
        Path of the file.

    Raises:
        FileNotFoundError: If there is no such folder, no config.json in it, or no folder for the
            output.
        ValueError: If it is not a run folder, or images is less than 1.
        OSError: If the file cannot be written.
    """
    if images < 1:
        raise ValueError(f"{option('images')} must be 1 or more; got {images}")
    found = read_run(run)
    output = found.folder / "report.html" if output is None else Path(output)
    if output.is_dir() or not output.parent.is_dir():
        raise FileNotFoundError(
            f"cannot write {output}: give a file in a folder that exists{nearest(output.parent)}"
        )
    page = _render(found, dataset, images)
    write_text(output, page)
    return output


def _render(run: Run, dataset: str | None, images: int) -> str:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("effssl", "report"),
        autoescape=True,  # names of datasets and classes are untrusted
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
        notices=find_notices(run, labeled=pictures["labeled"]),
        curves=charts.training_charts(run),
        knn=charts.knn_chart(run),
        spectra=spectra.spectrum_charts(run),
        spectrum=spectra.spectrum_table(run),
        evaluations=[tables.evaluation(one) for one in run.training.evaluation],
        evaluate=evaluate_command(run, labeled=pictures["labeled"]) if run.has_model else None,
        no_model=NO_MODEL,
        config=tables.configuration(run),
        lines=tables.lines(run),
        count=len(run.lines),
        **pictures,
    )


def _pictures(run: Run, dataset: str | None, images: int) -> dict:
    """Return what needs images or the model of a run, or the reason why it is missing."""
    shown = {"views": None, "neighbors": [], "sample": None, "legend": [], "labeled": None}
    shown |= {"map": Chart("Map of the features", None), "without_images": "", "without_model": ""}
    shown |= {"model": "", "embedded": 0, "shown_views": 0, "all_views": 0}
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
    shown |= {"sample": sample, "labeled": sample.labels is not None}
    counts = run.config.views, run.config.local_views
    shown |= {"views": gallery.views_picture(run.config, sample), "all_views": sum(counts)}
    shown["shown_views"] = sum(min(count, gallery.MOST_VIEWS) for count in counts)
    if not run.has_model:
        shown["without_model"] = NO_MODEL
        return shown
    try:
        embedded = _embed(run, sample)
    except (ValueError, OSError, RuntimeError) as error:
        logger.warning("no features in the report: %s", error)
        shown["without_model"] = "The model could not be applied to the images; the log says why."
        return shown
    step, epoch = run.training.step, run.training.epoch
    if step is not None:
        shown["model"] = f", of the model after step {step:,} (epoch {epoch:g})"
    kept = embedded.isfinite().all(1).nonzero()[:, 0].tolist()
    if len(kept) < 2:
        shown["without_model"] = (
            f"{len(kept)} of {len(embedded):,} images have finite features; neighbors need two."
        )
        return shown
    sample, embedded = sample.take(kept), embedded[kept]
    shown |= {"sample": sample, "embedded": len(embedded)}
    shown["neighbors"] = gallery.neighbors(sample, embedded)
    shown["map"], shown["legend"] = gallery.feature_map(sample, embedded)
    return shown


def _embed(run: Run, sample: gallery.Sample) -> torch.Tensor:
    model = from_pretrained(run.model_folder)
    # leave the GPU to a run that is still going
    if torch.cuda.is_available() and not run.config.cpu and run.state != "running":
        model.to("cuda")
    return extract_features(model, sample.source, progress=True)
