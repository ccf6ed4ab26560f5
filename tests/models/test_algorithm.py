"""Contract: parts fit or say why not, in any number type; ``reconstruct`` returns whole images."""

import pytest
import torch
from builders import ARCHITECTURES, CHANNELS, DECODER, ENCODER, GRID, PARTITIONS, PATCH, build, config, images
from mmpretrain.registry import MODELS
from torch.utils._python_dispatch import TorchDispatchMode

from randsac_mm.models import RandSAC, RandSACDataPreprocessor, Reconstruction, TwoStreamRandSAC
from randsac_mm.segments import sorted_layout

N = GRID[0] * GRID[1]
NUMBERS = PATCH * PATCH * CHANNELS
every_architecture = pytest.mark.parametrize('neck', ARCHITECTURES.values(), ids=ARCHITECTURES)


class Operations(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.names = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.add(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize('partition', ['square-hierarchical', 'blob-hierarchical'])
@every_architecture
def test_the_loss_never_waits_for_the_device(neck, partition):
    model, x = build(config(PARTITIONS[partition], neck)), images()
    drawn = model.data_preprocessor.draw(x)
    with Operations() as operations:
        model.loss(x, **drawn)['loss'].backward()
    assert not operations.names & {'_local_scalar_dense', 'nonzero', 'equal', 'is_nonzero', 'masked_select'}


# --- loss and modes ---------------------------------------------------------------------------------------------------


def test_given_rank_and_drawn_rank_give_the_same_loss():
    model, x = build(config()), images()
    torch.manual_seed(3)
    drawn = model.data_preprocessor.draw(x)
    torch.manual_seed(3)
    assert torch.equal(model.loss(x)['loss'], model.loss(x, **drawn)['loss'])
    torch.manual_seed(3)
    assert torch.equal(model(x, mode='loss')['loss'], model(x, mode='loss', **drawn)['loss'])
    torch.testing.assert_close(model.loss(x, rank=drawn['rank'])['loss'], model.loss(x, **drawn)['loss'])


@torch.no_grad()
def test_features_are_the_backbones():
    model, x = build(config()), images()
    assert torch.equal(model.extract_feat(x)[0], model.backbone(x)[0])
    assert torch.equal(model(x)[0], model.backbone(x)[0])
    assert torch.equal(model(x, mode='tensor')[0], model.backbone(x)[0])


def test_unknown_mode():
    with pytest.raises(RuntimeError, match='predict'):
        build(config())(images(), mode='predict')


def test_no_labels_no_prediction_of_labels():
    """``data_samples`` are not read."""
    model, x = build(config()), images()
    drawn = model.data_preprocessor.draw(x)
    assert torch.equal(model.loss(x, [object()] * 3, **drawn)['loss'], model.loss(x, None, **drawn)['loss'])


@pytest.mark.parametrize('shape', [(3, N - 1), (2, N), (3, GRID[0], GRID[1])], ids=str)
def test_rank_of_another_shape(shape):
    model, x = build(config()), images()
    message = rf'rank has shape \({shape[0]}, .*but these images need \(B, N\) = \(3, {N}\)'
    with pytest.raises(ValueError, match=message):
        model.loss(x, rank=torch.zeros(shape, dtype=torch.int64))
    with pytest.raises(ValueError, match=message):
        model.reconstruct(x, torch.zeros(shape, dtype=torch.int64))


# --- reconstruct ------------------------------------------------------------------------------------------------------


@every_architecture
def test_reconstruct(neck):
    model, x = build(config(PARTITIONS['blob-hierarchical'], neck)), images()
    rank = model.data_preprocessor.draw(x)['rank']
    found = model.reconstruct(x, rank)
    assert isinstance(found, Reconstruction)
    assert found.pred.shape == (3, N, NUMBERS)
    assert not found.pred.requires_grad
    assert torch.equal(found.rank, rank)
    assert torch.equal(found.predicted, rank > 0)
    assert (found.pred[rank == 0] == 0).all()
    assert (found.pred[rank > 0] != 0).all()
    layout = sorted_layout(rank)
    pred = model.predict(x, layout)
    expected = found.pred.gather(1, layout.target[..., None].expand(-1, -1, NUMBERS))
    torch.testing.assert_close(pred[layout.predicted], expected[layout.predicted], rtol=1e-4, atol=1e-4)


def test_reconstruct_draws_if_nothing_is_given():
    model, x = build(config()), images()
    torch.manual_seed(3)
    rank = model.data_preprocessor.draw(x)['rank']
    torch.manual_seed(3)
    assert torch.equal(model.reconstruct(x).rank, rank)


def test_reconstruct_takes_images_of_another_size():
    model = build(config(PARTITIONS['blob-flat']))
    found = model.reconstruct(images((5, 7)))
    assert found.pred.shape == (3, 35, NUMBERS)


@pytest.mark.parametrize(
    'spoil',
    [
        lambda rank: rank + 1,
        lambda rank: rank * 2,
        torch.zeros_like,
        lambda rank: torch.where(torch.arange(3)[:, None] == 1, 0, rank),
        lambda rank: -rank,
    ],
    ids=['from-1', 'gaps', 'one-segment', 'one-segment-in-one-image', 'negative'],
)
def test_reconstruct_refuses_ranks_that_are_none(spoil):
    model, x = build(config()), images()
    rank = spoil(model.data_preprocessor.draw(x)['rank'])
    with pytest.raises(ValueError, match=r'rank must count the segments .* from 0 without gaps and have at least two'):
        model.reconstruct(x, rank)


# --- parts that do not fit --------------------------------------------------------------------------------------------


def spoiled(part, **changes):
    cfg = config(neck=ARCHITECTURES['skip'])
    cfg[part].update(changes)
    return cfg


@pytest.mark.parametrize(
    ('part', 'changes', 'message'),
    [
        ('head', dict(patch_size=2), r'head\.patch_size=2 does not fit backbone\.patch_size=3: set them equal'),
        ('head', dict(in_channels=3), r'head\.in_channels=3 does not fit backbone\.in_channels=2'),
        ('head', dict(embed_dims=12), r'head\.embed_dims=12 does not fit neck\.embed_dims=20'),
        ('neck', dict(encoder_dims=20), r'neck\.encoder_dims=20 does not fit backbone\.embed_dims=12'),
        ('neck', dict(encoder_layers=2), r'neck\.encoder_layers=2 does not fit backbone\.num_layers=3'),
        (
            'data_preprocessor',
            dict(patch_size=2),
            r'data_preprocessor\.patch_size=2 does not fit backbone\.patch_size=3',
        ),
    ],
    ids=lambda value: value if isinstance(value, str) and value.isidentifier() else '',
)
def test_sizes_that_do_not_fit(part, changes, message):
    with pytest.raises(ValueError, match=message):
        MODELS.build(spoiled(part, **changes))


def test_two_streams_that_do_not_fit():
    cfg = config(neck=None)
    cfg['head']['embed_dims'] = DECODER['embed_dims']
    with pytest.raises(ValueError, match=r'head\.embed_dims=20 does not fit backbone\.embed_dims=12'):
        MODELS.build(cfg)


def test_neck_or_no_neck():
    with pytest.raises(ValueError, match=r'RandSAC needs a neck: RandSACDecoder\..*TwoStreamRandSAC'):
        MODELS.build({**config(neck=None), 'type': 'RandSAC'})
    with pytest.raises(ValueError, match='TwoStreamRandSAC has no decoder: leave neck out'):
        MODELS.build({**config(), 'type': 'TwoStreamRandSAC'})


def test_another_data_preprocessor():
    cfg = config()
    cfg['data_preprocessor'] = dict(type='SelfSupDataPreprocessor', mean=[0.0], std=[1.0])
    with pytest.raises(ValueError, match=r'that is a SelfSupDataPreprocessor: set data_preprocessor=dict'):
        MODELS.build(cfg)


def test_partition_that_does_not_fit_is_noticed_when_the_model_is_built():
    with pytest.raises(ValueError, match='grid of 13 x 13 tokens cannot be divided into 16 squares'):
        MODELS.build(config(dict(type='SquarePartition', hierarchy=16), grid=(13, 13)))


def test_preprocessor_learns_the_patch_size():
    cfg = config()
    assert MODELS.build(cfg).data_preprocessor.patch_size == PATCH
    cfg['data_preprocessor']['patch_size'] = PATCH
    assert MODELS.build(cfg).data_preprocessor.patch_size == PATCH


def test_built_parts_are_accepted():
    cfg = config()
    parts = {name: MODELS.build(cfg[name]) for name in ('backbone', 'neck', 'head', 'data_preprocessor')}
    model = RandSAC(**parts)
    assert model.backbone is parts['backbone']
    assert isinstance(model.data_preprocessor, RandSACDataPreprocessor)
    assert isinstance(MODELS.build(config(neck=None)), TwoStreamRandSAC)


# --- number types -----------------------------------------------------------------------------------------------------


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


@pytest.mark.parametrize('dtype', [torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize('grid', [GRID, (6, 4)], ids=['usual-size', 'other-size'])
@every_architecture
def test_models_of_another_number_type(neck, dtype, grid):
    """As FSDP and DeepSpeed make them: parameters and images all in one type, no autocast."""
    model = MODELS.build(config(neck=neck))
    x = images(grid)
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
    model = build(config())
    depths = {name: model.get_layer_depth(name) for name, _ in model.named_parameters()}
    last = ENCODER['num_layers'] + 1
    assert {total for _, total in depths.values()} == {last + 1}
    assert {depth for name, (depth, _) in depths.items() if not name.startswith('backbone.')} == {last}
    assert {depth for name, (depth, _) in depths.items() if name.startswith('backbone.')} == set(range(last + 1))
