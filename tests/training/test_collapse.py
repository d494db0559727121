"""Signs of collapse: the same for any number of processes, alarmed of once, and never in health."""

import pytest
import torch
import torch.distributed as dist
from forked import launch, results
from runs import metrics, tiny

import effssl
from effssl.evaluation.spectrum import effective_rank, unit_std
from effssl.loss_specs import LOSSES
from effssl.training import _collapse as collapse
from effssl.training import _own
from effssl.training._collapse import (
    LEAST_RANK,
    LEAST_STD,
    collapse_alarm,
    collapse_signs,
    sample_rows,
)

HEALTHY = {
    "feature_std": 0.8,
    "feature_rank": 40.0,
    "projection_std": 0.8,
    "projection_rank": 60.0,
}


def signs_of(features, projections):
    return collapse_signs(sample_rows(features), sample_rows(projections))


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_signs_are_spread_and_rank_of_features_and_of_projections():
    features, projections = normal(30, 20), normal(30, 4, seed=1)
    assert signs_of(features, projections) == {
        "feature_std": pytest.approx(unit_std(features), abs=1e-4),
        "feature_rank": pytest.approx(effective_rank(features), abs=0.01),
        "projection_std": pytest.approx(unit_std(projections), abs=1e-4),
        "projection_rank": pytest.approx(effective_rank(projections), abs=0.01),
    }


def test_no_more_than_512_images_are_looked_at():
    features, projections = normal(700, 6), normal(700, 4, seed=1)
    signs = signs_of(features, projections)
    assert signs == signs_of(features[:512], projections[:512])
    assert signs != signs_of(features[:500], projections[:500])


def signs_of_parts(cases):
    """What one process of a launch sees of its part."""
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    found = [
        signs_of(features.split(counts)[rank], projections.split(counts)[rank])
        for features, projections, counts in cases
    ]
    dist.destroy_process_group()
    return found


def test_two_processes_see_the_signs_of_one(tmp_path):
    cases = [
        (normal(16, 30), normal(16, 8, seed=1), [5, 11]),
        (normal(16, 8), normal(16, 30, seed=1), [16, 0]),
        (normal(700, 6), normal(700, 4, seed=1), [100, 600]),  # more than are looked at
        (torch.ones(8, 3), torch.ones(8, 3), [4, 4]),
    ]
    for found in results(launch(tmp_path, 2, signs_of_parts, cases)):
        for signs, (features, projections, _) in zip(found, cases, strict=True):
            assert signs == pytest.approx(signs_of(features, projections), abs=1e-4)


def test_nothing_is_said_of_healthy_signs():
    assert collapse_alarm(HEALTHY, rows=256, width=64) is None


@pytest.mark.parametrize("which", ["feature", "projection"])
def test_equal_features_or_projections_are_told_with_advice(which):
    signs = HEALTHY | {f"{which}_std": 0.9 * LEAST_STD}
    alarm = collapse_alarm(signs, rows=256, width=64)
    assert alarm.startswith(f"collapse: every image gets nearly the same {which}s")
    assert "lower lr" in alarm and "larger batch" in alarm
    assert collapse_alarm(HEALTHY | {f"{which}_std": 1.1 * LEAST_STD}, 256, 64) is None


@pytest.mark.parametrize(
    "rows, width, least",
    [
        (256, 64, 1.5),
        (16, 1024, 1.5),
        (1024, 300, LEAST_RANK * 300),
        (300, 1024, LEAST_RANK * 299),
        (4096, 4096, LEAST_RANK * 511),
    ],
)
def test_projections_of_few_dimensions_are_told(rows, width, least):
    alarm = collapse_alarm(HEALTHY | {"projection_rank": 0.99 * least}, rows, width)
    possible = min(rows - 1, width, 511)
    assert alarm.startswith("dimensional collapse") and f"of {possible} dimensions" in alarm
    assert collapse_alarm(HEALTHY | {"projection_rank": 1.01 * least}, rows, width) is None


def test_projections_on_a_line_and_equal_features_are_found_from_tensors():
    healthy, line = normal(64, 32), normal(64, 1) @ normal(1, 16)
    assert collapse_alarm(signs_of(healthy, normal(64, 16)), 64, 16) is None
    assert "use 1.0 of 16" in collapse_alarm(signs_of(healthy, line), 64, 16)
    same = torch.ones(64, 32) + 1e-4 * healthy
    assert "same features" in collapse_alarm(signs_of(same, healthy), 64, 32)
    assert "same projections" in collapse_alarm(signs_of(healthy, same), 64, 32)


def warnings_of(caplog):
    messages = (r.getMessage() for r in caplog.records if r.levelname == "WARNING")
    return [message for message in messages if "collapse" in message]


def test_the_alarm_takes_two_lines_after_a_tenth_of_the_run_and_is_sounded_once(
    tmp_path, caplog, monkeypatch
):
    answers = iter([*"AAA", None, None, *"BBBBB"])  # from step 3 of 30 on
    monkeypatch.setattr(collapse, "collapse_alarm", lambda *_: next(answers, None))
    effssl.pretrain(tiny(tmp_path, epochs=6, log_every=1, evaluate_every=0))
    said = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert [message for message in said if message.startswith("step ")] == [
        "step 4: A",
        "step 7: no sign of collapse any more",
        "step 9: B",
        "step 14: no sign of collapse any more",
    ]


def test_a_run_that_collapses_says_so_once(tmp_path, caplog, monkeypatch):
    def to_zero(name, **options):
        def loss(z, return_parts):
            size = z.square().sum(-1).mean()
            return size, {"size": size.detach()}

        return loss

    monkeypatch.setattr(_own, "create_loss", to_zero)
    effssl.pretrain(tiny(tmp_path, epochs=6, lr=0.1, log_every=1, evaluate_every=0))
    said = warnings_of(caplog)
    alarms = [message for message in said if "try a lower lr" in message]
    called_off = [message for message in said if "no sign of collapse any more" in message]
    assert alarms and len(alarms) == len(called_off) + 1  # the last one stands, said once
    assert metrics(tmp_path / "run")[-1]["projection_std"] < LEAST_STD


@pytest.mark.parametrize("projector_dim", [64, 1024])
@pytest.mark.parametrize("loss", LOSSES)
def test_a_healthy_run_raises_no_alarm(tmp_path, caplog, loss, projector_dim):
    if loss == "wmse":  # fewer dimensions than images
        projector_dim //= 32
    config = tiny(
        tmp_path,
        loss=loss,
        projector_dim=projector_dim,
        split="train[:640]",
        batch_size=64,
        max_steps=24,
        log_every=2,
        epochs=3,
        evaluate_every=0,
    )
    effssl.pretrain(config)
    assert warnings_of(caplog) == []
    lines = metrics(tmp_path / "run")
    assert min(line["feature_std"] for line in lines) > 0.5
    assert min(line["projection_std"] for line in lines) > 0.5
    assert min(line["projection_rank"] for line in lines) > 0.3 * min(63, projector_dim)
