"""Curves of a log, of any length and under any name."""

import json

import pytest
from visualization.checks import check_picture

from randsac_mm.visualization import draw_loss_curve
from randsac_mm.visualization.curves import plot_curves, smoothed


@pytest.mark.parametrize('count', [1, 5, 200])
def test_loss_of_a_log_of_any_length(tmp_path, count):
    log = tmp_path / 'scalars.json'
    log.write_text(''.join(json.dumps({'loss': 1 / (i + 1), 'iter': i}) + '\n' for i in range(count)))
    check_picture(draw_loss_curve(log, tmp_path / 'new' / 'loss.png'), least=(800, 400))


@pytest.mark.parametrize('text', ['', '{"lr": 1, "iter": 1}\n'])
def test_no_loss_is_an_error(tmp_path, text):
    log = tmp_path / 'scalars.json'
    log.write_text(text)
    with pytest.raises(ValueError, match=r'scalars\.json'):
        draw_loss_curve(log, tmp_path / 'loss.png')


def test_long_series_get_a_moving_average():
    assert list(smoothed({1: 3.0, 2: 4.0}).values()) == [{1: 3.0, 2: 4.0}]
    logged, mean = smoothed({i: float(i % 2) for i in range(80)}).values()
    assert len(logged) == 80
    assert mean == pytest.approx({i + 0.5: 0.5 for i in range(79)})


def test_lines_are_where_values_are_under_names_that_are_no_formulas(tmp_path):
    curves = {'one': {0: 0.0, 5: 1.0, 10: 0.5}, '$\\frac{': {0: 1.0, 10: 0.0}}
    figure = plot_curves(curves, 'x', 'y')
    figure.savefig(tmp_path / 'a.png')
    (axes,) = figure.axes
    drawn = [dict(zip(line.get_xdata(), line.get_ydata(), strict=True)) for line in axes.lines]
    assert drawn == list(curves.values())
    assert [text.get_text() for text in axes.get_legend().get_texts()] == list(curves)
