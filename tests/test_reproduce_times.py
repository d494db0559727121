"""examples/reproduce: the time to the accuracy of the widest projector, and its intervals."""

import math

import numpy as np
import pytest
from scipy import stats
from synthetic_runs import fields_of, row


def reach(reproduce, minutes, accuracy, goal):
    found = reproduce.times.reach(np.array(minutes), np.array([accuracy]), np.array([goal]))
    return found[0].tolist()


def test_the_time_is_where_accuracy_first_crosses_the_goal(reproduce):
    # half of the way from 80 to 84 is half of the way from 1 to 4 minutes on a log axis: 2
    assert reach(reproduce, [1, 4, 8], [80, 84, 86], 82) == pytest.approx([2, 2])
    assert reach(reproduce, [1, 4, 16], [80, 80, 84], 81) == pytest.approx([4 * 4**0.25] * 2)
    assert reach(reproduce, [1, 4, 8], [80, 84, 83], 84) == pytest.approx([4, 4])
    assert reach(reproduce, [1, 2, 4, 8], [80, 82, 80, 82], 81) == pytest.approx([2**0.5] * 2)
    assert reach(reproduce, [0.8, 4], [85, 84], 85) == [0, 0.8], "at most the shortest"
    assert reach(reproduce, [0.8, 4], [83, 84], 85) == [4, math.inf]
    times = [
        reach(reproduce, [1, 4, 8], [80, 84, 86], goal)[0] for goal in np.linspace(80.1, 86, 60)
    ]
    assert times == sorted(times) and len(set(times)) == 60


def rows_of_schedules(scale, spread=0.0, two=(81.0, 84.0, 85.5), four=(82.0, 86.0)):
    """Return lines of the widest projector, of 85 %, and of the schedules of 2 and 4 views."""
    rows = []
    runs = [(scale.wide, 85.0, 10.0)]
    runs += [
        (scale.run(views=2, epochs=2.0**i), accuracy, 2.0**i) for i, accuracy in enumerate(two)
    ]
    runs += [
        (scale.run(views=4, epochs=2.0**i), accuracy, 1.5 * 2.0**i)
        for i, accuracy in enumerate(four)
    ]
    # of another form of the loss, and no schedule of it
    runs.append((scale.run(views=4, multiview="mean"), 99.0, 0.1))
    for config, accuracy, minutes in runs:
        for seed, error in enumerate((-spread, 0.0, spread)):
            rows.append(row(accuracy + error, seed, minutes, **fields_of(config)))
    return rows


def test_the_table_of_times_shows_shares_of_the_reference_and_of_two_views(reproduce):
    scale = reproduce.scales.CPU
    runs = reproduce.runs_table.Runs(rows_of_schedules(scale))
    two, four = 2 * 2 ** (1 / 1.5), 1.5 * 2 ** (3 / 4)
    shares = [f"{x:.2f} ({x:.2f})" for x in (two / 10, four / 10, four / two)]
    assert reproduce.times.time_table(scale, runs).splitlines() == [
        "| loss, views, width | minutes to 85.0 % linear | share of the 10.0 of 8192 wide "
        "| share of 2 views' |",
        "|---|--:|--:|--:|",
        f"| bt, 2, 256 | {two:.1f} | {shares[0]} |  |",
        f"| bt, 4, 256 | {four:.1f} | {shares[1]} | {shares[2]} |",
    ]
    line = reproduce.times.time_summary(scale, runs)
    width, views = (f"{100 * (1 - x):.0f}" for x in (two / 10, four / two))
    assert line == (
        f"linear, to the accuracy of 8192 dimensions: 256 wide, 2 views save "
        f"{width} % ({width}) of the minutes; beyond width, 4 views save {views} % ({views}) of "
        "the minutes"
    )


def test_the_goal_is_the_widest_projector_with_settings_of_its_own(reproduce):
    scale = reproduce.scales.MOVED
    assert scale.wide != scale.reference
    rows = rows_of_schedules(scale)
    rows += [row(50.0, 0, 99.0, **fields_of(scale.reference))]
    runs = reproduce.runs_table.Runs(rows)
    lines = reproduce.times.time_table(scale, runs).splitlines()
    assert "minutes to 85.0 % linear | share of the 10.0 of 8192 wide" in lines[0]


def test_a_time_that_is_only_bounded_says_so(reproduce):
    scale, times = reproduce.scales.CPU, reproduce.times

    def table(**accuracies):
        runs = reproduce.runs_table.Runs(rows_of_schedules(scale, **accuracies))
        lines = times.time_table(scale, runs).splitlines()[2:]
        cells = [[cell.strip() for cell in line.split("|")[2:-1]] for line in lines]
        return cells, times.time_summary(scale, runs)

    (two, four), line = table(two=(86.0, 87.0), four=(80.0, 86.0))
    assert two == ["<= 1.0", "<= 0.10 (<= 0.10)", ""]
    time = 1.5 * 2 ** (5 / 6)
    assert four[2] == f">= {time:.2f} (>= {time:.2f})"
    assert "2 views save at least 90 % (at least 90) of" in line
    assert line.endswith(f"4 views take >= {time:.2f} (>= {time:.2f}) times the minutes")
    (two, four), line = table(two=(80.0, 86.0), four=(85.0, 86.0))
    assert four[2] == f"<= {1.5 / 2 ** (5 / 6):.2f} (<= {1.5 / 2 ** (5 / 6):.2f})"
    (two, four), line = table(two=(80.0, 86.0), four=(70.0, 71.0))
    assert four == ["", "", ""] and line.endswith("cannot be told from these schedules")
    (two, four), line = table(two=(85.0, 86.0), four=(85.0, 86.0))
    assert four == ["<= 1.5", "<= 0.15 (<= 0.15)", ""]
    assert line.endswith("cannot be told from these schedules")
    assert table(two=(70.0, 71.0))[1] == ""


