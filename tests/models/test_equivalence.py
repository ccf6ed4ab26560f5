"""Contract: fast path, simple path and the slow oracle make the same predictions and the same loss, in float64."""

import pytest
import reference
import torch
from builders import ARCHITECTURES, DECODER, ENCODER, PARTITIONS, PATCH, build, config, images
from hypothesis import given, settings
from hypothesis import strategies as st

from randsac_mm.segments import raster_layout, sorted_layout

PATHS = dict(rtol=1e-9, atol=1e-11)  # the same arithmetic in another order
ORACLE = dict(rtol=1e-6, atol=1e-7)  # positions are rounded to float32, which may fall on either side

OPTIONS = {
    'post-norm': dict(neck=dict(norm_position='post')),
    'memory-norm-none': dict(neck=dict(memory_norm='none', skip_init='normal')),
    'memory-norm-after': dict(neck=dict(memory_norm='after', skip_init='normal')),
    'post-norm-and-after': dict(neck=dict(memory_norm='after', norm_position='post')),
    'no-qkv-bias': dict(neck=dict(qkv_bias=False), qkv_bias=False),
    'no-final-norm': dict(final_norm=False),
    'no-final-norm-two-stream': dict(neck=None, final_norm=False),
    'raw-pixels': dict(norm_pix=False),
    'raster-order': dict(order='RasterSerialization'),
    'one-layer-each': dict(neck=dict(num_layers=1, encoder_layers=1), arch={**ENCODER, 'num_layers': 1}),
    'one-layer-two-stream': dict(neck=None, arch={**ENCODER, 'num_layers': 1}),
    'tall': dict(grid=(10, 2), partition=dict(type='SquarePartition', hierarchy=5)),
    'deeper-decoder': dict(neck=dict(num_layers=5)),
}
CASES = {
    f'{p}-{a}': dict(partition=partition, neck=neck)
    for p, partition in PARTITIONS.items()
    for a, neck in ARCHITECTURES.items()
}


def in_raster_order(pred, layout, tokens):
    """Put predictions (B, T, D) where they belong; NaN where nothing counts."""
    whole = torch.full((len(pred), tokens, pred.shape[2]), float('nan'), dtype=pred.dtype)
    known = torch.where(layout.predicted[..., None], pred, whole[:, : pred.shape[1]])
    return whole.scatter(1, layout.target[..., None].expand_as(known), known)


def oracle(model, cfg, x, rank, **options):
    state = {key: value.double() for key, value in model.state_dict().items()}
    if 'neck' not in cfg:
        heads = dict(encoder_heads=ENCODER['num_heads'])
        predict = reference.predict_two_stream
    else:
        heads = dict(encoder_heads=ENCODER['num_heads'], decoder_heads=DECODER['num_heads'])
        heads.update({key: cfg['neck'][key] for key in ('memory_norm', 'norm_position') if key in cfg['neck']})
        predict = reference.predict
    heads.update(options)
    return [predict(state, image, r.tolist(), p=PATCH, **heads) for image, r in zip(x, rank, strict=True)]


@torch.no_grad()
@pytest.mark.parametrize('case', [*CASES.values(), *OPTIONS.values()], ids=[*CASES, *OPTIONS])
def test_three_ways_to_one_prediction(case):
    cfg = config(**case)
    model = build(cfg).double()
    x = images(case.get('grid', (4, 6)), batch_size=2, dtype=torch.float64)
    rank, size = model.data_preprocessor.draw(x).values()
    layouts = {'simple': raster_layout(rank), 'general': sorted_layout(rank), 'fast': sorted_layout(rank, size)}
    preds = {name: in_raster_order(model.predict(x, a), a, rank.shape[1]) for name, a in layouts.items()}

    torch.testing.assert_close(preds['general'], preds['simple'], equal_nan=True, **PATHS)
    torch.testing.assert_close(preds['fast'], preds['simple'], equal_nan=True, **PATHS)

    expected = oracle(model, cfg, x, rank)
    for image, vectors in enumerate(expected):
        assert sorted(vectors) == (rank[image] > 0).nonzero().flatten().tolist()
        for n, vector in vectors.items():
            torch.testing.assert_close(preds['simple'][image, n], vector, **ORACLE)

    norm_pix = cfg['head']['norm_pix']
    loss = torch.tensor(reference.loss(expected, x, PATCH, norm_pix), dtype=torch.float64)
    torch.testing.assert_close(model.loss(x, rank=rank, tokens_per_segment=size)['loss'], loss, **ORACLE)
    torch.testing.assert_close(model.loss(x, rank=rank)['loss'], loss, **ORACLE)
    assert loss > 0


