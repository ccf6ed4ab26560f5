"""Contract: parts fit or are refused, in any number type; ``reconstruct`` returns whole images."""

import copy

import pytest
import torch
from builders import ARCHITECTURES, CHANNELS, DECODER, ENCODER, PARTITIONS, PATCH, Operations, build, config, images
from host_syncs import record_host_syncs
from mmpretrain.registry import MODELS
from torch import nn

from randsac_mm.segments import raster_layout

N = 24  # tokens of an image
NUMBERS = PATCH * PATCH * CHANNELS
every_architecture = pytest.mark.parametrize('neck', ARCHITECTURES.values(), ids=ARCHITECTURES)


@pytest.mark.parametrize('partition', ['square-hierarchical', 'blob-hierarchical'])
@every_architecture
def test_the_loss_never_waits_for_the_device(neck, partition):
    model, x = build(config(PARTITIONS[partition], neck)), images()
    drawn = model.data_preprocessor.draw(x)
    with Operations() as operations:
        model.loss(x, **drawn)['loss'].backward()
    assert not operations.waits()


@pytest.mark.parametrize(('partition', 'waits'), [('square-hierarchical', []), ('blob-hierarchical', ['tolist'])])
def test_a_large_batch_waits_once_and_only_if_segments_vary_in_size(partition, waits):
    model, x = build(config(PARTITIONS[partition])), images(batch_size=16)
    drawn = model.data_preprocessor.draw(x)
    with record_host_syncs('cpu') as found:
        model.loss(x, **drawn)['loss'].backward()
    assert found == waits


def test_given_rank_and_drawn_rank_give_the_same_loss():
    model, x = build(config()), images()
    torch.manual_seed(3)
    drawn = model.data_preprocessor.draw(x)
    expected = model.loss(x, **drawn)['loss']
    for run in (model.loss, lambda x: model(x, mode='loss')):
        torch.manual_seed(3)
        assert torch.equal(run(x)['loss'], expected)
    assert torch.equal(model(x, mode='loss', **drawn)['loss'], expected)
    assert torch.equal(model.loss(x, [object()] * 3, **drawn)['loss'], expected)  # labels are not read
    torch.testing.assert_close(model.loss(x, rank=drawn['rank'])['loss'], expected)


@pytest.mark.parametrize('shape', [(3, N - 1), (2, N), (3, 4, 6)], ids=str)
def test_rank_of_another_shape_is_refused(shape):
    model, x, rank = build(config()), images(), torch.zeros(shape, dtype=torch.int64)
    for run in (lambda: model.loss(x, rank=rank), lambda: model.reconstruct(x, rank)):
        with pytest.raises(ValueError, match=rf'\(3, {N}\)'):
            run()


@every_architecture
def test_reconstruct(neck):
    model, x = build(config(PARTITIONS['blob-hierarchical'], neck)), images()
    torch.manual_seed(3)
    rank = model.data_preprocessor.draw(x)['rank']
    found = model.reconstruct(x, rank)
    assert found.pred.shape == (3, N, NUMBERS)
    assert not found.pred.requires_grad
    assert torch.equal(found.rank, rank)
    assert torch.equal(found.predicted, rank > 0)
    assert (found.pred[rank == 0] == 0).all()
    assert (found.pred[rank > 0] != 0).all()
    pred = model.predict(x, raster_layout(rank))
    assert torch.equal(found.pred[rank > 0], pred[rank > 0])
    torch.manual_seed(3)
    assert torch.equal(model.reconstruct(x).rank, rank)  # drawn if not given
    assert model.reconstruct(images((5, 7))).pred.shape == (3, 35, NUMBERS)


