"""A finished run, a copy of it to be changed, and its report."""

import shutil
from pathlib import Path

import pytest
from reported_runs import EVALUATION, TINY, evaluate, read

import effssl
from effssl.report import _charts as charts
from effssl.report import _spectra as spectra
from effssl.report import write_report
from effssl.report._svg import Chart


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """A finished run, evaluated."""
    folder = tmp_path_factory.mktemp("runs") / "first"
    effssl.pretrain(effssl.PretrainConfig(**TINY, output=str(folder)))
    evaluate(folder, EVALUATION)
    return folder


@pytest.fixture
def run(trained, tmp_path, monkeypatch):
    """A copy of it, to be changed, whose charts are not drawn: that takes seconds."""
    for module in (charts, spectra):
        monkeypatch.setattr(
            module, "draw", lambda key, title, plot, text="": Chart(title, "", text)
        )
    return Path(shutil.copytree(trained, tmp_path / "copy"))


@pytest.fixture(scope="session")
def whole(trained, tmp_path_factory):
    """Its report."""
    return read(write_report(trained, tmp_path_factory.mktemp("reports") / "first.html"))
