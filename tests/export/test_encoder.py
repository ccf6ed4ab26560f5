"""Contract: whatever checkpoint of ours is read, the encoder computes what its model computes, or it is refused."""

import pytest
import torch
from export.tiny import MEAN, STD, build, checkpoint, model_config, save
from hypothesis import given, settings
from hypothesis import strategies as st
from mmengine.config import Config

from randsac_mm.export import read_encoder
from randsac_mm.export.sample_images import real_images


def images(height=12, width=20, channels=3):
    return torch.randn(2, channels, height, width)


def tokens_of(backbone, inputs):
    backbone.out_type = 'raw'
    with torch.no_grad():
        return backbone.eval()(inputs)[-1]


# ---- every kind of checkpoint ---------------------------------------------------------------------------------------


@pytest.mark.parametrize('kind', ['RandSAC', 'TwoStreamRandSAC', 'ImageClassifier'])
def test_encoder_of_a_run(tmp_path, kind):
    path, model = checkpoint(tmp_path / 'epoch_1.pth', kind=kind)
    encoder = read_encoder(path)
    inputs = images()
    tokens, averaged = encoder(inputs)
    assert torch.equal(tokens, tokens_of(model.backbone, inputs))
    assert torch.equal(averaged, tokens.mean(1))
    assert (encoder.mean, encoder.std, encoder.notes) == (MEAN, STD, ())


def test_golden_checkpoint(root):
    """Written by code before 2027."""
    encoder = read_encoder(root / 'tests' / 'data' / 'tiny_digits.pth')
    assert encoder.architecture['img_size'] == [8, 8]
    assert (encoder.mean, encoder.std) == ((77.94,), (95.91,))


@pytest.mark.parametrize('final_norm', [True, False])
def test_norm_of_averaged_tokens(tmp_path, final_norm):
    path, model = checkpoint(tmp_path / 'a.pth', kind='ImageClassifier', out_type='avg_featmap', final_norm=final_norm)
    inputs = images()
    with torch.no_grad():
        expected = model.backbone(inputs)[-1]
    encoder = read_encoder(path)
    assert torch.equal(encoder(inputs)[1], expected)
    without = read_encoder(path, averaged_norm=False)
    assert len(without.notes) == 1
    assert torch.equal(without(inputs)[1], tokens_of(model.backbone, inputs).mean(1))


@pytest.mark.parametrize('key', ['decode_head.conv_seg.weight', 'roi_head.bbox_head.fc_cls.weight'])
def test_encoder_of_a_segmentor_or_detector(tmp_path, key):
    cfg = model_config(kind='ImageClassifier', out_indices=[0, 1, 2], drop_path_rate=0.1, with_cp=True)
    cfg['backbone'].update(type='mmpretrain.RandSACViT', init_cfg=dict(type='Pretrained', checkpoint='gone.pth'))
    model = build(cfg)
    state = {f'backbone.{name}': value for name, value in model.backbone.state_dict().items()}
    cfg['data_preprocessor'] = dict(type='SegDataPreProcessor', mean=[1.0, 2, 3], std=[4, 5, 6], bgr_to_rgb=True)
    encoder = read_encoder(save(tmp_path / 'a.pth', state | {key: torch.ones(2)}, cfg))
    inputs = images()
    assert torch.equal(encoder(inputs)[0], tokens_of(model.backbone, inputs))
    assert (encoder.mean, encoder.std) == ((1, 2, 3), (4, 5, 6))


def test_bare_weights_need_a_config(tmp_path):
    cfg = model_config(qkv_bias=False)
    model = build(cfg)
    torch.save(model.backbone.state_dict(), tmp_path / 'a.pth')
    with pytest.raises(ValueError, match=r'a\.pth .*--config'):
        read_encoder(tmp_path / 'a.pth')
    preprocessor = cfg.pop('data_preprocessor')  # beside the model, as mmpretrain's classifiers have it
    Config(dict(model=cfg, data_preprocessor=preprocessor)).dump(tmp_path / 'run.py')
    encoder = read_encoder(tmp_path / 'a.pth', tmp_path / 'run.py')
    inputs = images()
    assert torch.equal(encoder(inputs)[0], tokens_of(model.backbone, inputs))
    assert (encoder.architecture['qkv_bias'], encoder.mean) == (False, MEAN)


# ---- sizes and normalisation ----------------------------------------------------------------------------------------


@settings(max_examples=12)
@given(
    rows=st.integers(1, 7),
    columns=st.integers(1, 7),
    patch=st.sampled_from([2, 3, 4, 16]),
    channels=st.sampled_from([1, 2, 3]),
    heads=st.sampled_from([1, 2, 5]),
)
def test_any_sizes(tmp_path_factory, rows, columns, patch, channels, heads):
    arch = dict(embed_dims=20, num_layers=1, num_heads=heads, feedforward_channels=7)
    size = (rows * patch, columns * patch)
    path, model = checkpoint(tmp_path_factory.mktemp('sizes') / 'a.pth', 'ImageClassifier', size, patch, channels, arch)
    encoder = read_encoder(path)
    inputs = images(*size, channels)
    assert torch.equal(encoder(inputs)[0], tokens_of(model.backbone, inputs))


def test_another_image_size(tmp_path):
    path, model = checkpoint(tmp_path / 'a.pth', size=(36, 64))
    encoder = read_encoder(path, img_size=(20, 12))
    inputs = images(20, 12)
    assert torch.equal(encoder(inputs)[0], tokens_of(model.backbone, inputs))
    assert encoder.architecture['img_size'] == [20, 12]
    assert encoder.weights()['pos_embed'].shape == (1, 15, 12)
    assert encoder.architecture['positions_grid'] == [9, 16]
    assert '(9, 16)' in encoder.notes[0]


