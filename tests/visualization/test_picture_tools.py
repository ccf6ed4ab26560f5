"""The scripts, called in this process: pictures appear, figures are right, mistakes are named."""

import importlib.util
import json
import sys

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmpretrain.registry import MODELS
from PIL import Image

import randsac_mm  # noqa: F401  registers the models


@pytest.fixture
def run(root, monkeypatch):
    """Run a script of tools/visualization or tools/analysis with a command line."""

    def call(script, *args):
        spec = importlib.util.spec_from_file_location('tool', root / 'tools' / script)
        tool = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(tool)
        monkeypatch.setattr(sys, 'argv', [script, *map(str, args)])
        tool.main()

    return call


@pytest.fixture
def digits_checkpoint(root, tmp_path):
    config = root / 'configs' / 'randsac' / 'vit_digits.py'
    torch.manual_seed(0)
    model = MODELS.build(Config.fromfile(config).model)
    torch.save({'state_dict': model.state_dict()}, tmp_path / 'digits.pth')
    return config, tmp_path / 'digits.pth'


def test_serialization_of_the_sample_photo(run, tmp_path, capsys):
    run('visualization/serialization.py', '--out', tmp_path, '--num', 2, '--kind', 'blob', '--hierarchy', 11, 5)
    files = capsys.readouterr().out.split()
    assert [file.rpartition('/')[2] for file in files] == [
        'flower_0.png',
        'flower_0.gif',
        'flower_1.png',
        'flower_1.gif',
    ]
    with Image.open(files[1]) as gif:
        assert gif.n_frames > 3


def test_serialization_of_a_file_as_a_config_says(run, root, tmp_path, capsys):
    photo = tmp_path / 'photo.png'
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)).save(photo)
    run('visualization/serialization.py', root / 'configs/randsac/vit_digits.py', '--image', photo, '--out', tmp_path)
    png, gif = capsys.readouterr().out.split()
    assert png.endswith('photo.png')
    with Image.open(gif) as frames:
        assert frames.n_frames == 17  # 16 segments and the whole image


def test_serialization_names_mistakes(run, tmp_path):
    with pytest.raises(SystemExit, match=r'error: a grid of 12 x 12 tokens cannot be divided into 7 squares'):
        run('visualization/serialization.py', '--out', tmp_path, '--hierarchy', 7)
    with pytest.raises(SystemExit, match=r'nothing\.jpg'):
        run('visualization/serialization.py', '--out', tmp_path, '--image', tmp_path / 'nothing.jpg')


def test_reconstruct_digits_of_the_data_set(run, digits_checkpoint, tmp_path, capsys):
    config, checkpoint = digits_checkpoint
    run('visualization/reconstruct.py', config, checkpoint, '--out', tmp_path / 'out', '--num', 3)
    assert 'predicts pixels directly' in capsys.readouterr().out
    result = json.loads((tmp_path / 'out' / 'reconstruction.json').read_text())
    assert not result['norm_pix']
    assert len(result['images']) == 3
    for image in result['images']:
        assert len(image['mse_per_rank']) == 16
        assert image['mse_per_rank'][0] is None
        assert image['mse'] == pytest.approx(np.mean(image['mse_per_rank'][1:]))
    with Image.open(tmp_path / 'out' / 'reconstruction.png') as picture:
        assert picture.width > 1000


def test_reconstruct_files_with_norm_pix_says_so(run, digits_checkpoint, tmp_path, capsys):
    config, checkpoint = digits_checkpoint
    folder = tmp_path / 'photos' / 'deep'
    folder.mkdir(parents=True)
    (folder / 'a_note.txt').write_text('no image')
    for name in ('b.png', 'c.png'):
        Image.new('RGB', (9, 11), (200, 100, 50)).save(folder / name)
    options = ('--out', tmp_path / 'out', '--cfg-options', 'model.head.norm_pix=True')
    run('visualization/reconstruct.py', config, checkpoint, '--images', tmp_path / 'photos', *options)
    assert 'TARGET patch' in capsys.readouterr().out
    result = json.loads((tmp_path / 'out' / 'reconstruction.json').read_text())
    assert [image['image'][-5:] for image in result['images']] == ['b.png', 'c.png']
    assert 'TARGET patch' in result['note']


def test_reconstruct_names_mistakes(run, digits_checkpoint, tmp_path):
    config, checkpoint = digits_checkpoint
    with pytest.raises(SystemExit, match='there is no checkpoint'):
        run('visualization/reconstruct.py', config, tmp_path / 'other.pth', '--out', tmp_path)
    with pytest.raises(SystemExit, match=r"left over: \[.*'neck.layers.1.ln1.weight'"):
        run(
            'visualization/reconstruct.py', config, checkpoint, '--out', tmp_path,
            '--cfg-options', 'model.neck.num_layers=1',
        )  # fmt: skip
    with pytest.raises(SystemExit, match='there is no such file or folder'):
        run('visualization/reconstruct.py', config, checkpoint, '--out', tmp_path, '--images', tmp_path / 'x.png')
    (tmp_path / 'empty').mkdir()
    with pytest.raises(SystemExit, match='no readable image there'):
        run('visualization/reconstruct.py', config, checkpoint, '--out', tmp_path, '--images', tmp_path / 'empty')


def test_complexity_prints_and_writes(run, root, tmp_path, capsys):
    config = root / 'configs' / 'randsac' / 'vit_digits.py'
    run('analysis/complexity.py', config, '--measure', '--json', tmp_path / 'c.json')
    assert '4 x 4 = 16 tokens' in capsys.readouterr().out
    result = json.loads((tmp_path / 'c.json').read_text())
    assert result['parts']['total']['executed'] == result['measured']['total'] > 0
    with pytest.raises(SystemExit, match='there is no config'):
        run('analysis/complexity.py', tmp_path / 'none.py')
