"""HTML and curves: escaped, complete, at the right places."""

import math
import re

import pytest
from PIL import Image
from visualization.pages import Page

from randsac_mm.visualization.html import Html, element, image, table
from randsac_mm.visualization.svg import Curve, line_chart


def curves_of(chart):
    found = re.findall(r'<polyline points="([^"]*)"', chart)
    return [[tuple(map(float, point.split(','))) for point in points.split()] for points in found]


def test_only_elements_are_not_escaped():
    assert element('p', '<b>', Html('<i></i>'), title='a"<') == '<p title="a&quot;&lt;">&lt;b&gt;<i></i></p>'
    assert element('img', src='data:') == '<img src="data:">'
    drawn = table('a < b', ['x', '<y>'], [['<script>', '&'], ['c', 'd']])
    assert '<script>' not in drawn
    assert drawn.count('scope="row"') == drawn.count('scope="col"') == 2


def test_pictures_are_embedded_with_all_pixels(tmp_path):
    import base64
    from io import BytesIO

    Image.effect_noise((7, 5), 90).convert('RGB').save(tmp_path / 'a.png')
    tag = image(tmp_path / 'a.png', 'noise "x"')
    assert 'alt="noise &quot;x&quot;" width="7" height="5"' in tag
    data = base64.b64decode(tag.split('base64,')[1].split('"')[0])
    with Image.open(BytesIO(data)) as embedded, Image.open(tmp_path / 'a.png') as original:
        assert embedded.tobytes() == original.tobytes()


def test_points_are_where_values_are():
    chart = line_chart('T', 'x', 'y', [Curve('one', [0, 5, 10], [0.0, 1.0, 0.5]), Curve('two', [0, 10], [1.0, 0.0])])
    (a, b, c), (d, e) = curves_of(chart)
    assert a[0] < b[0] < c[0]
    assert b[0] == pytest.approx((a[0] + c[0]) / 2, abs=0.1)
    assert a[1] > c[1] > b[1], 'y grows downwards'
    assert c[1] == pytest.approx((a[1] + b[1]) / 2, abs=0.1)
    assert (d[1], e[1]) == (b[1], a[1])
    assert 'one from 0 to 0.5, least 0, greatest 1; two from 1 to 0' in chart
    assert chart.count('class="key') == 2


def test_logarithmic_axes_are_for_very_different_positive_values():
    steps, values = [0, 1, 2], [1.0, 10.0, 100.0]
    (points,) = curves_of(line_chart('T', 'x', 'y', [Curve('a', steps, values)], may_be_log=True))
    assert points[1][1] == pytest.approx((points[0][1] + points[2][1]) / 2, abs=0.1)
    for curve, allowed in (([1.0, 10.0, 100.0], False), ([1.0, 2.0, 3.0], True), ([0.0, 10.0, 100.0], True)):
        assert 'logarithmic' not in line_chart('T', 'x', 'y', [Curve('a', steps, curve)], may_be_log=allowed)


def test_many_points_are_averaged_and_nan_left_out():
    values = [math.nan if i % 100 == 50 else float(i % 2) for i in range(3000)]
    (points,) = curves_of(line_chart('T', 'x', 'y', [Curve('a', range(3000), values)]))
    assert 300 < len(points) <= 500
    assert 'nan' not in line_chart('T', 'x', 'y', [Curve('a', range(3000), values)])
    with pytest.raises(ValueError, match='T: there is no finite value to draw'):
        line_chart('T', 'x', 'y', [Curve('a', [1], [math.inf])])


@pytest.mark.parametrize('values', [[3.0], [0.0, 0.0], [-2.0, -2.0, -2.0], [1e-9, 2e-9], [1e9, 3e9]])
def test_any_range_has_ticks_inside_the_picture(values):
    chart = line_chart('T', 'x', 'y', [Curve('a', range(len(values)), values, dots=True)])
    places = [float(y) for y in re.findall(r'<line [^>]*y1="([\d.-]+)"', chart)]
    assert len(places) >= 2
    assert all(0 <= place <= 270 for place in places)
    assert all(0 <= y <= 270 for _, y in curves_of(chart)[0])
    assert chart.count('<circle') == len(values)


def test_the_checker_finds_faults():
    """A negative control of tests/visualization/pages.py."""
    good = '<html><h1>a</h1><h2 id="x">b</h2><a href="#x">c</a></html>'
    assert Page(good).faults == []
    for bad in (
        '<p><b></p></b>',
        '<p>',
        '<script></script>',
        '<img src="data:image/png;base64,x">',
        '<img alt="a" src="https://example.org/a.png">',
        '<a href="https://example.org">d</a>',
        '<a href="#y">d</a>',
        '<p id="x"></p>',
        '<style>p { background: url(a.png) }</style>',
        '<table></table>',
        '<p onclick="x"></p>',
        '<h1>again</h1>',
    ):
        assert Page(good.replace('</html>', f'{bad}</html>')).faults, bad
