"""The page of a report: one valid file that says what a run measured; no other folder has one."""

import getpass
import re
import shutil
import socket
from html.parser import HTMLParser
from pathlib import Path

import pytest
from reported_runs import (
    EVALUATION,
    change_config,
    evaluate,
    levels,
    metrics,
    read,
    report,
    section,
    write_metrics,
)

from effssl.evaluation._verdict import verdict
from effssl.records import EvaluationRecord
from effssl.report import _page as page
from effssl.report import write_report
from effssl.report._run import read_run

VOID = {"meta", "link", "img", "br"}
LONG = [(10, 0.002), (5004, 1.0), (5010, 1.0012)]  # step and rounded epoch of lines


class Page(HTMLParser):
    """Checks that tags nest; notes ids, and what is loaded or linked."""

    def __init__(self, text):
        super().__init__()
        self.open, self.ids, self.links = [], [], []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attributes, closed=False):
        for name, value in attributes:
            if name == "id":
                self.ids.append(value)
            if name in ("href", "xlink:href", "src", "srcset", "action", "data"):
                self.links.append(value)
            self.links += re.findall(r"url\((.*?)\)", value or "")
        if tag not in VOID and not closed:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes, closed=True)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


# --- the file


def test_a_report_is_one_valid_page_that_loads_nothing(whole):
    found = Page(whole)
    assert len(found.ids) == len(set(found.ids)) > 50
    links = {link for link in found.links if not link.startswith("data:")}
    assert links and links <= {f"#{name}" for name in found.ids}
    assert "http:" not in whole and "https:" not in whole and "@import" not in whole
    assert whole.count("<script") == 1 and "default-src 'none'" in whole
    assert len(whole.encode()) < 3_000_000
    assert "prefers-color-scheme: dark" in whole and "#010203" not in whole


def test_a_report_goes_where_it_is_told_and_is_the_same_every_time(run, tmp_path, monkeypatch):
    monkeypatch.setattr(page, "date", lambda seconds: "now")
    first, path = report(run), tmp_path / "other.html"
    assert write_report(str(run), path, images=24) == path
    assert read(path) == first == read(run / "report.html")
    assert not list(tmp_path.rglob("*.partial"))


def test_nothing_of_this_machine_is_in_a_report(run, tmp_path):
    change_config(run, output="runs/mine")
    text = re.sub(r"<style>.*?</style>|base64,[^\"]*", "", report(run), flags=re.S)
    for secret in (str(tmp_path), str(Path.home()), socket.gethostname(), getpass.getuser()):
        assert not re.search(rf"(?<!\w){re.escape(secret)}(?!\w)", text), secret


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda run: shutil.rmtree(run), FileNotFoundError, "does not exist: give the --output"),
        (lambda run: (run / "config.json").unlink(), FileNotFoundError, "holds no config.json"),
        (lambda run: (run / "config.json").write_text("{}"), ValueError, "not the configuration"),
        (lambda run: (run / "config.json").write_text("{"), ValueError, "config.json"),
        (lambda run: change_config(run, color=1), ValueError, "'color' is not a field"),
    ],
)
def test_what_is_not_a_run_folder_is_refused(run, make, error, message):
    make(run)
    with pytest.raises(error, match=message):
        write_report(run)
    assert not (run / "report.html").exists()


def test_a_model_folder_is_not_a_run_folder(trained):
    with pytest.raises(ValueError, match="it is a model folder; give the run folder that holds it"):
        write_report(trained / "model")
    with pytest.raises(ValueError, match="images must be 1 or more; got 0"):
        write_report(trained, images=0)


def test_a_report_needs_a_folder_to_go_to(trained, tmp_path):
    for output in (tmp_path, tmp_path / "nowhere" / "report.html"):
        with pytest.raises(FileNotFoundError, match="give a file in a folder that exists"):
            write_report(trained, output)


# --- what it says


