"""Pictures of serializations show the ranks they are given, in their order, with the hierarchy they came from."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from PIL import Image

from randsac_mm.models import build_serialization
from randsac_mm.visualization import animate_serialization, draw_serialization, sample_photo, serialize
from randsac_mm.visualization.canvas import UNKNOWN, cell_size, frame, outline, paragraph, rank_colours
from randsac_mm.visualization.serialization import _islands, serialization_panel

GRID = (4, 6)


def random_serialization(**partition):
    return build_serialization(dict(type='RandomSerialization', partition=partition))


@pytest.fixture
def image():
    return np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    'partition',
    [dict(type='SquarePartition', hierarchy=(24, 6)), dict(type='BlobPartition', hierarchy=(7, 3))],
    ids=['square', 'blob'],
)
def test_groups_belong_to_the_ranks(partition):
    drawn = serialize(random_serialization(**partition), 5, GRID, seed=3)
    again = serialize(random_serialization(**partition), 5, GRID, seed=3)
    other = serialize(random_serialization(**partition), 5, GRID, seed=4)
    assert torch.equal(drawn.rank, again.rank)
    assert not torch.equal(drawn.rank, other.rank)
    assert drawn.groups.shape == (5, 1, 24)
    for rank, groups in zip(drawn.rank, drawn.groups[:, 0], strict=True):
        of_rank = [set(groups[rank == r].tolist()) for r in range(int(rank.max()) + 1)]
        assert all(len(ids) == 1 for ids in of_rank), 'a segment lies in two groups'
        visited = [ids.pop() for ids in of_rank]
        changes = sum(a != b for a, b in pairwise(visited))
        assert changes == len(set(visited)) - 1, 'a group was left and entered again'


def test_without_hierarchy_there_are_no_groups():
    assert serialize(random_serialization(type='PatchPartition'), 2, GRID).groups.shape == (2, 0, 24)


def test_png_has_a_panel_for_the_image_and_one_for_the_segments(image, tmp_path):
    drawn = serialize(random_serialization(type='SquarePartition', hierarchy=(24, 6)), 1, GRID)
    path = draw_serialization(image, drawn.rank[0], GRID, tmp_path / 'new' / 'a.png', drawn.groups[0])
    with Image.open(path) as picture:
        width, height = picture.size
    side = cell_size(GRID, 480) * 6
    assert width >= 2 * side
    assert height >= side * 4 / 6


def test_panel_colours_follow_the_ranks(image):
    rank = np.arange(24) // 4
    white = np.full_like(image, 255)
    panel = serialization_panel(white, rank, GRID, 40, numbers=False)
    centres = panel[20::40, 20::40].reshape(24, 3).astype(int)
    expected = 0.38 * 255 + 0.62 * rank_colours(6)[rank]
    assert np.abs(centres - expected).max() <= 1
    numbered = serialization_panel(white, rank, GRID, 40)
    assert not np.array_equal(numbered, panel)


def test_gif_reveals_segment_after_segment(image, tmp_path):
    rank = torch.tensor([2, 0, 1, 1] * 6)
    white = np.full_like(image, 255)
    path = animate_serialization(white, rank, GRID, tmp_path / 'a.gif')
    frames = []
    with Image.open(path) as gif:
        assert gif.n_frames == 4  # three segments and the whole image
        for r in range(4):
            gif.seek(r)
            frames.append(np.asarray(gif.convert('RGB')).astype(int))
        assert gif.info['duration'] == 2500
    cell = cell_size(GRID, 480)
    margin, caption = 8, round(17 * 1.7)
    table = rank.view(GRID).numpy()
    colours = rank_colours(3).astype(int)
    for r, shown in enumerate(frames):
        for (y, x), place in np.ndenumerate(table):
            pixel = shown[margin + caption + int((y + 0.5) * cell), margin + int((x + 0.5) * cell)]
            expected = (255, 255, 255) if place < r else colours[r] if place == r else UNKNOWN
            assert np.abs(pixel - expected).max() <= 8, (r, y, x)


def test_numbers_stand_once_on_every_connected_part():
    ranks = np.array([[0, 0, 1], [0, 1, 1], [2, 2, 0]])
    parts = _islands(ranks)
    assert sorted((rank, tokens) for rank, _, _, tokens in parts) == [(0, 1), (0, 3), (1, 3), (2, 2)]
    for rank, y, x, _ in parts:
        assert rank in {ranks[int(np.floor(y)), int(np.floor(x))], ranks[int(np.ceil(y)), int(np.ceil(x))]}
    assert next((y, x) for rank, y, x, _ in parts if rank == 2) == (2, 0.5)


def test_lines():
    black = np.zeros((20, 30, 3), np.uint8)
    lines = outline(black, np.array([0, 1, 1, 0, 1, 1]), (2, 3), (9, 8, 7), 2)
    assert (lines[:, 9:11] == (9, 8, 7)).all()
    assert not lines[:, 12:].any()
    inside = np.zeros((20, 30), bool)
    inside[:10, :10] = True
    framed = frame(black, inside, (9, 8, 7), 2)
    assert (framed[:2, :10] == (9, 8, 7)).all()  # at the edge of the image, too
    assert not framed[2:8, 2:8].any()
    assert not framed[10:].any()


def test_long_text_is_broken_into_lines():
    short, long = (paragraph(text, 200, 14) for text in ('one line', 'one line after another ' * 8))
    assert short.width == long.width == 200
    assert long.height >= 5 * short.height


def test_sample_photo_is_a_real_colour_photograph():
    photo = sample_photo()
    assert photo.shape == (427, 640, 3)
    assert photo.std() > 20


@pytest.mark.parametrize('draw', [draw_serialization, animate_serialization])
def test_what_does_not_fit_is_refused(image, tmp_path, draw):
    rank = torch.arange(24)
    with pytest.raises(ValueError, match=r'must be \(H, W, 3\) of uint8'):
        draw(image.astype(float), rank, GRID, tmp_path / 'a')
    with pytest.raises(ValueError, match=r'a grid of 4 x 6 needs \(24,\)'):
        draw(image, rank[:-1], GRID, tmp_path / 'a')
    with pytest.raises(ValueError, match=r'groups have shape \(24,\), but must be \(levels, 24\)'):
        draw(image, rank, GRID, tmp_path / 'a', rank)
