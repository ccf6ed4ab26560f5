"""Contract: a checkpoint is evaluated beside an untrained encoder and raw pixels; the report says what and where."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmpretrain.registry import MODELS
from processes import ROOT, run

from randsac_mm.evaluation import FrozenEncoder, LabelledImages, evaluate_backbone
from randsac_mm.evaluation.evaluate import evaluate_checkpoint, evaluate_pixels, format_accuracy
from randsac_mm.evaluation.features import normalise
from randsac_mm.evaluation.frozen_encoder import build_encoder
from randsac_mm.evaluation.labelled_images import load_labelled

CONFIG = ROOT / 'configs' / 'smoke' / 'randsac_vit_digits.py'


@pytest.fixture(autouse=True)
def _scope() -> None:
    init_default_scope('mmpretrain')


@pytest.fixture
def cfg() -> Config:
    cfg = Config.fromfile(CONFIG)
    cfg.model.backbone.arch = dict(embed_dims=32, num_layers=2, num_heads=2, feedforward_channels=64)
    cfg.model.neck.update(embed_dims=32, num_heads=2)
    return cfg


@pytest.fixture
def model(cfg: Config) -> torch.nn.Module:
    torch.manual_seed(7)
    model = MODELS.build(cfg.model)
    model.init_weights()
    return model


@pytest.fixture
def checkpoint(model: torch.nn.Module, tmp_path: Path) -> Path:
    torch.save({'state_dict': model.state_dict()}, tmp_path / 'epoch_2.pth')
    return tmp_path / 'epoch_2.pth'


def test_report_has_the_scores_of_the_features(cfg: Config, model: torch.nn.Module, checkpoint: Path) -> None:
    report = evaluate_checkpoint(cfg, checkpoint, subset=500, raw=True, untrained=True, seed=1)
    data = load_labelled('digits', FrozenEncoder(cfg), subset=500, seed=1)
    assert (len(data.train.images), len(data.test.images)) == (500, 360)
    preprocess = partial(normalise, model.data_preprocessor)
    expected = evaluate_backbone(model.backbone, preprocess, data.train, data.test)._asdict()
    assert report['accuracy_percent']['encoder, pre-trained'] == expected
    assert report['accuracy_percent']['raw pixels']['knn'] > 90
    assert report['accuracy_percent']['encoder, untrained'] != expected
    assert (report['train_images'], report['classes'], report['image_size']) == (500, 10, [8, 8])
    assert json.loads(json.dumps(report)) == report
    lines = format_accuracy(report).splitlines()
    assert lines[1] == report['preparation']
    assert lines[3].split()[:4] == ['encoder,', 'pre-trained', f'{expected["knn"]:.2f}', f'{expected["linear"]:.2f}']


def test_untrained_encoder_repeats_and_leaves_random_state_alone(cfg: Config) -> None:
    state = torch.get_rng_state()
    first, second, other = (build_encoder(cfg, seed=seed).state_dict() for seed in (5, 5, 6))
    assert torch.equal(torch.get_rng_state(), state)
    name = 'layers.0.attn.qkv.weight'
    assert torch.equal(first[name], second[name])
    assert not torch.equal(first[name], other[name])


def test_checkpoint_or_images_that_do_not_fit_are_refused(cfg: Config, checkpoint: Path) -> None:
    with pytest.raises(ValueError, match=r'model\.backbone'):
        build_encoder(Config(dict(model=dict(type='RandSAC'))), checkpoint)
    cfg.model.backbone.in_channels = 3
    torch.save({'state_dict': build_encoder(cfg).state_dict()}, checkpoint)
    with pytest.raises(ValueError, match=r'1 channel\(s\) and the encoder takes 3'):
        evaluate_checkpoint(cfg, checkpoint)
    cfg.model.backbone.arch.embed_dims = 64
    with pytest.raises(ValueError, match='epoch_2'):
        build_encoder(cfg, checkpoint)


def test_several_numbers_of_neighbours(cfg: Config, checkpoint: Path) -> None:
    several = evaluate_checkpoint(cfg, checkpoint, subset=200, k=[1, 30])
    row = several['accuracy_percent']['encoder, pre-trained']
    for k in (1, 30):
        single = evaluate_checkpoint(cfg, checkpoint, subset=200, k=[k])['accuracy_percent']['encoder, pre-trained']
        assert row[f'knn_{k}'] == single['knn']
    assert row['knn_1'] != row['knn_30']
    assert several['settings']['k'] == [1, 30]
    assert [f'{row[key]:.2f}' for key in ('knn_1', 'knn_30')] == format_accuracy(several).splitlines()[3].split()[2:4]
    with pytest.raises(ValueError, match=r'k=201 .* 200 .*--k'):
        evaluate_checkpoint(cfg, checkpoint, subset=200, k=[201])


@pytest.mark.slow
def test_large_pixels_are_made_smaller() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(40) % 2
    images = torch.randint(0, 100, (40, 1, 40, 48), generator=generator) + 100 * labels.view(-1, 1, 1, 1)
    part = LabelledImages(images.byte(), labels)
    assert evaluate_pixels(part, part)['linear'] == 100


@pytest.mark.slow
def test_the_tool(cfg: Config, checkpoint: Path, tmp_path: Path, run_tool: Callable[..., None]) -> None:
    config, out = tmp_path / 'tiny.py', tmp_path / 'new' / 'scores.json'
    cfg.dump(config)
    options = ['--subset', 200, '--k', 5, '--raw', '--untrained', '--out', out]
    run('python', ROOT / 'tools' / 'evaluate.py', config, checkpoint, *options)
    report = json.loads(out.read_text())
    assert (report['train_images'], report['config'], report['checkpoint']) == (200, str(config), str(checkpoint))
    assert report['settings']['k'] == 5
    assert {'command', 'commit', 'hardware', 'seconds', 'accuracy_percent'} <= set(report)
    whole = dict(meta={'epoch': 2, 'iter': 2}, optimizer={}, message_hub={})
    torch.save({**torch.load(checkpoint, weights_only=True), **whole}, checkpoint)
    run_tool('evaluate.py', checkpoint.parent, '--subset', 200, '--k', 5, '--out', out)
    again = json.loads(out.read_text())
    name = 'encoder, pre-trained'
    assert again['accuracy_percent'][name]['knn'] == report['accuracy_percent'][name]['knn'], 'a work directory alone'
    with pytest.raises(SystemExit, match=r"evaluate\.py: error: no labelled data in 'nowhere'"):
        run_tool('evaluate.py', config, checkpoint, '--data', 'nowhere')
