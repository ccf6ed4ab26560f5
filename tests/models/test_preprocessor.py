"""Contract: images are stacked and normalised; in training a rank is drawn, by the global CPU generator."""

import pytest
import torch
from builders import PARTITIONS
from mmengine.registry import DefaultScope
from mmpretrain.structures import DataSample

from randsac_mm.models import RandSACDataPreprocessor, build_serialization
from randsac_mm.segments import (
    BlobPartition,
    PatchPartition,
    RandomSerialization,
    RasterSerialization,
    ShuffledPartition,
    SquarePartition,
    dense_rank,
)

SERIALIZATION = dict(type='RandomSerialization', partition=PARTITIONS['square-hierarchical'])
MEAN, STD = [100.0, 110.0, 120.0], [50.0, 60.0, 70.0]


def make(**kwargs):
    return RandSACDataPreprocessor(**{'serialization': SERIALIZATION, 'patch_size': 2, **kwargs})


def batch(batch_size=5, height=8, width=12, channels=3):
    return torch.randint(256, (batch_size, channels, height, width), dtype=torch.uint8)


def test_normalises():
    x = batch()
    found = make(mean=MEAN, std=STD)(dict(inputs=x))['inputs']
    assert found.dtype == torch.float32
    for c in range(3):
        torch.testing.assert_close(found[:, c], (x[:, c].float() - MEAN[c]) / STD[c])


def test_swaps_channels_before_normalising():
    x = batch()
    found = make(mean=MEAN, std=STD, to_rgb=True)(dict(inputs=x))['inputs']
    for c in range(3):
        torch.testing.assert_close(found[:, c], (x[:, 2 - c].float() - MEAN[c]) / STD[c])


def test_without_mean_and_std_pixels_stay():
    x = batch()
    assert torch.equal(make()(dict(inputs=x))['inputs'], x.float())


def test_lists_and_tensors_give_the_same():
    x, model = batch(), make(mean=MEAN, std=STD)
    torch.manual_seed(5)
    stacked = model(dict(inputs=x), training=True)
    torch.manual_seed(5)
    listed = model(dict(inputs=list(x)), training=True)
    assert torch.equal(stacked['inputs'], listed['inputs'])
    assert torch.equal(stacked['rank'], listed['rank'])


def test_data_samples_pass():
    samples = [DataSample() for _ in range(5)]
    assert make()(dict(inputs=batch(), data_samples=samples))['data_samples'] is not None
    assert make()(dict(inputs=batch()))['data_samples'] is None


def test_rank_is_drawn_only_in_training():
    model = make()
    assert set(model(dict(inputs=batch()))) == {'inputs', 'data_samples'}
    found = model(dict(inputs=batch()), training=True)
    assert set(found) == {'inputs', 'data_samples', 'rank', 'tokens_per_segment'}
    assert found['rank'].shape == (5, 24)
    assert found['tokens_per_segment'] == 1
    assert torch.equal(found['rank'], dense_rank(found['rank']))
    x, state = batch(), torch.get_rng_state()
    model(dict(inputs=x))
    assert torch.equal(torch.get_rng_state(), state)


def test_tokens_per_segment_of_blobs_is_none():
    model = make(serialization=dict(type='RandomSerialization', partition=PARTITIONS['blob-hierarchical']))
    assert model(dict(inputs=batch()), training=True)['tokens_per_segment'] is None


def test_global_seed_repeats_and_steps_differ():
    model, x = make(), batch()
    torch.manual_seed(5)
    first = [model.draw(x)['rank'] for _ in range(3)]
    torch.manual_seed(5)
    again = [model.draw(x)['rank'] for _ in range(3)]
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0], first[1])
    assert not torch.equal(first[1], first[2])


def test_restored_generator_state_continues():
    """What a resumed run needs: the state of torch's generator and nothing else."""
    model, x = make(), batch()
    model.draw(x)
    state = torch.get_rng_state()
    expected = model.draw(x)['rank']
    torch.set_rng_state(state)
    assert torch.equal(make().draw(x)['rank'], expected)


def test_one_number_a_step():
    model, x = make(), batch()
    torch.manual_seed(5)
    model.draw(x)
    after = torch.rand(3)
    torch.manual_seed(5)
    torch.randint(2**62, ())
    assert torch.equal(torch.rand(3), after)


def test_processes_with_the_same_seed_draw_different_ranks(monkeypatch):
    model, x, ranks = make(), batch(), []
    for process in range(3):
        monkeypatch.setattr(torch.distributed, 'is_initialized', lambda: True)
        monkeypatch.setattr(torch.distributed, 'get_rank', lambda process=process: process)
        torch.manual_seed(5)
        ranks.append(model.draw(x)['rank'])
    assert not any(torch.equal(a, b) for i, a in enumerate(ranks) for b in ranks[:i])


def test_no_state_in_checkpoints():
    assert set(make(mean=MEAN, std=STD).state_dict()) == set()


# --- augmentation -----------------------------------------------------------------------------------------------------

CROP = dict(type='BatchRandomResizedCrop', scale=(8, 12), flip_prob=0.5)


def test_augments_in_training_before_normalising():
    seen = []

    def note(images, generator):
        seen.append((images, generator))
        return images

    model, x = make(mean=MEAN, std=STD, augment=[CROP, note]), batch(height=10)
    found = model(dict(inputs=x), training=True)
    ((images, generator),) = seen
    assert images.shape == (5, 3, 8, 12)
    assert torch.equal(images, images.round())  # pixel values
    for c in range(3):
        torch.testing.assert_close(found['inputs'][:, c], (images[:, c] - MEAN[c]) / STD[c])
    assert isinstance(generator, torch.Generator)
    assert found['rank'].shape == (5, 24)
    torch.testing.assert_close(model(dict(inputs=x))['inputs'], make(mean=MEAN, std=STD)(dict(inputs=x))['inputs'])
    assert len(seen) == 1


