"""Curves: of a log as a PNG, of any scalars as an SVG that no name can break."""

import json
from xml.etree import ElementTree

import pytest
from matplotlib.figure import Figure
from visualization.pictures import check_picture

from randsac_mm.visualization import draw_loss_curve
from randsac_mm.visualization.curves import curves_svg, plot_curves, smoothed


def plotted(curves, **options):
    axes = Figure().subplots()
    plot_curves(axes, curves, 'x', 'y', **options)
    return axes


@pytest.mark.parametrize('count', [1, 5, 200])
def test_loss_of_a_log_of_any_length(tmp_path, count):
    log = tmp_path / 'scalars.json'
    log.write_text(''.join(json.dumps({'loss': 1 / (i + 1), 'iter': i}) + '\n' for i in range(count)))
    path = tmp_path / 'new' / 'loss.png'
    draw_loss_curve(log, path)
    check_picture(path, least=(800, 400))


def test_no_loss_is_an_error(tmp_path):
    log = tmp_path / 'scalars.json'
    with pytest.raises(FileNotFoundError, match=r'scalars\.json'):
        draw_loss_curve(log, tmp_path / 'loss.png')
    log.write_text('{"lr": 1, "iter": 1}\n')
    with pytest.raises(ValueError, match=r'scalars\.json'):
        draw_loss_curve(log, tmp_path / 'loss.png')


def test_long_series_get_a_moving_average():
    assert list(smoothed(([1, 2], [3.0, 4.0])).values()) == [([1, 2], [3.0, 4.0])]
    logged, mean = smoothed((list(range(80)), [float(i % 2) for i in range(80)])).values()
    assert len(logged[0]) == 80
    assert mean[0] == pytest.approx([i + 0.5 for i in range(79)])
    assert mean[1] == pytest.approx([0.5] * 79)


def test_lines_are_where_values_are():
    curves = {'one': ([0, 5, 10], [0.0, 1.0, 0.5]), 'two': ([0, 10], [1.0, 0.0])}
    axes = plotted(curves)
    drawn = [(list(line.get_xdata()), list(line.get_ydata())) for line in axes.lines]
    assert drawn == list(curves.values())
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ['one', 'two']


def test_logarithmic_axes_are_for_very_different_positive_values():
    cases = [([1.0, 10, 100], True, 'log'), ([1.0, 10, 100], False, 'linear'), ([1.0, 2, 3], True, 'linear')]
    for values, may_be_log, scale in [*cases, ([0.0, 10, 100], True, 'linear')]:
        assert plotted({'a': ([0, 1, 2], values)}, may_be_log=may_be_log).get_yscale() == scale


@pytest.mark.parametrize('name', ['<script>alert(1)</script>', '--> <b>', '$\\frac{', 'a $ b $ & "c"'])
def test_names_never_become_markup(name):
    text = curves_svg({name: ([1, 2], [1e-9, 2e-9]), 'other': ([1], [3.0])}, 'x', 'y', True)
    tags = {element.tag.rpartition('}')[2] for element in ElementTree.fromstring(text).iter()}
    assert not tags & {'script', 'b', 'text', 'foreignObject'}
    assert 'path' in tags
