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


@pytest.fixture
def smoke_checkpoint(root, tmp_path):
    """A checkpoint of blobs without skip connections, on the digits."""
    config = root / 'configs' / 'smoke' / 'randsac_vit_blob_digits.py'
    model = MODELS.build(Config.fromfile(config).model)
    torch.save({'state_dict': model.state_dict()}, tmp_path / 'blob.pth')
    return config, tmp_path / 'blob.pth'


def test_attention_features_and_ranks(run, digits_checkpoint, tmp_path, capsys):
    out = tmp_path / 'out'
    run('visualization/attention.py', *digits_checkpoint, '--out', out, '--num', 2, '--query', 0, 3, '--layers', -1)
    attention = json.loads((out / 'attention.json').read_text())
    assert (attention['query'], attention['layers'], attention['heads']) == ([0, 3], [3], [0, 1, 2, 3])
    assert attention['images'] == ['0', '1']
    run('visualization/features.py', *digits_checkpoint, '--out', out, '--num', 4)
    assert len(json.loads((out / 'features.json').read_text())['explained_variance']) == 3
    run('visualization/loss_by_rank.py', *digits_checkpoint, '--out', out, '--num', 10)
    ranks = json.loads((out / 'loss_by_rank.json').read_text())
    assert ranks['by_rank']['first'] == list(range(1, 16))
    assert ranks['by_seen']['first'] == list(range(1, 16)), 'segments of one token'
    assert f'{ranks["overall"]["mse"][0]:.4f}' in capsys.readouterr().out
    pictures = sorted(file.name for file in out.glob('*.png'))
    assert pictures == ['attention.png', 'attention_heads.png', 'features.png', 'loss_by_rank.png']


def test_skip_weights_where_there_are_some(run, digits_checkpoint, smoke_checkpoint, tmp_path, capsys):
    run('visualization/skip_weights.py', *digits_checkpoint, '--out', tmp_path / 'out')
    result = json.loads((tmp_path / 'out' / 'skip_weights.json').read_text())
    assert result['weights'] == [[0.25, 0.25]] * 4
    assert 'weights compare across rows' in capsys.readouterr().out
    with pytest.raises(SystemExit, match=r'skip_weights\.py: error: this model has no skip connections'):
        run('visualization/skip_weights.py', *smoke_checkpoint, '--out', tmp_path / 'none')
    assert not (tmp_path / 'none').exists()


def test_picture_tools_name_mistakes(run, root, digits_checkpoint, tmp_path, capsys):
    config, checkpoint = digits_checkpoint
    with pytest.raises(SystemExit, match=r'attention\.py: error: layers=\[9\] names layer 9'):
        run('visualization/attention.py', config, checkpoint, '--out', tmp_path, '--layers', 9)
    with pytest.raises(SystemExit, match=r'loss_by_rank\.py: error: serializations=0 must be at least 1'):
        run('visualization/loss_by_rank.py', config, checkpoint, '--out', tmp_path, '--serializations', 0)
    with pytest.raises(SystemExit, match='2'):
        run('visualization/features.py', config, checkpoint, '--out', tmp_path, '--num', 0)
    assert '--num 0: draw at least 1 image' in capsys.readouterr().err
    other = tmp_path / 'other.py'
    other.write_text("model = dict(type='ImageClassifier', backbone=dict(type='RandSACViT', arch='deit-tiny'))")
    with pytest.raises(SystemExit, match='the config builds a ImageClassifier, no model of pre-training'):
        run('visualization/features.py', other, checkpoint, '--out', tmp_path)


def test_report_is_written_whole_or_not_at_all(run, digits_checkpoint, tmp_path, capsys, monkeypatch):
    config, checkpoint = digits_checkpoint
    work_dir = tmp_path / 'work'
    work_dir.mkdir()
    (work_dir / 'epoch_1.pth').write_bytes(checkpoint.read_bytes())
    out = tmp_path / 'deep' / 'page.html'
    run('report.py', work_dir, '--config', config, '--out', out, '--num', 1, '--loss-images', 5)
    assert capsys.readouterr().out.split() == [str(out)]
    assert out.read_text().endswith('</html>\n')
    assert list(out.parent.iterdir()) == [out]
    with pytest.raises(SystemExit, match=r'report\.py: error: there is no work directory'):
        run('report.py', tmp_path / 'none', '--out', out)
    with pytest.raises(SystemExit, match=r'--checkpoint .*x\.pth: there is no such file'):
        run('report.py', work_dir, '--checkpoint', tmp_path / 'x.pth', '--out', out)