@torch.no_grad()
@pytest.mark.parametrize('neck', ARCHITECTURES.values(), ids=ARCHITECTURES)
def test_paths_agree_on_real_sizes_in_float32(neck):
    """At 12 x 12 tokens, hierarchy 16 -> 4, as in pre-training on ImageNet."""
    grid = (12, 12)
    model = build(config(dict(type='SquarePartition', hierarchy=(16, 4)), neck, grid))
    x = images(grid)
    rank, size = model.data_preprocessor.draw(x).values()
    assert size == 9
    simple, fast = raster_layout(rank), sorted_layout(rank, size)
    assert fast.source.shape == fast.target.shape == (3, 135)
    torch.testing.assert_close(
        in_raster_order(model.predict(x, fast), fast, 144),
        in_raster_order(model.predict(x, simple), simple, 144),
        equal_nan=True,
        rtol=1e-4,
        atol=1e-4,
    )


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.parametrize('backend', ['sdpa', 'plain', 'triton'])
@pytest.mark.parametrize('neck', ARCHITECTURES.values(), ids=ARCHITECTURES)
def test_every_attention_back_end_agrees_with_the_oracle(neck, backend):
    """In float32, the only type that all have; Triton's kernels run in its interpreter where there is no GPU."""
    grid = (2, 3)
    cfg = config(dict(type='BlobPartition', hierarchy=3), neck, grid) | {'attention': backend}
    model, x = build(cfg), images(grid, batch_size=2)
    device = 'cuda' if backend == 'triton' and torch.cuda.is_available() else 'cpu'
    rank = model.data_preprocessor.draw(x)['rank']
    layout = raster_layout(rank.to(device))
    pred = in_raster_order(model.to(device).predict(x.to(device), layout), layout, 6).cpu()
    for image, vectors in enumerate(oracle(model.cpu(), cfg, x.double(), rank)):
        for n, vector in vectors.items():
            torch.testing.assert_close(pred[image, n].double(), vector, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_tokens_nobody_may_read_change_nothing():
    """Queries of the first segment, and pixels of the last, are neither read nor predicted: the loss ignores both."""
    model = build(config(PARTITIONS['blob-flat'], norm_pix=False)).double()
    x = images(dtype=torch.float64)
    rank = model.data_preprocessor.draw(x)['rank']
    layout = raster_layout(rank)
    before = in_raster_order(model.predict(x, layout), layout, 24)
    cut = model.head.patchify(x)
    cut[rank == rank.amax(1, keepdim=True)] += 5
    torch.testing.assert_close(
        in_raster_order(model.predict(model.head.unpatchify(cut, (4, 6)), layout), layout, 24),
        before,
        equal_nan=True,
        rtol=0,
        atol=0,
    )

    # Whatever first-segment queries read and hold, no other query may look at it.
    def scramble(mask):
        anything = torch.randint_like(mask.query_rank, -1, int(rank.max()) + 1)
        return mask._replace(query_rank=torch.where(rank == 0, anything, mask.query_rank))

    scrambled = layout._replace(target_mask=scramble(layout.target_mask), memory_mask=scramble(layout.memory_mask))
    torch.testing.assert_close(
        in_raster_order(model.predict(x, scrambled), layout, 24), before, equal_nan=True, rtol=0, atol=0
    )


@torch.no_grad()
@pytest.mark.parametrize(('positions', 'trained'), [('stretched', (4, 6)), ('extrapolated', None)])
@pytest.mark.parametrize('neck', [ARCHITECTURES['skip'], None], ids=['skip', 'two-stream'])
def test_predictions_at_another_size(neck, positions, trained):
    """Encoder and decoder agree on where a token is."""
    cfg = config(PARTITIONS['blob-flat'], neck, positions=positions)
    model, x = build(cfg).double(), images((5, 3), batch_size=2, dtype=torch.float64)
    pred, rank, predicted = model.reconstruct(x)
    for image, vectors in enumerate(oracle(model, cfg, x, rank, trained=trained)):
        assert sorted(vectors) == predicted[image].nonzero().flatten().tolist()
        for n, vector in vectors.items():
            torch.testing.assert_close(pred[image, n], vector, **ORACLE)


@pytest.mark.parametrize('neck', ARCHITECTURES.values(), ids=ARCHITECTURES)
def test_groups_of_images_have_the_loss_and_gradients_of_the_whole_batch(neck):
    cases = {'blob-flat': 'Random', 'shuffled-blob': 'Random', 'square-flat': 'Random', 'blob-hierarchical': 'Raster'}
    models = [build(config(PARTITIONS[p], neck, order=f'{o}Serialization')).double() for p, o in cases.items()]

    @settings(max_examples=8)
    @given(model=st.sampled_from(models), batch=st.sampled_from([1, 13, 16, 24, 31, 32]), seed=st.integers(0, 99))
    def check(model, batch, seed):
        torch.manual_seed(seed)
        x, sizes = images(batch_size=batch, dtype=torch.float64), []
        rank = model.data_preprocessor.draw(x)['rank']
        model.compiled_loss = lambda inputs, *args: sizes.append(len(inputs)) or model.compute_loss(inputs, *args)
        learned = [p for p in model.parameters() if p.requires_grad]
        losses = model.loss(x, rank=rank)['loss'], model.compute_loss(x, rank, None)
        for found, expected in zip(*([loss, *torch.autograd.grad(loss, learned)] for loss in losses), strict=True):
            torch.testing.assert_close(found, expected, **PATHS)
        assert sizes == {16: [8] * 2, 24: [8] * 3, 32: [8] * 4}.get(batch, [batch])

    check()