@pytest.mark.parametrize(
    ('statistics', 'mean', 'std'),
    [(dict(mean=[7], std=[2]), 7, 2), (dict(mean=None), 0, 1)],
    ids=['one for all channels', 'none'],
)
def test_normalisation(tmp_path, statistics, mean, std):
    cfg = model_config(kind='ImageClassifier')
    cfg['data_preprocessor'] = statistics
    encoder = read_encoder(save(tmp_path / 'a.pth', build(model_config(kind='ImageClassifier')).state_dict(), cfg))
    pixels = torch.randint(0, 256, (2, 3, 12, 20), dtype=torch.uint8)
    assert (encoder.mean, encoder.std) == ((mean,) * 3, (std,) * 3)
    assert torch.equal(encoder.normalise(pixels), (pixels.float() - mean) / std)


# ---- what is refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('changes', 'named'),
    [
        ({'backbone.arch.num_layers': 4}, 'num_layers'),
        ({'backbone.arch.num_layers': 2}, 'num_layers'),
        ({'backbone.arch.num_heads': 5}, 'num_heads=5'),
        ({'backbone.arch': None}, 'cannot be built'),
        ({'backbone.patch_size': 2}, 'patch'),
        ({'backbone.in_channels': 1}, r'mean=.*1 channels'),
        ({'backbone.img_size': (20, 18)}, '18 pixels'),
        ({'backbone.qkv_bias': False}, r'qkv\.bias'),
        ({'backbone.final_norm': False}, r'ln1\.weight'),
        ({'backbone.out_type': 'avg_featmap'}, r'ln2\.weight'),
        ({'backbone.window_size': 2}, 'window_size'),
        ({'backbone.type': 'ResNet'}, 'ResNet'),
        ({'backbone.type': 'VisionTransformer'}, 'with_cls_token=False'),
        ({'backbone': None}, 'None'),
        ({'data_preprocessor': None}, 'data_preprocessor'),
        ({'data_preprocessor.mean': [1, 2]}, r'mean=\[1, 2\].*3 channels'),
        ({'data_preprocessor.mean': 'abc'}, "mean='abc'"),
        ({'data_preprocessor.std': [1, 0, 1]}, r'std=\[1, 0, 1\]'),
    ],
)
def test_config_of_another_model(tmp_path, changes, named):
    path, _ = checkpoint(tmp_path / 'a.pth')
    cfg = Config(dict(model=model_config()))
    cfg.merge_from_dict({f'model.{key}': value for key, value in changes.items()})
    cfg.dump(tmp_path / 'other.py')
    with pytest.raises(ValueError, match=rf'(a\.pth|other\.py|model\.)(?s:.*){named}'):
        read_encoder(path, tmp_path / 'other.py')
    torch.save({**torch.load(path, weights_only=True), 'meta': {'cfg': cfg.pretty_text}}, path)
    with pytest.raises(ValueError, match=rf'a\.pth(?s:.*){named}'):
        read_encoder(path)


@pytest.mark.parametrize(
    ('key', 'value'),
    [
        ('cls_token', torch.zeros(1, 1, 12)),
        ('pos_embed', None),
        ('pos_embed', torch.randn(1, 15, 12)),  # learned ones
        ('patch_embed.projection.weight', torch.zeros(12, 3, 4, 2)),
        ('layers.1.ln1.weight', None),
        ('layers.0.gamma_1', torch.ones(12)),
        ('ln2.weight', torch.ones(12)),
    ],
)
def test_weights_that_the_config_does_not_describe(tmp_path, key, value):
    cfg = model_config()
    state = {**build(cfg).state_dict(), f'backbone.{key}': value}
    path = save(tmp_path / 'a.pth', {key: value for key, value in state.items() if value is not None}, cfg)
    with pytest.raises(ValueError, match=rf'a\.pth(?s:.*)({key}|patch)'):
        read_encoder(path)


def test_a_stored_config_is_not_executed(tmp_path):
    cfg = model_config()
    text = f'import os\nos.mkdir({str(tmp_path / "mark")!r})\n{Config(dict(model=cfg)).pretty_text}'
    torch.save({'meta': {'cfg': text}, 'state_dict': build(cfg).state_dict()}, tmp_path / 'text.pth')
    read_encoder(tmp_path / 'text.pth')
    assert not (tmp_path / 'mark').exists()


@pytest.mark.parametrize(('channels', 'size'), [(1, (14, 6)), (3, (7, 5))])
def test_images_are_real_and_differ(channels, size):
    found = real_images(channels, size)
    assert len({image.tobytes() for image in found.values()}) == len(found) > 1
    for image in found.values():
        assert (image.shape, image.dtype) == ((*size, channels), 'uint8')
        assert image.std() > 5


def test_images_of_a_folder(tmp_path, root):
    (tmp_path / 'broken.jpg').write_bytes(b'no image')
    for missing in (tmp_path, tmp_path / 'none'):
        with pytest.raises(FileNotFoundError, match=missing.name):
            real_images(3, (8, 8), missing)
    (tmp_path / 'one.png').write_bytes((root / 'docs/images/reconstruction.png').read_bytes())
    for channels in (1, 3):
        ((name, image),) = real_images(channels, (9, 5), tmp_path).items()
        assert (name, image.shape) == (str(tmp_path / 'one.png'), (9, 5, channels))
    with pytest.raises(ValueError, match='in_channels=2'):
        real_images(2, (8, 8))