@pytest.mark.parametrize(
    'row', [[1, 2, 3], [0, 2, 4], [0, 0, 0], [0, -1, -2]], ids=['from-1', 'gaps', 'one-segment', 'negative']
)
def test_reconstruct_refuses_what_is_no_rank(row):
    model, x = build(config()), images()
    rank = model.data_preprocessor.draw(x)['rank']
    rank[1] = torch.tensor(row).repeat(N // 3)
    with pytest.raises(ValueError, match='without gaps'):
        model.reconstruct(x, rank)


def with_all_sizes():
    """Return a config with the sizes that are derived if it leaves them out."""
    cfg = config()
    cfg['head'].update(embed_dims=DECODER['embed_dims'], patch_size=PATCH, in_channels=CHANNELS)
    cfg['neck'].update(encoder_dims=ENCODER['embed_dims'], encoder_layers=ENCODER['num_layers'])
    cfg['data_preprocessor'].update(patch_size=PATCH)
    return cfg


@pytest.mark.parametrize('built', [False, True], ids=['configs', 'built'])
def test_derived_sizes_make_the_same_model(built):
    cfg, x = with_all_sizes(), images()
    if built:
        cfg = {name: MODELS.build(part) if isinstance(part, dict) else part for name, part in cfg.items()}
    model, derived = MODELS.build(cfg), MODELS.build(config())
    derived.load_state_dict(model.state_dict(), strict=True)
    drawn = derived.data_preprocessor.draw(x)
    assert torch.equal(model.loss(x, **drawn)['loss'], derived.loss(x, **drawn)['loss'])


WRONG_SIZES = [
    ('head', 'patch_size', 2, 3),
    ('head', 'in_channels', 3, 2),
    ('head', 'embed_dims', 12, 20),
    ('neck', 'encoder_dims', 20, 12),
    ('neck', 'encoder_layers', 2, 3),
    ('data_preprocessor', 'patch_size', 2, 3),
]


@pytest.mark.parametrize('built', [False, True], ids=['config', 'built'])
@pytest.mark.parametrize(('part', 'name', 'value', 'right'), WRONG_SIZES)
def test_sizes_that_do_not_fit_are_refused(part, name, value, right, built):
    cfg = with_all_sizes()
    cfg[part][name] = value
    if built:
        cfg[part] = MODELS.build(cfg[part])
    with pytest.raises(ValueError, match=f'{name}={value} .* {right}'):
        MODELS.build(cfg)


REFUSED = {
    'two-stream-size': (dict(head=dict(type='RandSACHead', embed_dims=20)), None, 'embed_dims=20 .* 12'),
    'no-neck': (dict(type='RandSAC'), None, 'neck'),
    'two-stream-neck': (dict(type='TwoStreamRandSAC'), {}, 'neck'),
    'preprocessor': (dict(data_preprocessor=dict(type='SelfSupDataPreprocessor')), {}, 'SelfSupDataPreprocessor'),
    'attention': (dict(attention='flex'), {}, 'flex'),
}


@pytest.mark.parametrize(('changes', 'neck', 'message'), REFUSED.values(), ids=REFUSED)
def test_parts_that_do_not_fit_are_refused(changes, neck, message):
    with pytest.raises(ValueError, match=message):
        MODELS.build({**config(neck=neck), **changes})


def test_a_partition_that_does_not_fit_is_refused_before_training():
    with pytest.raises(ValueError, match=r'13 x 13 .* 16'):
        MODELS.build(config(dict(type='SquarePartition', hierarchy=16), grid=(13, 13)))


@every_architecture
def test_bfloat16_autocast_stays_close(neck):
    model, x = MODELS.build(config(neck=neck)), images()
    drawn = model.data_preprocessor.draw(x)
    expected = model.loss(x, **drawn)['loss']
    with torch.autocast('cpu', dtype=torch.bfloat16):
        loss = model.loss(x, **drawn)['loss']
    assert loss.dtype == torch.float32
    assert loss.item() != expected.item()  # else autocast did nothing
    torch.testing.assert_close(loss, expected, rtol=0.01, atol=0)
    loss.backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)


@pytest.mark.parametrize(
    ('autocast', 'residual_in_fp32', 'stream'),
    [
        (torch.bfloat16, False, torch.bfloat16),
        (torch.bfloat16, True, torch.float32),
        (torch.float16, False, torch.float32),  # whose range many sums may exceed
        (None, False, torch.float32),
    ],
    ids=str,
)
@every_architecture
def test_type_of_the_residual_stream(neck, autocast, residual_in_fp32, stream):
    """Sums and normed tokens have it in encoder and decoder; features of a backbone in other models stay float32."""
    model, x = build(config(neck=neck, residual_in_fp32=residual_in_fp32)), images()
    found = set()
    for module in model.modules():
        if isinstance(module, nn.LayerNorm):
            module.register_forward_hook(lambda module, args, out: found.update((args[0].dtype, out.dtype)))
    with torch.autocast('cpu', dtype=autocast, enabled=autocast is not None):
        model.loss(x)
        assert found == {stream}
        (features,) = model.extract_feat(x)
    assert features.dtype == torch.float32


@every_architecture
def test_a_bfloat16_stream_costs_little_precision(neck):
    """The error of all gradients together, against float64, is at most twice that of a float32 stream."""
    model, x = build(config(neck=neck)), images(batch_size=16)
    drawn = model.data_preprocessor.draw(x)

    def gradients(model, x):
        model.zero_grad()
        model.loss(x, **drawn)['loss'].backward()
        return torch.cat([p.grad.flatten().double() for p in model.parameters() if p.grad is not None])

    exact = gradients(copy.deepcopy(model).double(), x.double())
    errors = []
    for model.backbone.residual_in_fp32 in (True, False):
        with torch.autocast('cpu', dtype=torch.bfloat16):
            errors.append((gradients(model, x) - exact).norm() / exact.norm())
    assert 0 < errors[1] <= 2 * errors[0] < 0.2
    assert errors[0] != errors[1], 'the option did nothing'


@pytest.mark.parametrize('dtype', [torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize('grid', [(4, 6), (6, 4)], ids=['usual-size', 'other-size'])
@every_architecture
def test_models_of_another_number_type(neck, dtype, grid):
    """As FSDP and DeepSpeed make them: parameters and images all in one type, no autocast."""
    model, x = MODELS.build(config(neck=neck)), images(grid)
    drawn = model.data_preprocessor.draw(x)
    expected = model.loss(x, **drawn)['loss']
    loss = model.to(dtype).loss(x.to(dtype), **drawn)['loss']
    torch.testing.assert_close(loss.float(), expected, rtol=0.03 if dtype == torch.bfloat16 else 1e-5, atol=0)


def test_init_weights_draws_nothing_again():
    model = build(config())
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.init_weights()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_layer_depths_of_the_whole_model():
    """Decoder and head follow the encoder's layers: they learn at the full rate."""
    model, last = build(config()), ENCODER['num_layers'] + 1
    depths = {(name.startswith('backbone.'), *model.get_layer_depth(name)) for name, _ in model.named_parameters()}
    assert depths == {(False, last, last + 1), *((True, depth, last + 1) for depth in range(last + 1))}
