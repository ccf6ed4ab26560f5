"""Contract: a prediction depends on strictly earlier segments, on all of them, and on nothing else.

"On nothing else" means not by one bit, in float32. Every check has a negative control: a model whose masks are opened
must fail it.
"""

import pytest
import torch
from builders import ARCHITECTURES, GRID, PARTITIONS, build, config, images

from randsac_mm.segments import Mask, memory_mask, raster_layout, sorted_layout, source_mask

every_partition = pytest.mark.parametrize('partition', PARTITIONS.values(), ids=PARTITIONS)
every_architecture = pytest.mark.parametrize('neck', ARCHITECTURES.values(), ids=ARCHITECTURES)


def make(partition, neck, batch_size=3):
    model = build(config(partition, neck))
    x = images(batch_size=batch_size)
    return model, x, *model.data_preprocessor.draw(x).values()


def change(model, x, tokens):
    """Change the pixels of tokens (B, N), bool."""
    cut = model.head.patchify(x)
    cut = torch.where(tokens[..., None], cut + torch.randn_like(cut), cut)
    return model.head.unpatchify(cut, GRID)


@torch.no_grad()
def violations(model, x, rank, layout):
    """Count predictions that changed though they must not, and those that did not though they must."""
    target_rank = rank.gather(1, layout.target)
    before = model.predict(x, layout)
    leaks = misses = 0
    for j in range(int(rank.max()) + 1):
        changed = (model.predict(change(model, x, rank == j), layout) != before).any(-1)  # (B, T)
        has_segment = (rank == j).any(1, keepdim=True)
        leaks += (changed & layout.predicted & (target_rank <= j)).sum().item()
        misses += (~changed & (target_rank > j) & has_segment).sum().item()
    return leaks, misses


@every_architecture
@every_partition
@pytest.mark.parametrize('path', ['simple', 'fast'])
def test_only_earlier_segments_matter(partition, neck, path):
    model, x, rank, size = make(partition, neck)
    layout = raster_layout(rank) if path == 'simple' else sorted_layout(rank, size)
    assert violations(model, x, rank, layout) == (0, 0)


@torch.no_grad()
@every_architecture
@every_partition
def test_reconstruction_of_the_public_interface(partition, neck):
    """The same through ``reconstruct``, segment by segment, up to the bit."""
    model, x, rank, _ = make(partition, neck)
    before = model.reconstruct(x, rank)
    for j in range(int(rank.max())):
        after = model.reconstruct(change(model, x, rank == j), rank)
        upto = rank <= j
        assert torch.equal(before.pred[upto], after.pred[upto])
        later = (rank > j).any(1)
        assert (before.pred != after.pred).flatten(1).any(1)[later].all()


def opened(mask):
    return mask._replace(key_rank=torch.full_like(mask.key_rank, -1))


def first_segment_as_keys(rank, layout):
    return layout._replace(target_mask=source_mask(rank, rank))


OPENED = {
    'everything': lambda rank, layout: layout._replace(
        source_mask=opened(layout.source_mask),
        target_mask=opened(layout.target_mask),
        memory_mask=opened(layout.memory_mask),
    ),
    'source': lambda rank, layout: layout._replace(source_mask=opened(layout.source_mask)),
    'memory': lambda rank, layout: layout._replace(memory_mask=opened(layout.memory_mask)),
    'memory-of-the-own-segment': lambda rank, layout: layout._replace(memory_mask=source_mask(rank, rank)),
    'target': lambda rank, layout: layout._replace(target_mask=opened(layout.target_mask)),
    'first-segment-as-keys': first_segment_as_keys,
}


NEGATIVE_CONTROLS = [
    (architecture, name)
    for architecture in ARCHITECTURES
    for name in OPENED
    if architecture != 'two-stream' or name not in ('target', 'first-segment-as-keys')  # it has no target mask
]


@pytest.mark.parametrize(('architecture', 'opened'), NEGATIVE_CONTROLS, ids='-'.join)
@pytest.mark.parametrize('partition', ['square-hierarchical', 'square-flat', 'blob-flat'])
def test_a_model_with_open_masks_fails(partition, architecture, opened):
    neck, opened = ARCHITECTURES[architecture], OPENED[opened]
    model, x, rank, _ = make(PARTITIONS[partition], neck)
    leaks, _ = violations(model, x, rank, opened(rank, raster_layout(rank)))
    assert leaks > 0


@every_architecture
def test_a_model_that_reads_too_little_fails(neck):
    """A memory of the first segment only is causal but deaf: the other half of the check sees it."""
    model, x, rank, _ = make(PARTITIONS['square-flat'], neck)
    layout = raster_layout(rank)
    deaf = layout._replace(memory_mask=Mask(layout.memory_mask.query_rank.clamp(max=0), rank.int()))
    leaks, misses = violations(model, x, rank, deaf)
    assert leaks == 0
    assert misses > 0


def gradients(model, x, rank, layout, r):
    """Differentiate all predictions of rank ``r`` with respect to the pixels of every token (B, N): largest size."""
    x = x.clone().requires_grad_()
    pred = model.predict(x, layout)
    of_r = (rank.gather(1, layout.target) == r) & layout.predicted
    weights = torch.rand_like(pred) + 0.5
    (gradient,) = torch.autograd.grad((pred * weights)[of_r].sum(), x)
    return model.head.patchify(gradient).abs().amax(-1)


@every_architecture
@every_partition
def test_gradients_come_from_the_past_alone(partition, neck):
    model, x, rank, _ = make(partition, neck, batch_size=2)
    for r in range(1, int(rank.max()) + 1):
        gradient = gradients(model, x, rank, raster_layout(rank), r)
        there = (rank == r).any(1, keepdim=True)
        assert (gradient[there & (rank < r)] > 0).all()
        assert (gradient[rank >= r] == 0).all()


@every_architecture
def test_gradients_of_an_open_model_come_from_the_future(neck):
    model, x, rank, _ = make(PARTITIONS['blob-flat'], neck)
    gradient = gradients(model, x, rank, OPENED['everything'](rank, raster_layout(rank)), 1)
    assert (gradient[rank > 1] > 0).any()


@torch.no_grad()
def test_other_images_of_the_batch_do_not_matter():
    model, x, rank, _ = make(PARTITIONS['blob-hierarchical'], ARCHITECTURES['skip'])
    before = model.reconstruct(x, rank).pred
    other = x.clone()
    other[1:] = torch.randn_like(other[1:])
    assert torch.equal(model.reconstruct(other, rank).pred[0], before[0])


def test_memory_mask_is_what_the_layout_uses():
    rank = torch.tensor([[0, 1, 2, 1]])
    assert torch.equal(raster_layout(rank).memory_mask.dense(), memory_mask(rank, rank).dense())
