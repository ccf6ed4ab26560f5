"""Contract: 1,437 and 360 real digits, always the same, as uint8 (1, 8, 8), at the cost of one indexing a batch."""

import numpy as np
import pytest
import torch
from mmengine.runner import Runner
from mmpretrain.registry import DATASETS
from sklearn.datasets import load_digits

from randsac_mm.datasets import Digits


def test_the_split_divides_all_images_and_is_fixed():
    train, test = Digits('train'), Digits('test')
    assert (len(train), len(test)) == (1437, 360)
    assert train.images.dtype == torch.uint8
    data = load_digits()

    def rows(images, labels):
        return sorted(map(tuple, np.column_stack([images.reshape(len(images), -1), labels]).astype(int)))

    found = torch.cat([train.images, test.images]).numpy(), torch.cat([train.labels, test.labels]).numpy()
    assert rows(*found) == rows(np.rint(data.images * 255 / 16), data.target)
    # Another split would make numbers of different versions incomparable.
    assert test.labels[:12].tolist() == [4, 5, 6, 9, 4, 7, 8, 9, 9, 6, 9, 9]
    assert test.labels.bincount().tolist() == [27, 35, 36, 29, 30, 40, 44, 39, 39, 41]
    assert train.labels[:12].tolist() == [0, 1, 2, 3, 7, 8, 0, 1, 2, 3, 5, 6]


def test_item_and_items_agree():
    data = Digits('test')
    for index, item in zip([5, 0, -1], data.__getitems__([5, 0, -1]), strict=True):
        for same in (item, data[index]):
            torch.testing.assert_close(same['inputs'], data.images[index])
            assert same['data_samples'].gt_label.tolist() == [data.labels[index]]
    assert sum(1 for _ in data) == 360


@pytest.mark.parametrize('with_label', [True, False])
def test_data_loader_of_a_runner(with_label, monkeypatch):
    calls, fetch = [], Digits.__getitems__
    monkeypatch.setattr(Digits, '__getitems__', lambda self, own: calls.append(len(own)) or fetch(self, own))
    cfg = dict(
        batch_size=256,
        num_workers=0,
        sampler=dict(type='DefaultSampler', shuffle=True),
        collate_fn=dict(type='default_collate'),
        dataset=dict(type='mmpretrain.Digits', with_label=with_label),
    )
    batches = list(Runner.build_dataloader(cfg, seed=0))
    assert [tuple(batch['inputs'].shape) for batch in batches] == [(256, 1, 8, 8)] * 5 + [(157, 1, 8, 8)]
    assert calls == [256] * 5 + [157], 'a batch is fetched at once'
    assert all(('data_samples' in batch) == with_label for batch in batches)


def test_pipeline_and_split():
    pipeline = [dict(type='RandomFlip', prob=1.0), dict(type='PackInputs')]
    data = DATASETS.build(dict(type='Digits', split='test', pipeline=pipeline))
    before = data.images.clone()
    item = data[7]
    torch.testing.assert_close(item['inputs'], data.images[7].flip(-1))
    assert item['data_samples'].gt_label.tolist() == [data.labels[7]]
    assert item['data_samples'].img_shape == (8, 8)
    torch.testing.assert_close(data.images, before)
    with pytest.raises(ValueError, match='None for digit 3'):
        Digits('test', pipeline=[lambda results: None])[3]
    with pytest.raises(ValueError, match="split='val'"):
        Digits('val')
