"""weights: the widths that were measured, between them and beyond them."""

import math

import pytest

from effssl.loss_weights import barlow_twins_lambd, vicreg_weight


@pytest.mark.parametrize(
    "dim, expected", [(64, 0.04), (256, 0.02), (1024, 0.002), (4096, 0.0004), (8192, 0.0008)]
)
def test_barlow_twins_has_the_measured_weight_at_a_measured_width(dim, expected):
    assert barlow_twins_lambd(dim) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("dim, expected", [(64, 20), (1024, 25), (2048, 75), (8192, 800)])
def test_vicreg_has_the_measured_weight_at_a_measured_width(dim, expected):
    assert vicreg_weight(dim) == pytest.approx(expected, rel=1e-12)


def test_weights_between_two_widths_lie_on_a_line_in_logarithms():
    assert vicreg_weight(4 * 1024 * math.sqrt(2)) == pytest.approx(math.sqrt(200 * 800))
    assert barlow_twins_lambd(128 * math.sqrt(2)) == pytest.approx(math.sqrt(0.04 * 0.02))


@pytest.mark.parametrize("weight", [barlow_twins_lambd, vicreg_weight])
def test_weights_beyond_the_table_are_those_of_its_ends(weight):
    assert weight(1) == weight(64)
    assert weight(10**6) == weight(8192)


def test_the_slopes_named_in_the_docstrings_are_those_of_the_tables():
    from effssl.loss_weights import BARLOW_TWINS_LAMBD, VICREG_WEIGHT

    def line(table):
        x = [math.log(dim) for dim in table]
        y = [math.log(weight) for weight in table.values()]
        mx, my = sum(x) / len(x), sum(y) / len(y)
        slope = sum((a - mx) * (b - my) for a, b in zip(x, y, strict=True))
        slope /= sum((a - mx) ** 2 for a in x)
        rest = [b - my - slope * (a - mx) for a, b in zip(x, y, strict=True)]
        return slope, math.exp(math.sqrt(sum(r * r for r in rest) / len(rest)))

    slope, scatter = line(BARLOW_TWINS_LAMBD)
    assert slope == pytest.approx(-1.02, abs=0.005)
    assert scatter == pytest.approx(1.7, abs=0.1)
    slope, _ = line({dim: w for dim, w in VICREG_WEIGHT.items() if dim >= 1024})
    assert slope == pytest.approx(1.64, abs=0.02)
