"""``effssl report``."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import tyro

from effssl.local import check_run_folder_name
from effssl.shown import plain


@dataclasses.dataclass(frozen=True)
class Report:
    """Write a page about a run, finished or not, to open in a browser: report.html in its folder.

    It shows the configuration, losses, speed, k-NN and spectra over time, images with their views,
    nearest neighbors, a map of the features, evaluations and warnings. It needs no network.
    """

    run_folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Run folder."""
    output: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """File to write; report.html in the run folder if None."""
    dataset: Annotated[str | None, tyro.conf.arg(metavar="DATASET")] = None
    """Where the images are now; where the run had them if None."""
    images: int = 2000
    """Images that are embedded for neighbors and map."""

    def run(self) -> None:
        """Write the page, and print where it is."""
        check_run_folder_name(self.run_folder)  # before torch is imported
        from effssl.report import write_report

        page = write_report(self.run_folder, self.output, dataset=self.dataset, images=self.images)
        print(plain(str(page)))
