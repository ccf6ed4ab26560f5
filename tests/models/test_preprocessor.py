"""Contract: images are stacked and normalised; in training a rank is drawn, by the global CPU generator."""

import copy

import pytest
import torch
from builders import PARTITIONS
from mmengine.registry import DefaultScope

from randsac_mm.models import RandSACDataPreprocessor, build_serialization
from randsac_mm.segments import BlobPartition, PatchPartition, RandomSerialization, ShuffledPartition, dense_rank

SERIALIZATION = dict(type='RandomSerialization', partition=PARTITIONS['square-hierarchical'])
MEAN, STD = torch.tensor([100.0, 110.0, 120.0]), torch.tensor([50.0, 60.0, 70.0])
NORMALISATION = dict(mean=MEAN.tolist(), std=STD.tolist())
CROP = dict(type='BatchRandomResizedCrop', scale=(8, 12), flip_prob=0.5)


def make(**kwargs):
    return RandSACDataPreprocessor(**{'serialization': SERIALIZATION, 'patch_size': 2, **kwargs})


def batch(batch_size=5, height=8, width=12, channels=3):
    return torch.randint(256, (batch_size, channels, height, width), dtype=torch.uint8)


def normalised(x):
    return (x.float() - MEAN.view(3, 1, 1)) / STD.view(3, 1, 1)


@pytest.mark.parametrize('listed', [False, True], ids=['tensor', 'list'])
def test_stacks_swaps_channels_and_normalises(listed):
    x = batch()
    data = dict(inputs=list(x) if listed else x)
    assert torch.equal(make()(data)['inputs'], x.float())
    torch.testing.assert_close(make(**NORMALISATION)(data)['inputs'], normalised(x))
    torch.testing.assert_close(make(**NORMALISATION, to_rgb=True)(data)['inputs'], normalised(x.flip(1)))


def test_rank_is_drawn_only_in_training():
    model, x, samples, state = make(), batch(), [object()] * 5, torch.get_rng_state()
    assert model(dict(inputs=x))['data_samples'] is None
    assert set(model(dict(inputs=x, data_samples=samples))) == {'inputs', 'data_samples'}
    assert torch.equal(torch.get_rng_state(), state)
    found = model(dict(inputs=x), training=True)
    assert set(found) == {'inputs', 'data_samples', 'rank', 'tokens_per_segment'}
    assert found['rank'].shape == (5, 24)
    assert found['tokens_per_segment'] == 1
    assert torch.equal(found['rank'], dense_rank(found['rank']))
    blobs = make(serialization=dict(type='RandomSerialization', partition=PARTITIONS['blob-hierarchical']))
    assert blobs(dict(inputs=x), training=True)['tokens_per_segment'] is None


def test_the_global_generator_decides_and_one_number_a_step_is_drawn():
    """So the state of torch's generator, and nothing else, resumes a run."""
    model, x = make(), batch()
    torch.manual_seed(5)
    first, second = (model.draw(x)['rank'] for _ in range(2))
    after = torch.rand(3)
    assert not torch.equal(first, second)
    torch.manual_seed(5)
    torch.randint(2**62, ())
    assert torch.equal(make().draw(x)['rank'], second)
    assert torch.equal(torch.rand(3), after)
    assert make(**NORMALISATION).state_dict() == {}


def test_processes_with_the_same_seed_draw_differently(monkeypatch):
    model, x, found = make(augment=[CROP]), batch(), []
    monkeypatch.setattr(torch.distributed, 'is_initialized', lambda: True)
    for process in (0, 1, 2, 0):
        monkeypatch.setattr(torch.distributed, 'get_rank', lambda process=process: process)
        torch.manual_seed(5)
        found.append(model(dict(inputs=x), training=True))
    for key in ('rank', 'inputs'):
        *different, again = (data[key] for data in found)
        assert torch.equal(different[0], again)
        assert not any(torch.equal(a, b) for i, a in enumerate(different) for b in different[:i])


def test_augments_a_copy_in_training_before_normalising():
    seen = []

    def record(images, generator):
        seen.append((images, generator))
        return images

    model, x = make(**NORMALISATION, augment=[CROP, record]), batch(height=10)
    found = model(dict(inputs=x), training=True)
    ((images, generator),) = seen
    assert images.shape == (5, 3, 8, 12)
    assert torch.equal(images, images.round())  # pixel values
    assert isinstance(generator, torch.Generator)
    torch.testing.assert_close(found['inputs'], normalised(images))
    assert found['rank'].shape == (5, 24)
    torch.testing.assert_close(model(dict(inputs=x))['inputs'], normalised(x))
    assert len(seen) == 1
    pixels = batch().float()
    before = pixels.clone()
    make(**NORMALISATION, augment=[lambda images, generator: images])(dict(inputs=pixels), training=True)
    assert torch.equal(pixels, before)


@pytest.mark.parametrize('scope', ['mmpretrain', 'mmdet', 'mmseg', 'mmengine', None])
def test_plain_names_work_whatever_the_default_scope(scope):
    blobs = dict(type='BlobPartition', hierarchy=[11, 5], mean_range=(-1, 1), std_range=(0.5, 2))
    cfg = dict(type='RandomSerialization', partition=dict(type='ShuffledPartition', partition=blobs))
    before = copy.deepcopy(cfg)
    with DefaultScope.overwrite_default_scope(scope):
        found, (crop,) = build_serialization(cfg), make(augment=[CROP]).augment
    assert cfg == before
    inner = found.partition.partition
    types = [type(part) for part in (found, found.partition, inner)]
    assert types == [RandomSerialization, ShuffledPartition, BlobPartition]
    assert (inner.hierarchy, inner.mean_range, inner.std_range) == ((11, 5), (-1, 1), (0.5, 2))
    assert (crop.scale, crop.flip_prob) == ((8, 12), 0.5)


def test_built_parts_are_kept_and_what_is_no_serialization_is_refused():
    built = RandomSerialization(PatchPartition())
    assert build_serialization(built) is built
    assert build_serialization(dict(type='RandomSerialization', partition=built.partition)).partition is built.partition
    for cfg in (dict(type='PatchPartition'), dict(partition=3), None, 'RandomSerialization'):
        with pytest.raises(ValueError, match='serialization='):
            build_serialization(cfg)


MISFITS = {
    'sizes-differ': ({}, [*batch(), batch(width=10)[0]], r'\(3, 8, 10\)'),
    'patch-size': (dict(patch_size=5), batch(), '8 x 12 .*patch_size=5'),
    'no-patch-size': (dict(patch_size=None), batch(), 'patch_size'),
    'partition': ({}, batch(width=14), '4 x 7 .* 24'),
    'grey': (dict(to_rgb=True), batch(channels=1), 'to_rgb=True .* have 1'),
    'augment-no-list': (dict(augment=CROP), batch(), 'augment='),
    'augment-no-transform': (dict(augment=[3]), batch(), 'augment .* 3'),
}


@pytest.mark.parametrize(('options', 'inputs', 'message'), MISFITS.values(), ids=MISFITS)
def test_what_does_not_fit_is_refused(options, inputs, message):
    with pytest.raises(ValueError, match=message):
        make(**options)(dict(inputs=inputs), training=True)
