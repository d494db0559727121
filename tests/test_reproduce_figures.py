"""examples/reproduce: the figures show what the table has, and nothing that it lacks."""

import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from PIL import Image
from synthetic_runs import fields_of, row, rows_of


def test_the_front_holds_what_nothing_beats(reproduce):
    points = [(1.0, 5.0), (1.0, 6.0), (2.0, 5.0), (3.0, 4.0), (4.0, 4.5)]
    assert reproduce.panels.front(points) == [(1.0, 5.0), (3.0, 4.0)]


def test_figures_show_the_means_of_the_table(reproduce):
    scale = reproduce.scales.CPU
    rows = [row(80.0 + seed, seed, **fields_of(scale.reference)) for seed in (0, 1)]
    rows += [row(90.0, 0, **fields_of(scale.run(projector_dim=64)))]
    axes = Figure().subplots()
    reproduce.panels.draw_width(axes, scale, reproduce.runs_table.Runs(rows))
    assert axes.lines[0].get_xydata().tolist() == [[64.0, 90.0], [8192.0, 80.5]]


def test_the_band_is_the_interval_of_the_mean(reproduce):
    scale = reproduce.scales.CPU
    rows = [
        row(80.0 + epochs + 2 * seed, seed, **fields_of(scale.run(epochs=epochs / 4)))
        for epochs in (1, 4)
        for seed in (0, 1)
    ]
    runs = reproduce.runs_table.Runs(rows)
    axes = Figure().subplots()
    reproduce.panels.draw_curves(axes, scale, runs, {"raw pixels": 70.0})
    assert axes.lines[0].get_xydata().tolist() == [[1.0, 82.0], [4.0, 85.0]]
    assert to_hex(axes.lines[0].get_color()).upper() == reproduce.panels.BLUE
    (band,) = axes.collections
    half = 4.3027 * 2**0.5 / 2**0.5  # Student's t of 2 degrees; the root of 2 seeds
    ends = band.get_datalim(axes.transData).intervaly
    assert ends.tolist() == pytest.approx([82 - half, 85 + half], abs=1e-3)
    assert axes.lines[1].get_ydata()[0] == 70 and axes.lines[1].get_label() == "raw pixels"


def figures_of(reproduce, rows):
    scale = reproduce.scales.MOVED
    kinds = ("width", "pareto", "data", "curves", "lightly", "spectrum", "losses")
    drawn = {
        kind: reproduce.figures.draw_figure(panels)
        for kind, panels in reproduce.figures.drawings(scale, rows, kinds).items()
    }
    return {kind: len(figure.axes) for kind, figure in drawn.items() if figure}


def test_a_figure_has_a_panel_for_each_measure_that_was_run(reproduce):
    scale = reproduce.scales.MOVED
    rows = rows_of(reproduce, scale)
    every = dict.fromkeys(("width", "pareto", "data", "curves", "lightly", "losses"), 3)
    assert figures_of(reproduce, rows) == every | {"spectrum": 9}
    parse = reproduce.runs_table.parse
    few = [line for line in rows if line["encoder"] == "pretrained"]
    few = [line for line in few if parse(line["command"]).split == "train"]
    few = [line | {"lidar": "", "10-shot": ""} for line in few]
    few = [line for line in few if parse(line["command"]).projector_dim == 128]
    assert figures_of(reproduce, few) == {"pareto": 2, "curves": 2, "spectrum": 4}
    few = [line | {"k-NN 20": ""} for line in few if parse(line["command"]).loss == "vicreg"]
    assert figures_of(reproduce, few) == {}


def test_colors_are_those_of_the_number_of_views_in_every_figure(reproduce):
    scale = reproduce.scales.GPU_MOVED
    runs = reproduce.runs_table.Runs(rows_of(reproduce, scale))
    drawn = {}
    for draw in (reproduce.panels.draw_pareto, reproduce.panels.draw_data):
        axes = Figure().subplots()
        draw(axes, scale, runs)
        handles, labels = axes.get_legend_handles_labels()
        drawn[draw] = {
            label: to_hex(handle.lines[0].get_color())
            for handle, label in zip(handles, labels, strict=True)
            if hasattr(handle, "lines")
        }
    pareto, data = drawn.values()
    assert set(data) == {"2 views", "4 views", "8 views"} and data.items() <= pareto.items()
    assert set(pareto) - set(data) == {"2 + 6 local views", "2 views, 8192 wide"}
    assert len(set(pareto.values())) == 5


def test_figures_are_drawn_from_the_table(reproduce, tmp_path):
    (tmp_path / "results.csv").write_text(reproduce.run.RESULTS.read_text())
    reproduce.figures.main("cpu", results=tmp_path / "results.csv")
    drawn = sorted((tmp_path / "figures").glob("cpu-*.png"))
    kept = sorted((reproduce.run.RESULTS.parent / "figures").glob("cpu-*.png"))
    assert [file.name for file in drawn] == [file.name for file in kept] and len(kept) >= 5
    reproduce.figures.main("losses", results=tmp_path / "results.csv")
    (losses,) = (tmp_path / "figures").glob("losses-*.png")
    assert (reproduce.run.RESULTS.parent / "figures" / losses.name).is_file()
    for file in [*drawn, losses]:
        assert file.stat().st_size < 120_000
        with Image.open(file) as image:
            assert image.width > 900
    with pytest.raises(ValueError, match="no run of the scale 'gpu'"):
        reproduce.figures.main("gpu", results=tmp_path / "results.csv")
