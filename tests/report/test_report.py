"""The report of a run: what it says, and what it says in place of what is missing."""

import base64
import getpass
import io
import json
import os
import re
import shutil
import socket
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Features
from PIL import Image

import effssl
from effssl.atomic import write_json
from effssl.data import load_source
from effssl.evaluation._verdict import verdict
from effssl.records import EvaluationRecord
from effssl.report import _charts as charts
from effssl.report import _gallery as gallery
from effssl.report import _page as page
from effssl.report import _spectra as spectra
from effssl.report import write_report
from effssl.report._notices import find_notices
from effssl.report._run import read_run
from effssl.report._svg import Chart

TINY = {
    "backbone": "test_resnet",
    "in_chans": 1,
    "img_size": 32,
    "preset": "grey",
    "projector_dim": 16,
    "views": 2,
    "batch_size": 8,
    "split": "train[:40]",
    "precision": "fp32",
    "cpu": True,
    "log_every": 1,
    "epochs": 3,
    "evaluate_every": 1,
}
VOID = {"meta", "link", "img", "br"}
LONG = [(10, 0.002), (5004, 1.0), (5010, 1.0012)]  # step and rounded epoch of lines
EVALUATION = {
    "dataset": "<script>alert(1)</script>",
    "train_split": "train",
    "train_images": 1234,
    "test_split": "test",
    "test_images": 567,
    "of": "seeds",
    "seeds": {"k-NN 20": [0, 1], "finetune 100 %": [4, 5]},
    "protocols": {"k-NN 20": "k-NN of 20 neighbours", "finetune 100 %": "all weights are trained"},
    "top1": {
        "raw pixels": {"k-NN 20": [61.0, 63.0]},
        "pretrained": {"k-NN 20": [50.0, 52.0], "finetune 100 %": [80.0, 81.0]},
    },
    "top5": {"pretrained": {"k-NN 20": [91.0, 91.0]}},
    "spectrum": {},
}


@pytest.fixture(scope="module")
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


@pytest.fixture(scope="module")
def whole(trained, tmp_path_factory):
    """Its report."""
    return read(write_report(trained, tmp_path_factory.mktemp("reports") / "first.html"))


def read(path):
    return path.read_text(encoding="utf-8")


def report(run, **options):
    return read(write_report(run, images=24, **options))


def picture(text):
    """The first picture of a section."""
    data = re.search(r'src="data:image/\w+;base64,([^"]+)"', text)[1]
    return Image.open(io.BytesIO(base64.b64decode(data)))


def evaluate(run, *evaluations):
    training = json.loads((run / "model" / "training.json").read_text())
    write_json(run / "model" / "training.json", training | {"evaluation": evaluations})


def metrics(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def write_metrics(run, lines, torn=""):
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + torn)


def change_config(run, **values):
    config = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps(config | values))


def section(text, name):
    return re.search(rf'<section id="{name}">(.*?)</section>', text, re.S)[1]


def notices(run, labelled=True):
    return find_notices(read_run(run), labelled=labelled)


def levels(run):
    return [notice.level for notice in notices(run)]


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
        (lambda run: change_config(run, colour=1), ValueError, "'colour' is not a field"),
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


def test_neighbours_of_another_class_are_marked(whole):
    rows = re.findall(r'<div class="row">(.*?)</div>', section(whole, "neighbours"), re.S)
    assert len(rows) == 12
    marks = set()
    for row in rows:
        query, *others = re.findall(r"<span>(.*?)</span>", row)
        assert len(others) == 8
        for name in others:
            assert name.startswith("≠ ") == (name.removeprefix("≠ ") != query)
            marks.add(name[0])
    assert "≠" in marks and len(marks) > 1


def test_steps_of_a_run_are_exact_once_an_epoch_is_over(run):
    lines = [
        line | {"step": s, "epoch": e} for line, (s, e) in zip(metrics(run), LONG, strict=False)
    ]
    write_metrics(run, lines)
    assert read_run(run).total_steps == 3 * 5004
    change_config(run, max_steps=6000)
    assert read_run(run).total_steps == 6000


def told_of_learning(run):
    texts = [notice.text for notice in notices(run) if notice.level == "warning"]
    return [text for text in texts if "nothing learned" in text or "k-NN accuracy" in text]