def test_a_schedule_may_be_shorter_than_an_epoch(reproduce):
    scale = reproduce.scales.CPU
    short = scale.run(views=4, epochs=1 / 4, max_steps=39)  # of the 156 steps of an epoch
    rows = [row(80.0, 0, 0.5, **fields_of(short)), *rows_of_schedules(scale, four=(86.0,))]
    runs = reproduce.runs_table.Runs(rows)
    family = reproduce.runs_table.Family("bt", 4)
    found = reproduce.runs_table.schedules(scale, runs)[family]
    assert [reproduce.runs_table.epochs_of(scale, config) for config in found] == [0.25, 4]
    minutes = reproduce.times.family_times(scale, runs)[family].minutes
    assert minutes == pytest.approx((0.5 * 3 ** (5 / 6), 0.5 * 3 ** (5 / 6)))


def test_without_the_widest_projector_there_is_no_table(reproduce):
    scale = reproduce.scales.CPU
    rows = [line for line in rows_of_schedules(scale) if line["linear"] != 85.0]
    runs = reproduce.runs_table.Runs(rows)
    assert reproduce.times.time_table(scale, runs) == ""
    assert reproduce.times.time_summary(scale, runs) == ""
    few = reproduce.runs_table.Runs(rows_of_schedules(scale), "10-shot")
    assert reproduce.times.time_table(scale, few) == ""


def test_one_seed_has_a_time_and_no_interval(reproduce):
    scale = reproduce.scales.CPU
    rows = rows_of_schedules(scale)[::3]
    lines = reproduce.times.time_table(scale, reproduce.runs_table.Runs(rows)).splitlines()
    assert lines[2] == f"| bt, 2, 256 | {2 ** (5 / 3):.1f} | {2 ** (5 / 3) / 10:.2f} |  |"


def interval(reproduce, spread):
    scale = reproduce.scales.CPU
    rows = rows_of_schedules(scale, spread, two=(75.0, 95.0), four=(70.0, 100.0))
    runs = reproduce.runs_table.Runs(rows)
    found = reproduce.times.family_times(scale, runs)
    return runs, *(found[reproduce.runs_table.Family("bt", views)] for views in (2, 4))


def test_the_interval_is_that_of_the_spread_of_the_means(reproduce, monkeypatch):
    monkeypatch.setattr(reproduce.runs_table, "WIDE", 2 * 8192)  # one spread for all
    runs, two, four = interval(reproduce, 0.5)
    # the logarithm of the time is log 2 * (goal - a) / (b - a): halfway, each end has half of the
    # weight of the goal; the mean of 3 seeds has the error std / sqrt 3
    std, freedom = runs.spread(reproduce.scales.CPU.reference)
    error = std / 3**0.5 * (1 + 1 / 4 + 1 / 4) ** 0.5 * math.log(2) / 20
    half = stats.t.ppf(0.975, freedom) * error
    found = np.log(two.of_wide.interval)
    assert np.log(two.minutes.low / 10) == pytest.approx(found.mean(), abs=0.1 * half)
    assert (found[1] - found[0]) / 2 == pytest.approx(half, rel=0.06)
    # both share the goal, whose part in their ratio is the difference of their slopes
    slopes = math.log(2) / 20, math.log(2) / 30
    parts = (slopes[0] - slopes[1]) ** 2 + slopes[0] ** 2 / 2 + slopes[1] ** 2 / 2
    half = stats.t.ppf(0.975, freedom) * std / 3**0.5 * parts**0.5
    found = np.log(four.of_two.interval)
    assert (found[1] - found[0]) / 2 == pytest.approx(half, rel=0.06)
    again = interval(reproduce, 0.5)[1]
    assert again == two, "the draws are seeded"


def test_more_spread_widens_the_interval_until_the_goal_may_never_be_reached(reproduce):
    ends = [interval(reproduce, spread)[1].of_wide.interval for spread in (0.5, 1.0, 2.0)]
    widths = [end.high / end.low for end in ends]
    assert widths == sorted(widths) and widths[0] < widths[1] < widths[2]
    scale = reproduce.scales.CPU
    rows = rows_of_schedules(scale, spread=1.0, two=(80.0, 85.2))
    lines = reproduce.times.time_table(scale, reproduce.runs_table.Runs(rows)).splitlines()
    assert " to never) |" in lines[2]
