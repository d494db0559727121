"""``effssl evaluate``."""

from __future__ import annotations

import dataclasses
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from effssl.cli._check import no_folder
from effssl.cli._model import (
    Precision,
    baselines_file,
    check_names,
    images_of,
    is_main_process,
    load_model,
    pixel_options,
    python_name,
)
from effssl.cli._splits import open_splits
from effssl.training._fields import Column, GivenColor, Split
from effssl.training.config import GivenRange

if TYPE_CHECKING:
    from effssl.data import Source
    from effssl.evaluation import Evaluation
    from effssl.records import EvaluationRecord


@dataclasses.dataclass(frozen=True)
class Evaluate:
    """Measure features, with labels beside raw pixels and random weights by the same protocols.

    knn and linear use frozen features, and so does fewshot, with 1 to 20 labels of every class;
    finetune trains all weights, which takes minutes, with the first seed only; spectrum needs no
    labels: with it alone, --test-split names the images. The result for a local folder is written
    to its training.json, which the card and the report read.
    With several GPUs: torchrun --nproc_per_node 8 -m effssl.cli evaluate ...
    """

    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")]
    """Model folder, run folder, repository owner/name on the Hub, or name in the package."""
    dataset: Annotated[str | None, tyro.conf.arg(metavar="DATASET")] = None
    """Labeled images, as for pretrain; what the model was trained on if None."""
    protocols: tuple[Literal["knn", "linear", "fewshot", "finetune", "spectrum"], ...] = (
        "knn",
        "linear",
        "spectrum",
    )
    """One or more."""
    train_split: Split = "train"
    """Split that votes and that classifiers are fitted to."""
    test_split: Annotated[str | None, tyro.conf.arg(metavar="SPLIT")] = None
    """Split that everything is measured on; if None test, else validation, else a share of train,
    the first that there is with labels."""
    test_share: float | None = None
    """Share of every class of train to measure on and not to fit to, instead of a split; 0.2 where
    that is all there is."""
    baselines: Literal["none", "raw", "random", "all"] = "all"
    """What is measured beside the model: raw pixels, the same backbone with random weights, or
    both. They are measured once for a data set and a backbone."""
    image_column: Column = None
    """Column with the images; found by its type if None."""
    label_column: Column = None
    """Column with integer classes; found by type and name if None."""
    value_range: GivenRange = None
    """Stored values that become black and white, or auto; those of the pretraining if None."""
    background: GivenColor = None
    """Color behind transparent pixels, or drop; that of the pretraining if None."""
    max_pixels: int | None = None
    """Most pixels of an image; that of the pretraining if None."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds of the random weights, of the held-out part of train, and of fine-tuning."""
    k: tuple[int, ...] | None = None
    """Neighbors that vote; those of 1, 5, 20, 200 that train has if None."""
    temperature: float = 0.07
    """T of the vote's weights exp(cosine / T)."""
    shots: tuple[int, ...] | None = None
    """fewshot: labels of every class; those of 1, 5, 10, 20 that every class of train has if
    None."""
    episodes: int = 100
    """fewshot: times that the labels are drawn; the same for all encoders and models."""
    shares: tuple[float, ...] = (1.0, 0.1, 0.01)
    """finetune: shares of the labels of train."""
    epochs: int | None = None
    """finetune: passes over the labeled images; 3 / sqrt(share) if None, but 100 steps or more."""
    lr: float = 1e-3
    """finetune: learning rate after warm-up."""
    layer_decay: float | None = None
    """finetune: factor of the learning rate from each layer to the one below."""
    precision: Precision = "auto"
    """Precision of the backbone; auto is bf16 by autocast on a GPU that has it, else fp32."""
    max_broken: float = 0.01
    """Largest share of broken images of a split, which are named and left out; 0 allows none."""
    per_class: bool = False
    """Print the accuracy and the number of test images of every class too."""
    json: Annotated[
        Path | None, tyro.conf.arg(name="output", aliases=("--json",), metavar="FILE")
    ] = None
    """File to write all numbers to, with accuracy by class and confusion matrices."""
    workers: int | None = None
    """Processes that decode images; if None one for each core up to 8, but none on a CPU or for
    fewer than 2,000 images."""
    revision: Annotated[str | None, tyro.conf.arg(metavar="REVISION")] = None
    """Branch, tag or commit of the repository."""
    cpu: bool = False
    """Compute on the CPU even where there is a GPU."""

    def run(self) -> None:
        """Measure, print the tables, and write the record into a local model folder."""
        if self.json is not None and not self.json.parent.is_dir():
            raise no_folder(self.json)
        check_names(self.model, self.dataset)
        from effssl.data import load_source
        from effssl.data.sources import is_public
        from effssl.evaluation import evaluate
        from effssl.hub._folder import with_earlier

        weights = self._weights()
        folder, encoder, trained = load_model(self.model, self.revision, self.cpu)
        dataset, image_column = images_of(self.model, trained, self.dataset, self.image_column)
        # before it is read: a folder that is moved away looks like a name on the Hub
        public = dataset if is_public(dataset) else None
        options = {
            "in_chans": encoder.backbone.pretrained_cfg["input_size"][0],
            "image_column": image_column,
            "label_column": self.label_column,
        } | pixel_options(encoder, trained, self.value_range, self.max_pixels, self.background)
        train, test = open_splits(
            partial(load_source, dataset, **options),
            self.train_split,
            self.test_split,
            self.test_share,
            labeled=self.protocols != ("spectrum",),
        )
        from effssl.views.options import views_of

        preset, view = views_of(trained)
        found = evaluate(
            encoder,
            train,
            test,
            protocols=self.protocols,
            seeds=self.seeds,
            k=self.k,
            temperature=self.temperature,
            shots=self.shots,
            episodes=self.episodes,
            shares=self.shares,
            epochs=self.epochs,
            lr=self.lr,
            layer_decay=self.layer_decay,
            preset=preset,
            view=view,
            baselines=self.baselines,
            baselines_file=baselines_file(folder),
            max_broken=self.max_broken,
            precision=self.precision,
            workers=self.workers,
            progress=True,
        )
        if is_main_process():
            noted = _record(found, public, train, test)
            every = noted if weights is None else with_earlier(folder, noted)
            self._show(found, every, train, test.split, str(dataset), encoder.num_features)
            self._note(found, noted, folder, weights)

    def _show(
        self,
        found: Evaluation,
        every: EvaluationRecord,
        train: Source | None,
        test_split: str,
        dataset: str,
        width: int,
    ) -> None:
        """Print the tables and lines of Python, and write the file of all numbers."""
        from effssl.atomic import write_json
        from effssl.evaluation._tables import all_numbers
        from effssl.shown import plain

        print(f"\n{found.test_images:,} images of {plain(dataset)}, {plain(test_split)}")
        self._print(found, every, train)
        if self.json is not None:
            write_json(self.json, all_numbers(found, every, train, dataset))
        print(
            f"\nimport effssl\n"
            f"model = effssl.from_pretrained({plain(python_name(self.model, self.revision))})\n"
            f"transform = effssl.create_transform(model)\n"
            f"features = model(transform(image)[None])  # (1, {width})"
        )

    def _weights(self) -> dict[str, dict] | None:
        """Return bytes and sha256 of the weights in a local folder; a download is not noted in."""
        from effssl.hub._model_config import read_config
        from effssl.hub.pull import find_model

        if not self.model.startswith("local-dir:") and not Path(self.model).is_dir():
            return None
        return read_config(find_model(self.model)).files

    def _print(self, found: Evaluation, noted: EvaluationRecord, train: Source | None) -> None:
        """Print the tables and the verdict, with what was noted of the same images earlier."""
        from effssl.evaluation._tables import (
            accuracy_table,
            class_table,
            left_out_lines,
            spectrum_table,
            verdict_text,
        )

        if noted.top1:
            print(accuracy_table(noted))
        if text := verdict_text(noted):
            print(text)
        if noted.spectrum:
            print(spectrum_table(noted))
        if self.per_class and found.accuracy:
            print(class_table(found, train))
        if text := left_out_lines(noted):
            print(f"\n{text}")

    def _note(
        self,
        found: Evaluation,
        noted: EvaluationRecord,
        folder: Path,
        weights: dict[str, dict] | None,
    ) -> None:
        """Write the record into a local model folder; say so if that cannot be."""
        from effssl.hub._folder import add_evaluation
        from effssl.shown import one_line

        if weights is None:
            return
        probe = found.probe and {"weight": found.probe.weight, "bias": found.probe.bias}
        try:
            add_evaluation(folder, noted, probe, files=weights)
        except OSError as error:  # the numbers are printed, which is what was wanted
            why = error.strerror or error
            said = f"warning: {folder} does not get the result: {why}"
            print(one_line(said), file=sys.stderr)


def _record(
    found: Evaluation, dataset: str | None, train: Source | None, test: Source
) -> EvaluationRecord:
    from effssl.evaluation import record
    from effssl.evaluation._tables import class_names

    return record(
        [found],
        dataset=dataset,
        train_split=None if train is None else train.split,
        test_split=test.split,
        class_names=class_names(found, train),
    )