def test_the_numbers_of_a_run_are_in_its_report(whole, trained):
    last = metrics(trained)[-1]
    assert last["step"] == 15 and "15 of 15" in section(whole, "facts")
    assert "3 of 3" in section(whole, "facts") and 'state finished">finished<' in whole
    lines = section(whole, "lines")
    for name in ("loss", "invariance", "grad_norm", "feature_std", "projection_rank"):
        assert f">{last[name]:.5g}<" in lines, name
    assert f"{last['knn']:.1f}" in section(whole, "training")
    measured = last["spectrum"]["projections"]
    for name in ("rankme", "effective_rank"):
        assert f">{measured[name]:.1f}<" in section(whole, "spectrum")
    titles = re.findall(r"<h3>(.*?)</h3>\n<svg", whole)
    assert len(titles) == 13 and "Eigenspectrum of the features" in titles
    configuration = section(whole, "configuration")
    assert re.search(r'class="changed"><td>projector_dim</td><td[^>]*>16</td>', configuration)
    assert re.search(r"<tr><td>loss</td><td[^>]*>bt</td>", configuration)


def test_steps_of_a_run_are_exact_once_an_epoch_is_over(run):
    lines = [
        line | {"step": s, "epoch": e} for line, (s, e) in zip(metrics(run), LONG, strict=False)
    ]
    write_metrics(run, lines)
    assert read_run(run).total_steps == 3 * 5004
    change_config(run, max_steps=6000)
    assert read_run(run).total_steps == 6000


def test_an_evaluation_is_a_table_of_protocols_by_encoders(whole):
    evaluation = section(whole, "evaluation")
    rows = [
        re.findall(r"<td[^>]*>(.*?)</td>", row)
        for row in re.findall(r"<tr>(.*?)</tr>", evaluation, re.S)[1:]
    ]
    assert rows == [
        ["k-NN 20", "top-1", "62.0 ± 1.4", "51.0 ± 1.4"],
        ["finetune 100 %", "top-1", "–", "80.5 ± 0.7"],
        ["k-NN 20", "top-5", "–", "91.0 ± 0.0"],
        [],  # the head of the differences
        ["k-NN 20", "-11.0 (-17.5 to -4.5) worse"],
    ]
    assert "567 images (test); 1,234 labeled ones (train)" in evaluation
    assert "standard deviation of seeds" in evaluation
    assert "all weights are trained; seeds 4, 5" in evaluation
    for sentence in verdict(EvaluationRecord.from_json(EVALUATION)):
        assert f"<p>{sentence}</p>" in evaluation
    assert "By k-NN 20 the pretrained features are worse than raw pixels" in whole
    assert section(whole, "warnings").count("<li") == 1


def test_an_evaluation_without_labels_is_of_the_spectrum_alone(run):
    measured = metrics(run)[-1]["spectrum"]["features"] | {"lidar": 12.34, "views": 10}
    measured |= {"preset": "grey", "viewed_images": 1000}
    found = EVALUATION | {"dataset": None, "protocols": {}, "top1": {}, "top5": {}}
    found |= {"train_split": None, "train_images": 0, "spectrum": {"features": measured}}
    evaluate(run, found)
    text = report(run)
    assert "567 images (test), without labels" in section(text, "evaluation")
    assert ">12.3<" in section(text, "spectrum") and "10 views, preset grey" in text
    assert levels(run) == []
    Page(text)


def test_text_of_others_is_text(whole, run, image_folder, tmp_path):
    assert "<script>alert" not in whole and "&lt;script&gt;alert(1)" in whole
    photos = Path(shutil.copytree(image_folder, tmp_path / "<b>photos"))
    (photos / "cat").rename(photos / "<i>cat")
    change_config(run, dataset=str(photos), split="train")
    text = report(run)
    assert "<b>photos" not in text and "<i>cat" not in text
    assert "&lt;i&gt;cat" in section(text, "neighbors") and "&lt;b&gt;photos" in text
    Page(text)


def test_a_run_without_a_line_has_a_report(run):
    (run / "metrics.jsonl").unlink()
    shutil.rmtree(run / "model")
    text = report(run)
    assert "has no line so far" in section(text, "training")
    assert "Not measured yet." in section(text, "spectrum")
    assert 'class="views"' in section(text, "views")
    for name in ("neighbors", "map"):
        assert "There is no model yet" in section(text, name)
    Page(text)