def test_augmentation_leaves_its_input_alone():
    x = batch().float()
    before = x.clone()
    make(mean=MEAN, std=STD, augment=[dict(type='BatchRandomFlip', prob=0.0)])(dict(inputs=x), training=True)
    assert torch.equal(x, before)


def test_augmentation_follows_the_global_generator_and_the_process(monkeypatch):
    model, x, found = make(augment=[CROP]), batch(), []
    for process in (0, 0, 1):
        monkeypatch.setattr(torch.distributed, 'is_initialized', lambda: True)
        monkeypatch.setattr(torch.distributed, 'get_rank', lambda process=process: process)
        torch.manual_seed(5)
        found.append(model(dict(inputs=x), training=True)['inputs'])
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])
    assert not torch.equal(model(dict(inputs=x), training=True)['inputs'], found[2])


@pytest.mark.parametrize('augment', [None, []])
def test_no_augmentation_draws_no_numbers(augment):
    torch.manual_seed(5)
    make(augment=augment)(dict(inputs=batch()), training=True)
    after = torch.rand(3)
    torch.manual_seed(5)
    make()(dict(inputs=batch()), training=True)
    assert torch.equal(torch.rand(3), after)


@pytest.mark.parametrize('scope', ['mmseg', None])
def test_augmentation_by_plain_names_whatever_the_default_scope(scope):
    with DefaultScope.overwrite_default_scope(scope):
        (built,) = make(augment=[CROP]).augment
    assert (built.scale, built.flip_prob) == ((8, 12), 0.5)


def test_what_is_no_augmentation():
    with pytest.raises(ValueError, match='must be a list of transforms: put it in brackets'):
        make(augment=CROP)
    with pytest.raises(ValueError, match='has an entry 3 that is no transform of a batch'):
        make(augment=[3])


# --- what cannot be done ----------------------------------------------------------------------------------------------


def test_images_of_different_sizes():
    with pytest.raises(
        ValueError, match=r'different shapes \[\(3, 8, 10\), \(3, 8, 12\)\]: end the pipeline with a crop'
    ):
        make()(dict(inputs=[*batch(), batch(width=10)[0]]))


def test_patch_size_that_does_not_divide():
    with pytest.raises(ValueError, match='images of 8 x 12 pixels cannot be cut in patches of patch_size=5'):
        make(patch_size=5).draw(batch())


def test_patch_size_that_nobody_set():
    with pytest.raises(ValueError, match='patch_size is not set: give it to RandSACDataPreprocessor'):
        make(patch_size=None).draw(batch())
    make(patch_size=None)(dict(inputs=batch()))  # not needed where nothing is drawn


def test_partition_that_does_not_fit():
    with pytest.raises(ValueError, match='grid of 4 x 7 tokens cannot be divided into 24 squares'):
        make().draw(batch(width=14))


def test_grey_images_cannot_swap_channels():
    with pytest.raises(ValueError, match=r'to_rgb=True swaps .* these images have 1 channel\(s\): set to_rgb=False'):
        make(to_rgb=True)(dict(inputs=batch(channels=1)))


# --- serializations from config ---------------------------------------------------------------------------------------


def test_build_serialization():
    found = build_serialization(
        dict(
            type='RasterSerialization',
            partition=dict(
                type='ShuffledPartition',
                partition=dict(type='BlobPartition', hierarchy=[11, 5], mean_range=(-1, 1), std_range=(0.5, 2)),
            ),
        )
    )
    assert type(found) is RasterSerialization
    assert type(found.partition) is ShuffledPartition
    inner = found.partition.partition
    assert type(inner) is BlobPartition
    assert (inner.hierarchy, inner.mean_range, inner.std_range) == ((11, 5), (-1, 1), (0.5, 2))
    assert type(build_serialization(SERIALIZATION).partition) is SquarePartition


def test_config_is_not_changed_and_built_parts_are_kept():
    cfg = dict(type='RandomSerialization', partition=PatchPartition())
    assert build_serialization(cfg).partition is cfg['partition']
    assert set(cfg) == {'type', 'partition'}
    built = RandomSerialization(PatchPartition())
    assert build_serialization(built) is built
    nested = dict(type='RandomSerialization', partition=dict(type='SquarePartition', hierarchy=4))
    build_serialization(nested)
    assert nested == dict(type='RandomSerialization', partition=dict(type='SquarePartition', hierarchy=4))


@pytest.mark.parametrize('scope', ['mmpretrain', 'mmdet', 'mmseg', 'mmengine', None])
def test_plain_names_work_whatever_the_default_scope(scope):
    with DefaultScope.overwrite_default_scope(scope):
        assert type(build_serialization(SERIALIZATION)) is RandomSerialization


@pytest.mark.parametrize('cfg', [dict(type='PatchPartition'), dict(partition=3), None, 'RandomSerialization'], ids=str)
def test_what_is_no_serialization(cfg):
    with pytest.raises(ValueError, match=r'is no serialization: use dict\(type="RandomSerialization"'):
        build_serialization(cfg)


def test_unknown_partition_is_named():
    with pytest.raises(KeyError, match='HexagonPartition'):
        build_serialization(dict(type='RandomSerialization', partition=dict(type='HexagonPartition')))
