"""What a report warns of: runs that stop, learn nothing, collapse, or lose steps or images."""

import json
import os

from reported_runs import change_config, levels, metrics, notices, report, section, write_metrics

from effssl.atomic import write_json
from effssl.report import write_report
from effssl.report._run import read_run


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
