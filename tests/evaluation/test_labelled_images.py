"""Contract: labelled images of any data set, chosen by class, decoded once, the same ones for the same seed."""

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from export.tiny import model_config
from hypothesis import given, settings
from hypothesis import strategies as st
from mmengine.config import Config
from mmengine.registry import init_default_scope
from PIL import Image
from torch.utils.data import Dataset

from randsac_mm.datasets import Digits
from randsac_mm.evaluation import FrozenEncoder
from randsac_mm.evaluation.labelled_images import choose_stratified, find_labelled, load_images, load_labelled

CONFIGS = Path(__file__).resolve().parents[2] / 'configs'


@pytest.fixture(autouse=True)
def _scope() -> None:
    init_default_scope('mmpretrain')


@settings(max_examples=40)
@given(
    counts=st.lists(st.integers(1, 40), min_size=1, max_size=5), share=st.floats(0.01, 1), seed=st.integers(0, 10**6)
)
def test_every_class_keeps_its_share(counts, share, seed):
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)), counts))
    size = max(1, round(share * len(labels)))
    chosen = choose_stratified(labels, size, seed)
    assert len(chosen) == len(set(chosen.tolist())) == size
    assert (np.diff(chosen) > 0).all()
    found = np.bincount(labels[chosen], minlength=len(counts))
    assert np.abs(found - np.array(counts) * size / len(labels)).max() <= 1
    assert (choose_stratified(labels, size, seed) == chosen).all()


def test_choice_depends_on_its_seed_only():
    labels = np.arange(1000) % 10
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
    first, other = (set(choose_stratified(labels, 200, seed).tolist()) for seed in (0, 1))
    assert len(first & other) < 100, 'not simply the first ones'
    assert random.getstate() == states[0]
    assert np.random.get_state()[1].tolist() == states[1]
    assert torch.equal(torch.get_rng_state(), states[2])


def encoder(size=(8, 8), channels=3):
    """An untrained encoder of images of a size."""
    return FrozenEncoder(Config(dict(model=model_config(size=size, channels=channels))))


class Items(Dataset):
    """Returns given items and counts how often."""

    def __init__(self, items):
        self.items, self.reads = items, 0

    def __len__(self):
        return len(self.items)

    def __getitem__(self, idx):
        self.reads += 1
        return self.items[idx]

    def get_data_info(self, idx):
        return self.items[idx]


def item(label, size=2, dtype=torch.uint8):
    return dict(inputs=torch.full((1, 2, size), label or 0, dtype=dtype), gt_label=label)


@pytest.mark.parametrize(
    'source',
    [
        dict(type='Digits', split='test', with_label=False),
        dict(type='InMemoryDataset', dataset=dict(type='Digits', split='test'), device='cpu'),
    ],
)
def test_data_sets_in_memory(source):
    images, labels = load_images(source, 'test')
    digits = Digits('test')
    assert torch.equal(images, digits.images)
    assert torch.equal(labels, digits.labels)


def test_only_chosen_images_are_decoded():
    data = Items([item(label) for label in (0, 1, 1, 2, 2, 2)])
    images, labels = load_images(data, 'test', size=3)
    assert labels.tolist() == images[:, 0, 0, 0].tolist()
    assert images.dtype == torch.uint8
    assert data.reads == 3


@pytest.mark.parametrize(
    ('items', 'message'),
    [
        ([], 'no images'),
        ([item(None)], 'no gt_label'),
        ([item(0, dtype=torch.float32)], 'uint8'),
        ([item(0), item(0, size=3)], r'item 1 .*\(1, 2, 3\)'),
        ([dict(inputs=torch.zeros(1, dtype=torch.uint8).expand(1, 2**15, 2**15), gt_label=0)] * 5, 'max_bytes'),
    ],
)
def test_unusable_data_sets_are_refused(items, message):
    with pytest.raises(ValueError, match=rf'test \(Items\): .*{message}'):
        load_images(Items(items), 'test')


@pytest.mark.slow
def test_broken_file_is_an_error_and_not_another_image(tmp_path):
    (tmp_path / 'a').mkdir()
    (tmp_path / 'a' / 'broken.png').write_bytes(b'no picture')
    pipeline = [dict(type='LoadImageFromFile')]
    with pytest.raises(Exception, match=r'broken|None'):
        load_images(dict(type='CustomDataset', data_root=str(tmp_path), pipeline=pipeline), 'test')


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
    data = load_labelled(str(write_folder(tmp_path, held_out=held_out)), encoder((16, 8)))
    for part in (data.train, data.test):
        assert part.images.shape == (4, 3, 16, 8)
        assert part.labels.tolist() == [0, 0, 1, 1]
        assert part.images.amax((2, 3)).tolist() == [[200, 0, 0]] * 2 + [[0, 0, 200]] * 2  # RGB
    grey = load_labelled(str(tmp_path), encoder(channels=1), subset=2)
    assert grey.train.images.shape == (2, 1, 8, 8)
    assert grey.train.labels.tolist() == [0, 1]
    assert len(grey.test.labels) == 4


def test_a_folder_of_classes_without_a_split(tmp_path: Path) -> None:
    for name, count in (('a', 10), ('b', 6)):
        (tmp_path / name).mkdir()
        for i in range(count):
            Image.fromarray(np.full((8, 8, 3), i, np.uint8)).save(tmp_path / name / f'{i:02}.png')
    data = load_labelled(str(tmp_path), encoder())
    assert data.train.labels.tolist() == [0] * 8 + [1] * 5
    assert data.test.images[:, 0, 0, 0].tolist() == [4, 9, 4], 'every fifth of a class'


def test_what_is_no_labelled_data(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match='nowhere'):
        load_labelled(str(tmp_path / 'nowhere'), encoder())
    with pytest.raises(ValueError, match='0 images'):
        load_labelled('digits', encoder(), subset=0)
    write_folder(tmp_path, other='abc')
    with pytest.raises(ValueError, match=r'val: c .*a, b'):
        load_labelled(str(tmp_path), encoder())


def test_a_class_without_held_out_images_keeps_its_label(tmp_path: Path) -> None:
    data = load_labelled(str(write_folder(tmp_path, classes='abc', other='bc')), encoder())
    assert data.name == f'3 classes in {tmp_path}'
    assert data.train.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert data.test.labels.tolist() == [1, 1, 2, 2]
    dataset = dict(type='LabelledImageFolder', data_root='mine')
    assert find_labelled(Config(dict(train_dataloader=dict(dataset=dataset)))) == 'mine'


@pytest.mark.parametrize(
    ('name', 'where'),
    [
        ('smoke/randsac_vit_digits', 'digits'),
        ('randsac/vit-t_cifar10', 'data/cifar10'),
        ('randsac/vit-b_in1k', 'data/imagenet'),
        ('finetune/finetune_vit-s_in100', 'data/imagenet100'),
    ],
)
def test_data_of_a_config(name: str, where: str) -> None:
    assert find_labelled(Config.fromfile(CONFIGS / f'{name}.py')) == where


def test_data_of_an_unlabelled_config() -> None:
    with pytest.raises(ValueError, match=r'UnlabelledImageFolder.*--data'):
        find_labelled(Config.fromfile(CONFIGS / 'randsac' / 'vit-b_folder.py'))
