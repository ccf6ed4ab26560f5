"""Contract: 1,437 and 360 real digits, always the same, as uint8 (1, 8, 8), at the cost of one indexing a batch."""

import sys

import numpy as np
import pytest
import torch
from mmengine.dataset import default_collate
from mmengine.runner import Runner
from mmpretrain.registry import DATASETS
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader

from randsac_mm.datasets import Digits


@pytest.fixture(scope='module')
def splits():
    return {split: Digits(split) for split in ('train', 'test')}


def test_the_split_divides_all_images_and_nothing_else(splits):
    train, test = splits['train'], splits['test']
    assert (len(train), len(test)) == (1437, 360)
    data = load_digits()

    def rows(images, labels):
        return sorted(map(tuple, np.column_stack([images.reshape(len(images), -1), labels]).astype(int)))

    expected = np.rint(data.images * 255 / 16)
    got = torch.cat([train.images, test.images]).numpy(), torch.cat([train.labels, test.labels]).numpy()
    assert rows(*got) == rows(expected, data.target)


def test_the_split_is_fixed(splits):
    # Another split would make numbers of different versions incomparable.
    assert splits['test'].labels[:12].tolist() == [4, 5, 6, 9, 4, 7, 8, 9, 9, 6, 9, 9]
    assert splits['test'].labels.bincount().tolist() == [27, 35, 36, 29, 30, 40, 44, 39, 39, 41]
    assert splits['train'].labels[:12].tolist() == [0, 1, 2, 3, 7, 8, 0, 1, 2, 3, 5, 6]


def test_values(splits):
    assert splits['train'].images.dtype == torch.uint8
    assert sorted(splits['train'].images.unique().tolist()) == [round(255 / 16 * value) for value in range(17)]


def test_item_and_items_agree(splits):
    data = splits['test']
    for index, item in zip([5, 0, -1], data.__getitems__([5, 0, -1]), strict=True):
        for same in (item, data[index]):
            torch.testing.assert_close(same['inputs'], data.images[index])
            assert same['data_samples'].gt_label.tolist() == [data.labels[index]]
    assert data[0]['inputs'].shape == (1, 8, 8)
    with pytest.raises(IndexError):
        data[360]


def test_iteration_ends(splits):
    assert sum(1 for _ in splits['test']) == 360


@pytest.mark.parametrize('with_label', [True, False])
def test_data_loader_of_a_runner(with_label):
    cfg = {
        'batch_size': 256,
        'num_workers': 0,
        'sampler': {'type': 'DefaultSampler', 'shuffle': True},
        'collate_fn': {'type': 'default_collate'},
        'dataset': {'type': 'mmpretrain.Digits', 'with_label': with_label},
    }
    batches = list(Runner.build_dataloader(cfg, seed=0))
    assert [tuple(batch['inputs'].shape) for batch in batches] == [(256, 1, 8, 8)] * 5 + [(157, 1, 8, 8)]
    assert batches[0]['inputs'].dtype == torch.uint8
    assert all(('data_samples' in batch) == with_label for batch in batches)
    if with_label:
        counts = torch.cat([sample.gt_label for batch in batches for sample in batch['data_samples']]).bincount()
        torch.testing.assert_close(counts, Digits().labels.bincount())


def test_a_batch_is_fetched_at_once(monkeypatch):
    calls = []
    fetch = Digits.__getitems__
    monkeypatch.setattr(
        Digits, '__getitems__', lambda self, indices: calls.append(len(indices)) or fetch(self, indices)
    )
    for _ in DataLoader(Digits('test'), 120, collate_fn=default_collate):
        pass
    assert calls == [120, 120, 120]


def test_pipeline():
    cfg = {'type': 'Digits', 'split': 'test', 'pipeline': [{'type': 'RandomFlip', 'prob': 1.0}, {'type': 'PackInputs'}]}
    data = DATASETS.build(cfg)
    before = data.images.clone()
    item = data[7]
    torch.testing.assert_close(item['inputs'], data.images[7].flip(-1))
    assert item['data_samples'].gt_label.tolist() == [data.labels[7]]
    assert item['data_samples'].img_shape == (8, 8)
    torch.testing.assert_close(data.images, before)
    with pytest.raises(ValueError, match="the pipeline returned None for digit 3 of split 'test'"):
        Digits('test', pipeline=[lambda results: None])[3]


def test_unknown_split():
    with pytest.raises(ValueError, match=r"split='val' must be one of \('train', 'test'\)"):
        Digits('val')


def test_without_scikit_learn(monkeypatch):
    monkeypatch.setitem(sys.modules, 'sklearn.datasets', None)
    with pytest.raises(ImportError, match='pip install scikit-learn'):
        Digits()
