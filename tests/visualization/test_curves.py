"""Loss curves are drawn from mmengine's log."""

import json

import pytest
from PIL import Image

from randsac_mm.visualization import draw_loss_curve, read_losses


def write_log(path, entries):
    path.write_text(''.join(json.dumps(entry) + '\n' for entry in entries))
    return path


def test_log_is_read(tmp_path):
    entries = [
        {'lr': 0.1, 'loss': 3.0, 'epoch': 1, 'iter': 10, 'step': 10},
        {'lr': 0.1, 'loss': 2.0, 'epoch': 1, 'iter': 20, 'step': 20},
        {'accuracy/top1': 5.0, 'step': 1},
        {'lr': 0.1, 'loss': 1.5, 'epoch': 1, 'iter': 20, 'step': 20},  # resumed
    ]
    assert read_losses(write_log(tmp_path / 'scalars.json', entries)) == ([10, 20], [3.0, 1.5])


@pytest.mark.parametrize('count', [1, 5, 200])
def test_curve_of_any_length(tmp_path, count):
    losses = [1 / (i + 1) for i in range(count)]
    log = write_log(tmp_path / 'scalars.json', [{'loss': loss, 'iter': i} for i, loss in enumerate(losses)])
    for source in (losses, log, str(log)):
        with Image.open(draw_loss_curve(source, tmp_path / 'new' / 'loss.png')) as picture:
            assert picture.width > 800
            colours = {colour for _, colour in picture.convert('RGB').getcolors(100_000)}
        assert (106, 61, 154) in colours, 'the curve'


def test_no_loss_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match='there is no log'):
        draw_loss_curve(tmp_path / 'scalars.json', tmp_path / 'loss.png')
    with pytest.raises(ValueError, match='holds no loss'):
        draw_loss_curve(write_log(tmp_path / 'scalars.json', [{'lr': 1}]), tmp_path / 'loss.png')
    with pytest.raises(ValueError, match='no losses to draw'):
        draw_loss_curve([], tmp_path / 'loss.png')