def test_a_run_that_learned_nothing_is_told(run):
    lines = metrics(run)
    start = lines[0]["knn_start"]
    assert all("knn_start" in line for line in lines if "knn" in line)
    last = lines[-1] | {"knn": start, "loss": 15.0}
    last["spectrum"]["features"]["images"] = 5120
    write_metrics(run, [*lines[:-1], last])
    loss, knn = told_of_learning(run)
    assert loss.startswith("The last loss 15 of 16: nothing learned yet. 16 is the loss of")
    assert knn.startswith(f"The k-NN accuracy, {start:.1f} %, is not above that of the weights")
    write_metrics(run, [*lines[:-1], last | {"knn": start + 5, "loss": 9.0}])
    assert not told_of_learning(run)
    assert f"Dashed: the weights before training, {start:.1f} %." in report(run)


def test_a_run_of_an_earlier_version_has_no_start_and_is_drawn(run):
    lines = [
        {k: v for k, v in line.items() if k != "knn_start"} | {"loss": 9.0} for line in metrics(run)
    ]
    write_metrics(run, lines)
    assert not told_of_learning(run)
    assert "before training" not in report(run)


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
    assert "567 images (test); 1,234 labelled ones (train)" in evaluation
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
    assert "&lt;i&gt;cat" in section(text, "neighbours") and "&lt;b&gt;photos" in text
    Page(text)


def test_a_run_that_goes_on_says_how_far_it_is(run):
    write_metrics(run, metrics(run)[:7], torn='{"step": 8, "epo')
    training = json.loads((run / "model" / "training.json").read_text())
    write_json(run / "model" / "training.json", training | {"step": 5, "epoch": 1.0})
    text = report(run)
    assert 'state running">running, 47 %<' in text and "7 of 15" in section(text, "facts")
    assert "of the model after step 5 (epoch 1)" in section(text, "map")
    assert "Left, about" in text and levels(run) == ["warning", "note"]
    os.utime(run / "metrics.jsonl", (0, 0))
    assert read_run(run).state == "stopped" and levels(run) == ["error", "warning"]
    said = "stopped at step 7 of 15: nothing was logged since 1970-01-01 00:00 UTC"
    assert said in notices(run)[0].text


def test_a_run_without_a_line_has_a_report(run):
    (run / "metrics.jsonl").unlink()
    shutil.rmtree(run / "model")
    text = report(run)
    assert "has no line so far" in section(text, "training")
    assert "Not measured yet." in section(text, "spectrum")
    assert 'class="views"' in section(text, "views")
    for name in ("neighbours", "map"):
        assert "There is no model yet" in section(text, name)
    Page(text)


def test_a_collapse_is_an_error_from_the_second_line_on(run):
    lines = metrics(run)
    lines[-1]["projection_std"] = 0.001
    write_metrics(run, lines)
    assert levels(run) == ["warning"]
    lines[-2]["projection_std"] = 0.001
    write_metrics(run, lines)
    assert levels(run) == ["error", "warning"]
    said = "Since step 15: collapse: every image gets nearly the same projections"
    assert notices(run)[0].text.startswith(said)


def test_faults_slow_images_and_lost_losses_are_warnings(run):
    lines = metrics(run)
    for line in lines:
        line |= {"waiting": 0.5, "skipped_steps": 3, "broken": 2}
    lines[-1] |= {"loss": None, "feature_std": None}
    write_metrics(run, lines)
    assert levels(run) == ["error"] + 4 * ["warning"]
    text = " ".join(notice.text for notice in notices(run))
    for said in (
        "in 1 of 15 lines, at step 15",
        "3 of 15 steps",
        "2 of 42 images",  # 40 were trained on
        "50 % of the time",
    ):
        assert said in text


def test_a_skipped_batch_is_no_lost_loss_and_has_its_own_warning(run):
    lines = metrics(run)
    assert "invariance" in lines[-1]
    last = {k: v for k, v in lines[-1].items() if k in ("step", "epoch", "lr", "views_per_s")}
    write_metrics(run, [*lines[:-1], last | {"loss": None, "skipped_batches": 1}])
    texts = [notice.text for notice in notices(run)]
    assert not any("not finite" in text for text in texts)
    assert (
        "1 of 15 steps were skipped, since broken images left fewer than 2 of their images: "
        "mend them, or take a larger batch."
    ) in texts
    text = write_report(run).read_text()
    assert "Parts of the loss" in text and "invariance" in text
    change_config(run, loss="wmse", projector_dim=5, multiview="pairs", loss_weight=None)
    assert any("left fewer than 6 of their images" in notice.text for notice in notices(run))


# --- images


def test_images_that_moved_are_said_to_be_missing_and_found_again(run, image_folder, caplog):
    change_config(run, dataset="nowhere/photos", split="train", in_chans=1)
    text = report(run)
    for name in ("views", "neighbours", "map"):
        assert "images of nowhere/photos cannot be read here" in section(text, name)
    assert "no images in the report: no data set" in caplog.text
    text = report(run, dataset=str(image_folder))
    assert section(text, "neighbours").count('<div class="row">') == 12
    assert "dog (12)" in section(text, "map")
    titles = re.findall(r'alt="(\w+)" title="([^"]+)"', section(text, "neighbours"))
    assert titles and all(re.fullmatch(rf"{name}/\d\d.png", path) for name, path in titles)
    assert str(image_folder.parent) not in section(text, "neighbours")


