"""Contract: the tool judges a checkpoint beside an untrained encoder and raw pixels, and says what was judged."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmpretrain.registry import MODELS
from PIL import Image

from randsac_mm.datasets import Digits
from randsac_mm.evaluation import LabelledImages, evaluate_backbone, extract_features, judge_features
from randsac_mm.evaluation.labelled import LabelledData, data_of, load_labelled
from randsac_mm.evaluation.protocol import (
    build_encoder,
    evaluate_checkpoint,
    format_accuracy,
    judge_pixels,
    make_preprocess,
)

ROOT = Path(__file__).resolve().parents[2]
CONFIG = ROOT / 'configs' / 'smoke' / 'randsac_vit_digits.py'


@pytest.fixture(autouse=True)
def _scope() -> None:
    init_default_scope('mmpretrain')


@pytest.fixture
def cfg() -> Config:
    cfg = Config.fromfile(CONFIG)
    cfg.model.backbone.arch = dict(embed_dims=32, num_layers=2, num_heads=2, feedforward_channels=64)
    cfg.model.neck.update(embed_dims=32, num_heads=2, encoder_dims=32, encoder_layers=2)
    cfg.model.head.embed_dims = 32
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


def digits(split: str) -> LabelledImages:
    data = Digits(split)
    return LabelledImages(data.images, data.labels)


def test_figures_are_those_of_the_judges(cfg: Config, model: torch.nn.Module, checkpoint: Path) -> None:
    data = load_labelled('digits', (8, 8), 1, subset=500, seed=3)
    assert (len(data.train.images), len(data.test.images)) == (500, 360)
    report = evaluate_checkpoint(cfg, checkpoint, data, raw=True, untrained=True, seed=1)

    prepare = model.data_preprocessor
    features = [
        extract_features(model.backbone, part.images, preprocess=lambda batch: prepare({'inputs': batch})['inputs'])
        for part in (data.train, data.test)
    ]
    expected = judge_features(features[0], data.train.labels, features[1], data.test.labels)._asdict()
    assert report['accuracy_percent']['encoder, pre-trained'] == expected
    assert report['accuracy_percent']['raw pixels']['knn'] > 90
    assert set(report['accuracy_percent']['raw pixels']) == {'knn', 'linear', 'ridge'}
    assert report['accuracy_percent']['encoder, untrained'] != expected
    assert (report['train_images'], report['classes'], report['image_size']) == (500, 10, [8, 8])
    assert json.loads(json.dumps(report)) == report
    lines = format_accuracy(report).splitlines()
    assert lines[2].split()[:4] == ['encoder,', 'pre-trained', f'{expected["knn"]:.2f}', f'{expected["linear"]:.2f}']
    assert len(lines) == 5


def test_a_model_or_its_backbone_can_be_given(model: torch.nn.Module) -> None:
    train, test = LabelledImages(*(part[:300] for part in digits('train'))), digits('test')

    def prepare(batch: torch.Tensor) -> torch.Tensor:
        return model.data_preprocessor({'inputs': batch})['inputs']

    scores = evaluate_backbone(model, prepare, train, test, k=5)
    assert scores == evaluate_backbone(model.backbone, prepare, train, test, k=5, batch_size=77)
    lower = evaluate_backbone(model, prepare, train, test, k=5, bf16=True)
    assert lower != scores  # bfloat16 is not the same
    assert all(abs(lower[name] - scores[name]) < 5 for name in scores)


def test_untrained_encoder_repeats_and_leaves_random_state_alone(cfg: Config) -> None:
    state = torch.get_rng_state()
    first, second, other = (build_encoder(cfg, seed=seed).state_dict() for seed in (5, 5, 6))
    assert torch.equal(torch.get_rng_state(), state)
    name = 'layers.0.attn.qkv.weight'
    assert torch.equal(first[name], second[name])
    assert not torch.equal(first[name], other[name])


def test_checkpoint_of_another_architecture_is_refused(cfg: Config, checkpoint: Path) -> None:
    cfg.model.backbone.arch.embed_dims = 64
    with pytest.raises(ValueError, match='epoch_2'):
        build_encoder(cfg, checkpoint)
    with pytest.raises(ValueError, match=r'the config has no model\.backbone'):
        build_encoder(Config(dict(model=dict(type='RandSAC'))), checkpoint)


def test_images_get_the_size_and_the_normalisation_of_the_config(cfg: Config, model: torch.nn.Module) -> None:
    images = digits('test').images[:9]
    prepare = make_preprocess(cfg, (8, 8))
    torch.testing.assert_close(prepare(images), model.data_preprocessor({'inputs': images})['inputs'])
    large = make_preprocess(cfg, (16, 24))(images)
    assert large.shape == (9, 1, 16, 24)
    assert large.min() >= (0 - 77.94) / 95.91 - 1e-4
    cfg.model.data_preprocessor.pop('mean')
    assert torch.equal(make_preprocess(cfg, (8, 8))(images), images.float())


def test_grey_images_do_not_fit_an_encoder_of_colours(cfg: Config, checkpoint: Path) -> None:
    cfg.model.backbone.in_channels = 3
    data = load_labelled('digits', (8, 8))
    with pytest.raises(
        ValueError, match=r"images of scikit-learn's digits have 1 channel\(s\) and the encoder takes 3"
    ):
        evaluate_checkpoint(cfg, checkpoint, data)


@pytest.mark.slow
def test_large_pixels_are_made_smaller() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(40) % 2
    images = torch.randint(0, 100, (40, 1, 40, 48), generator=generator) + 100 * labels.view(-1, 1, 1, 1)
    part = LabelledImages(images.byte(), labels)
    assert judge_pixels(LabelledData('bright and dark', part, part), k=3)['linear'] == 100


def write_folder(root: Path, classes: str = 'ab', held_out: str = 'val', other: str = 'ab') -> Path:
    """Class folders of 2 red (a) and 2 blue (b) pictures of several sizes."""
    for folder, names in (('train', classes), (held_out, other)):
        for name in names:
            (root / folder / name).mkdir(parents=True)
            for i in range(2):
                picture = np.zeros((20 + i, 30, 3), np.uint8)
                picture[..., 0 if name == 'a' else 2] = 200
                Image.fromarray(picture).save(root / folder / name / f'{i}.png')
    return root


@pytest.mark.slow
@pytest.mark.parametrize('held_out', ['val', 'test'])
def test_a_folder_of_class_folders(held_out: str, tmp_path: Path) -> None:
    data = load_labelled(str(write_folder(tmp_path, held_out=held_out)), (16, 8))
    assert data.name == f'2 classes in {tmp_path}'
    for part in (data.train, data.test):
        assert part.images.shape == (4, 3, 16, 8)
        assert part.labels.tolist() == [0, 0, 1, 1]
        assert part.images.amax((2, 3)).tolist() == [[200, 0, 0]] * 2 + [[0, 0, 200]] * 2  # RGB
    grey = load_labelled(str(tmp_path), (8, 8), channels=1, subset=2)
    assert grey.train.images.shape == (2, 1, 8, 8)
    assert grey.train.labels.tolist() == [0, 1]
    assert len(grey.test.labels) == 4


def test_what_is_no_labelled_data(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no labelled data in .*nowhere.*it must be 'digits', or a folder"):
        load_labelled(str(tmp_path / 'nowhere'), (8, 8))
    with pytest.raises(ValueError, match='subset=0 must be at least 1'):
        load_labelled('digits', (8, 8), subset=0)
    write_folder(tmp_path, classes='abc')
    with pytest.raises(ValueError, match=r"the same ones; only in one: \{'train': \['c'\], 'val': \[\]\}"):
        load_labelled(str(tmp_path), (8, 8))


@pytest.mark.parametrize(
    ('name', 'where'),
    [
        ('smoke/randsac_vit_digits', 'digits'),
        ('randsac/vit-t_cifar10', 'data/cifar10'),
        ('randsac/vit-s_cifar100', 'data/cifar100'),
        ('randsac/vit-b_in1k', 'data/imagenet'),
        ('finetune/finetune_vit-s_in100', 'data/imagenet100'),
    ],
)
def test_data_of_a_config(name: str, where: str) -> None:
    assert data_of(Config.fromfile(ROOT / 'configs' / f'{name}.py')) == where


def test_data_of_an_unlabelled_config() -> None:
    with pytest.raises(ValueError, match=r'UnlabelledImageFolder, which has no labels or no known place: .* by --data'):
        data_of(Config.fromfile(ROOT / 'configs' / 'randsac' / 'vit-b_folder.py'))


@pytest.mark.slow
def test_the_tool(cfg: Config, checkpoint: Path, tmp_path: Path) -> None:
    config, out = tmp_path / 'tiny.py', tmp_path / 'new' / 'scores.json'
    cfg.dump(config)
    command = [sys.executable, ROOT / 'tools' / 'evaluate.py', config, checkpoint]
    options = ['--subset', '200', '--raw', '--untrained', '--bf16', '--device', 'cpu', '--out', out]
    done = subprocess.run([*command, *options], capture_output=True, text=True, cwd=ROOT, timeout=300)
    assert done.returncode == 0, done.stderr[-4000:]
    report = json.loads(out.read_text())
    assert 'encoder, untrained' in done.stdout
    assert (report['train_images'], report['config'], report['checkpoint']) == (200, str(config), str(checkpoint))
    assert {'command', 'commit', 'hardware', 'seconds', 'accuracy_percent'} <= set(report)
    assert [path.name for path in out.parent.iterdir()] == ['scores.json']
    done = subprocess.run([*command, '--data', 'nowhere'], capture_output=True, text=True, cwd=ROOT, timeout=300)
    assert done.returncode == 1
    assert "evaluate.py: error: no labelled data in 'nowhere'" in done.stderr
