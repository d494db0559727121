"""Runs that are killed at random moments: each goes on to the same weights, or says why not.

pytest -m slow tests/training/test_kills.py
"""

import random
import time

import pytest
from runs import EVERY_STEP, TINY, Command, assert_nothing_partial, lines, until
from test_resume import assert_same_run

CHANGES = {"epochs": 40, "checkpoint_steps": 1, "keep_checkpoints": 3, "evaluate_every": 20}


def partial(output):
    """Whether a checkpoint or a model folder is being written, or replaced."""
    names = [".step_*.partial", ".model.*"]
    return any(list(output.rglob(name)) for name in names)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_thirty_kills_at_random_moments_leave_no_trace(tmp_path, seed):
    """Takes a minute or two."""
    whole = Command(tmp_path / "whole", **CHANGES).finish()
    draw, kills, saves, runs = random.Random(seed), 0, 0, 0
    while kills < 30 or saves < 10:
        output = tmp_path / f"parts{runs}"
        command = Command(output, "--resume", **CHANGES)
        wait_for_a_moment(command, draw)
        in_a_save = partial(output)
        if command.alive():
            command.kill()
            kills, saves = kills + 1, saves + in_a_save
        else:  # the run has ended before
            command.finish()
            assert_same_run(output, whole)
            assert_nothing_partial(output)
            runs += 1
    Command(output, "--resume", **CHANGES).finish()
    assert_same_run(output, whole)
    assert_nothing_partial(output)
    print(f"{kills} kills, {saves} during a save, of {runs + 1} runs")


def wait_for_a_moment(command, draw):
    """Wait for a moment of a run, or until it ends."""
    output, before = command.output, lines(command.output)
    moment = draw.choice(["any", "steps", "save", "save"])

    def wait(condition):
        until(lambda: condition() or not command.alive(), lambda: True)

    if moment == "any":
        time.sleep(draw.uniform(0, 2))
        return
    wait(lambda: lines(output) != before)  # lines of steps that are done again are cut off first
    more = lines(output) + draw.randint(0, 4)
    wait(lambda: lines(output) >= more)
    if moment == "save":
        wait(lambda: partial(output))
    time.sleep(draw.uniform(0, 0.01))


@pytest.mark.slow
def test_kills_while_a_run_is_overwritten_leave_a_run_or_one_line(tmp_path):
    """Takes a minute or two."""
    draw, output = random.Random(0), tmp_path / "run"
    config = {"epochs": 3, "checkpoint_steps": 1, "keep_checkpoints": 3}
    wanted = {seed: Command(tmp_path / str(seed), seed=seed, **config).finish() for seed in (0, 1)}
    Command(output, seed=0, **config).finish()
    refused = 0
    for number in range(20):
        seed = 1 - number % 2
        command = Command(output, "--overwrite", seed=seed, **config)
        kept = (output / "config.json").stat().st_ino
        if draw.random() < 0.5:
            until(
                lambda kept=kept: (output / "config.json").stat().st_ino != kept,
                command.alive,
            )
        time.sleep(draw.uniform(0, 1))
        if command.alive():
            command.kill()
        again = Command(output, "--resume", seed=seed, **config)
        if again.wait() == 2:  # the kill came before it was overwritten
            refused += 1
            last = again.log().splitlines()[-1]
            assert last.startswith(f"effssl: error: cannot resume {output} with another"), last
            Command(output, "--overwrite", seed=seed, **config).finish()
        assert_same_run(output, wanted[seed])
    print(f"{refused} of 20 were refused")
    assert 0 < refused < 20


def test_the_runs_that_are_killed_save_after_every_step():
    assert (EVERY_STEP | CHANGES)["checkpoint_steps"] == 1 and TINY["cpu"]