def test_images_without_a_label_are_of_no_class(tmp_path, image_folder):
    source = load_source(str(image_folder))
    labels = [None if i % 3 else i % 2 for i in range(24)]
    kind = Features(source.dataset.features)
    rows = source.dataset.remove_columns("label").add_column("label", labels).cast(kind)
    found, names = gallery._classes(replace(source, dataset=rows))
    assert found == [-1 if i % 3 else i % 2 for i in range(24)]
    assert names == {-1: "no label", 0: "cat", 1: "dog"}
    rows = rows.remove_columns("label").add_column("label", [-1] * 24).cast(kind)
    assert gallery._classes(replace(source, dataset=rows)) == (None, {})


def test_images_without_labels_are_shown_without_classes(run, image_folder, tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    for file in image_folder.rglob("*.png"):
        shutil.copy(file, photos)
    (photos / "00.png").write_bytes(b"no image")
    change_config(run, dataset=str(photos), split="train")
    evaluate(run)
    text = report(run)
    assert "no labels" in section(text, "warnings") and "≠" not in section(text, "neighbours")
    assert "23 images, of the model after step 15" in section(text, "map")
    assert "1 that were drawn besides cannot be read" in section(text, "map")
    assert "effssl evaluate copy --protocols spectrum --test-split train" in section(
        text, "evaluation"
    )


@pytest.mark.parametrize("channels", [1, 3, 4, 6])
def test_images_of_any_channels_are_drawn(tmp_path, channels):
    images = tmp_path / "images"
    images.mkdir()
    for i in range(3):
        np.save(images / f"{i}.npy", np.full((channels, 20, 24), 80 * i, np.uint8))
    options = {"dataset": str(images), "in_chans": channels, "preset": "multispectral"}
    config = effssl.PretrainConfig(**TINY | options | {"split": "train", "views": 9})
    (tmp_path / "run").mkdir()
    config.save(tmp_path / "run" / "config.json")
    text = report(tmp_path / "run")
    assert "6 of 9 an image" in section(text, "views")
    assert "data:image/" in section(text, "views")


def test_local_views_are_drawn_below_the_others(run):
    alone = section(report(run), "views")
    change_config(run, local_views=7, local_size=16)
    text = section(report(run), "views")
    assert "8 of 9 an image" in text and "of 9 an image" not in alone
    heights = [picture(text).height for text in (alone, text)]
    assert heights[1] > 1.5 * heights[0]


def test_a_stream_has_no_pictures(run):
    change_config(run, streaming=True)
    assert "streamed its images" in section(report(run), "neighbours")


@pytest.mark.parametrize(("width", "images"), [(2, 24), (1, 24), (96, 2), (96, 1)])
def test_narrow_or_few_features_are_drawn_or_said_to_be_too_few(run, monkeypatch, width, images):
    def embed(run, sample):
        made = torch.randn(len(sample), width, generator=torch.Generator().manual_seed(0))
        made[images:] = torch.nan
        return made

    monkeypatch.setattr(page, "_embed", embed)
    text = section(report(run), "map")
    assert ("<svg" in text) == (width > 1 and images > 1)
    assert ("do not span a plane" in text) == (width == 1)
    assert ("1 of 24 images have finite features" in text) == (images == 1)


def test_a_report_needs_a_folder_to_go_to(trained, tmp_path):
    for output in (tmp_path, tmp_path / "nowhere" / "report.html"):
        with pytest.raises(FileNotFoundError, match="give a file in a folder that exists"):
            write_report(trained, output)


def test_neighbours_are_the_nearest_others_by_cosine(run):
    config = effssl.PretrainConfig.load(run / "config.json")
    sample = gallery.draw_sample(config, None, 24)
    angles = torch.linspace(0, 1, 24)
    embedded = torch.stack([angles.cos(), angles.sin()], 1) * torch.arange(1, 25)[:, None]
    found = gallery.neighbors(sample, embedded)
    assert len(found) == 12 and len({query for query, _ in found}) == 12
    for query, others in found:
        nearest = sorted(set(range(24)) - {query}, key=lambda i: abs(i - query))
        assert {abs(i - query) for i in others} == {abs(i - query) for i in nearest[:8]}
    labels = [sample.labels[query] for query, _ in found]
    assert labels == sorted(labels) and set(labels) == set(sample.labels)
