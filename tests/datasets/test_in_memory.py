"""Contract: whole batches of another data set's very images, from the device, under mmengine's loader and resume."""

from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
from engine.toy_engine import Interrupted, assert_same, last_checkpoint, toy_config, trained_state
from mmengine.config import Config
from mmengine.runner import Runner

from randsac_mm.datasets import Digits, InMemoryDataset, WholeBatch, collate_whole_batch

LOADER = dict(
    batch_size=100,
    num_workers=0,
    persistent_workers=False,
    pin_memory=False,
    sampler=dict(type='DefaultSampler', shuffle=True),
    collate_fn=dict(type='collate_whole_batch'),
)


def arrays(count=7, shape=(5, 3, 2)):
    return list(np.random.randint(0, 256, (count, *shape), dtype=np.uint8))


def make(**kwargs):
    return InMemoryDataset(dict(type='Digits', split='test', with_label=False), device='cpu', **kwargs)


def test_images_and_labels_are_those_of_the_data_set():
    digits, data = Digits('test'), InMemoryDataset(dict(type='Digits', split='test'), device='cpu')
    assert torch.equal(data.images, digits.images)
    assert torch.equal(data.labels, digits.labels)
    assert data.metainfo == digits.metainfo
    assert len(data) == 360
    batch = data.__getitems__([5, 0, 5])
    assert torch.equal(batch['inputs'], digits.images[[5, 0, 5]])
    assert set(batch) == {'inputs'}
    assert torch.equal(torch.stack([item['inputs'] for item in data]), digits.images)


@pytest.mark.parametrize('label', [{'gt_label': 3}, {}])
@pytest.mark.parametrize('shape', [(5, 3, 2), (5, 3)])
def test_arrays_as_those_of_cifar(label, shape):
    images = arrays(shape=shape)
    data = InMemoryDataset([{'img': image, **label} for image in images], device='cpu')
    assert torch.equal(data.images, torch.from_numpy(np.stack(images)).reshape(7, 5, 3, -1).permute(0, 3, 1, 2))
    assert data.images.is_contiguous()
    assert data.labels.tolist() == [3] * 7 if label else data.labels is None


def test_labels_in_batches():
    data = InMemoryDataset(dict(type='Digits', split='test'), device='cpu', with_label=True)
    batch = data.__getitems__([3, 8])
    assert [sample.gt_label.tolist() for sample in batch['data_samples']] == data.labels[[3, 8], None].tolist()
    assert data[3]['data_samples'].gt_label == data.labels[3]
    with pytest.raises(ValueError, match=r'Digits.*with_label=False'):
        make(with_label=True)


def test_loader_of_a_runner_has_the_order_of_the_wrapped_data_set():
    digits = Digits('test', with_label=False)
    plain = Runner.build_dataloader({**LOADER, 'dataset': digits, 'collate_fn': dict(type='default_collate')}, seed=3)
    config = dict(type='mmpretrain.InMemoryDataset', dataset=digits)
    whole = Runner.build_dataloader({**LOADER, 'dataset': config}, seed=3)
    for epoch in range(2):
        plain.sampler.set_epoch(epoch)
        whole.sampler.set_epoch(epoch)
        for expected, found in zip(plain, whole, strict=True):
            assert torch.equal(found['inputs'].cpu(), expected['inputs'])


@pytest.mark.parametrize(
    ('items', 'match'),
    [
        ([dict(img=image) for image in (*arrays(1), *arrays(1, (5, 4, 2)))], r'item 1 .*\(2, 5, 4\)'),
        ([dict(img=np.ones((5, 3)))], 'item 0 .*float64'),
        ([dict(img_path='a.png')], 'pipeline'),
        ([], 'no images'),
    ],
)
def test_images_of_other_kinds(items, match):
    with pytest.raises(ValueError, match=match):
        InMemoryDataset(items)
    with pytest.raises(ValueError, match=r'23040 bytes.*max_bytes=23039'):
        make(max_bytes=23039)


@pytest.mark.parametrize('collate', ['default_collate', 'pseudo_collate'])
def test_data_set_and_collate_function_belong_together(collate):
    loader = Runner.build_dataloader({**LOADER, 'dataset': make(), 'collate_fn': dict(type=collate)})
    with pytest.raises(ValueError, match='collate_whole_batch'):
        next(iter(loader))
    with pytest.raises(ValueError, match='default_collate'):
        collate_whole_batch([{'inputs': torch.zeros(1)}])


def test_workers_and_pinning(monkeypatch):
    monkeypatch.setattr('randsac_mm.datasets.in_memory.get_worker_info', lambda: 'a worker')  # a real one takes seconds
    with pytest.raises(ValueError, match='num_workers=0'):
        next(iter(Runner.build_dataloader({**LOADER, 'dataset': make()})))
    with pytest.raises(ValueError, match=r'meta.*pin_memory=False'):
        WholeBatch(inputs=torch.empty(2, device='meta')).pin_memory()


def run(root: Path, work_dir: Path, stop: int | None = None) -> dict[str, torch.Tensor]:
    """Train RandSAC for 2 epochs of 3 steps on augmented digits on the device; resume what has begun."""
    config = toy_config(work_dir, epochs=2)
    config['model'] = Config.fromfile(root / 'configs' / 'randsac' / 'vit_digits.py').model
    config['model'].data_preprocessor.augment = [dict(type='BatchRandomResizedCrop', scale=8, flip_prob=0.5)]
    dataset = dict(type='InMemoryDataset', dataset=dict(type='Digits', split='test'))
    config['train_dataloader'] = {**LOADER, 'batch_size': 120, 'dataset': dataset}
    config['default_scope'] = 'mmpretrain'
    config['custom_hooks'] = [dict(type='mmengine.Interrupt', iteration=stop)]
    if (work_dir / 'last_checkpoint').exists():
        config.update(resume=True, load_from=str(last_checkpoint(work_dir)))
    runner = Runner(**config)
    with nullcontext() if stop is None else pytest.raises(Interrupted):
        runner.train()
    return trained_state(runner)


@pytest.mark.slow
def test_resumed_run_ends_with_the_same_bits(root, tmp_path):
    expected = run(root, tmp_path / 'whole')
    run(root, tmp_path / 'parts', stop=4)
    assert last_checkpoint(tmp_path / 'parts').name == 'epoch_1.pth'
    assert_same(run(root, tmp_path / 'parts'), expected)


@pytest.mark.gpu
def test_batches_on_the_gpu_without_waiting():
    data = InMemoryDataset(dict(type='Digits', split='test'))
    assert data.images.is_cuda
    torch.cuda.set_sync_debug_mode('error')
    try:
        batch = data.__getitems__([7, 3])
    finally:
        torch.cuda.set_sync_debug_mode('default')
    assert torch.equal(batch['inputs'], data.images[[7, 3]])
    with pytest.raises(ValueError, match='cuda:0'):
        batch.pin_memory()
    assert make().__getitems__([7, 3]).pin_memory()['inputs'].is_pinned()
