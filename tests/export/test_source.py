"""Contract: whatever checkpoint of ours is read, the encoder computes what its model computes, or it is refused."""

import math

import pytest
import torch
from export.tiny import ARCH, MEAN, STD, build, checkpoint, model_config, randomise, save
from hypothesis import given, settings
from hypothesis import strategies as st
from mmengine.config import Config

from randsac_mm.export import read_source, real_images
from randsac_mm.export.stored import stored_config
from randsac_mm.models import RandSACViT
from randsac_mm.models.positions import sincos_positions
from randsac_mm.transfer.resize import resize_positions

HEADS = dict(num_heads=3, mean=MEAN, std=STD)


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
    source = read_source(path)
    inputs = images()
    assert torch.equal(source.encoder.features(inputs).tokens, tokens_of(model.backbone, inputs))
    assert (source.arch, source.img_size, source.patch_size, source.in_channels) == (ARCH, (12, 20), 4, 3)
    assert (source.mean, source.std, source.notes) == (MEAN, STD, ())
    assert torch.equal(source.encoder.features(inputs).averaged, tokens_of(model.backbone, inputs).mean(1))


@pytest.mark.parametrize('final_norm', [True, False])
def test_norm_of_averaged_tokens(tmp_path, final_norm):
    path, model = checkpoint(tmp_path / 'a.pth', kind='ImageClassifier', out_type='avg_featmap', final_norm=final_norm)
    inputs = images()
    with torch.no_grad():
        expected = model.backbone(inputs)[-1]
    source = read_source(path)
    torch.testing.assert_close(source.encoder.features(inputs).averaged, expected, rtol=0, atol=0)
    assert source.averaged_norm
    assert source.final_norm is final_norm
    without = read_source(path, averaged_norm=False)
    assert without.notes == ('the norm of the averaged tokens (ln2) was left out',)
    assert torch.equal(without.encoder.features(inputs).averaged, tokens_of(model.backbone, inputs).mean(1))


@pytest.mark.parametrize('key', ['decode_head.conv_seg.weight', 'roi_head.bbox_head.fc_cls.weight'])
def test_encoder_of_a_segmentor_or_detector(tmp_path, key):
    cfg = model_config(kind='ImageClassifier')
    model = build(cfg)
    state = {f'backbone.{name}': value for name, value in model.backbone.state_dict().items()}
    text = Config(dict(model=dict(cfg, data_preprocessor=dict(mean=[1.0, 2, 3], std=[4, 5, 6], bgr_to_rgb=True))))
    torch.save({'meta': {'cfg': text.pretty_text}, 'state_dict': state | {key: torch.ones(2)}}, tmp_path / 'a.pth')
    source = read_source(tmp_path / 'a.pth')
    inputs = images()
    assert torch.equal(source.encoder.features(inputs).tokens, tokens_of(model.backbone, inputs))
    assert (source.mean, source.std) == ((1, 2, 3), (4, 5, 6))


def test_bare_weights_and_a_config_beside_them(tmp_path):
    cfg = model_config(qkv_bias=False)
    model = build(cfg)
    torch.save(model.backbone.state_dict(), tmp_path / 'a.pth')
    Config(dict(model=cfg)).dump(tmp_path / 'run.py')
    inputs = images()
    for options in (HEADS, dict(config=tmp_path / 'run.py')):
        source = read_source(tmp_path / 'a.pth', **options)
        assert torch.equal(source.encoder.features(inputs).tokens, tokens_of(model.backbone, inputs))
        assert (source.qkv_bias, source.mean) == (False, MEAN)


def test_half_precision(tmp_path):
    path, model = checkpoint(tmp_path / 'a.pth')
    saved = torch.load(path, weights_only=True)
    saved['state_dict'] = {key: value.half() for key, value in saved['state_dict'].items()}
    torch.save(saved, path)
    source = read_source(path)
    assert source.img_size == (12, 20)
    assert {value.dtype for value in source.encoder.weights().values()} == {torch.float32}
    model.backbone.load_state_dict({k: v.half().float() for k, v in model.backbone.state_dict().items()})
    inputs = images()
    assert torch.equal(source.encoder.features(inputs).tokens, tokens_of(model.backbone, inputs))


# ---- sizes and positions --------------------------------------------------------------------------------------------


@settings(max_examples=12)
@given(
    rows=st.integers(1, 7),
    columns=st.integers(1, 7),
    patch=st.sampled_from([2, 3, 4, 16]),
    channels=st.sampled_from([1, 2, 3]),
    heads=st.sampled_from([1, 2, 5]),
)
def test_sizes_are_read_from_the_weights(tmp_path_factory, rows, columns, patch, channels, heads):
    arch = dict(embed_dims=20, num_layers=1, num_heads=heads, feedforward_channels=7)
    size = (rows * patch, columns * patch)
    vit = randomise(RandSACViT(arch, size, patch, channels))
    path = tmp_path_factory.mktemp('sizes') / 'a.pth'
    torch.save(vit.state_dict(), path)
    source = read_source(path, num_heads=heads, mean=[1], std=[2])
    assert (source.img_size, source.patch_size, source.in_channels, source.arch) == (size, patch, channels, arch)
    assert source.mean == (1,) * channels
    inputs = images(*size, channels)
    assert torch.equal(source.encoder.features(inputs).tokens, tokens_of(vit, inputs))


@pytest.mark.parametrize('method', ['randsac', 'mae'])
def test_fixed_positions_are_made_for_another_size(tmp_path, method):
    """9 x 16 tokens are no 12 x 12; and whichever axis comes first in the file comes first in the export."""
    vit = randomise(RandSACViT(ARCH, (36, 64), 4, method=method))
    torch.save(vit.state_dict(), tmp_path / 'a.pth')
    assert read_source(tmp_path / 'a.pth', **HEADS).img_size == (36, 64)
    source = read_source(tmp_path / 'a.pth', img_size=(20, 12), **HEADS)
    inputs = images(20, 12)
    assert torch.equal(source.encoder.features(inputs).tokens, tokens_of(vit, inputs))
    assert 'fixed positions made for (20, 12) pixels' in source.notes[0]
    assert source.method == method


def test_learned_positions(tmp_path):
    vit = randomise(RandSACViT(ARCH, (12, 20), 4, method='deit'))
    torch.save(vit.state_dict(), tmp_path / 'a.pth')
    inputs = images()
    source = read_source(tmp_path / 'a.pth', img_size=(12, 20), **HEADS)
    assert torch.equal(source.encoder.features(inputs).tokens, tokens_of(vit, inputs))
    with pytest.raises(ValueError, match=r'learned positions of 15 tokens, which do not tell.*--img-size'):
        read_source(tmp_path / 'a.pth', **HEADS)
    with pytest.raises(ValueError, match=r'15 tokens, but 16 x 16 pixels have 4 x 4 patches'):
        read_source(tmp_path / 'a.pth', img_size=16, **HEADS)

    cfg = model_config(kind='ImageClassifier', method='deit')
    path = save(tmp_path / 'b.pth', build(cfg), cfg)
    source = read_source(path, img_size=(8, 28))
    saved = torch.load(path, weights_only=True)['state_dict']['backbone.pos_embed']
    assert torch.equal(source.encoder.backbone.pos_embed, resize_positions(saved, (3, 5), (2, 7)))


def test_layer_scale_becomes_part_of_the_weights(tmp_path):
    vit = randomise(RandSACViT(ARCH, (12, 20), 4, method='cae', final_norm=True))
    torch.save(vit.state_dict(), tmp_path / 'a.pth')
    source = read_source(tmp_path / 'a.pth', **HEADS)
    assert not any('gamma' in key for key in source.encoder.weights())
    assert source.notes == ('layer scale multiplied into the layers before it',)
    inputs = images()
    torch.testing.assert_close(source.encoder.features(inputs).tokens, tokens_of(vit, inputs), rtol=0, atol=1e-5)


# ---- what is refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(mean=MEAN, std=STD), 'does not tell its number of heads, and 12 channels suit several: give --num-heads'),
        (dict(num_heads=3), 'does not tell how its images were normalised: give --mean and --std'),
        (dict(num_heads=3, mean=MEAN), '--mean and --std belong together'),
        (dict(HEADS, mean=[1, 2]), r'mean=\(1, 2\) has 2 values, but the images have 3 channels'),
        (dict(HEADS, std=[1, 0, 1]), 'std positive'),
        (dict(HEADS, std=[1, math.nan, 1]), 'std positive'),
        (dict(HEADS, num_heads=5), 'embed_dims=12 is not divisible by num_heads=5'),
        (dict(HEADS, patch_size=16), '--patch-size is 16, but the patches of .* are 4 pixels wide'),
        (dict(HEADS, img_size=(12, 22)), 'an image of 12 x 22 pixels cannot be cut in patches of 4 x 4'),
        (dict(HEADS, img_size=(12, 12, 12)), '--img-size 12 12 12 must be one or two positive numbers'),
        (dict(HEADS, img_size=0), '--img-size 0 must be one or two positive numbers'),
        (dict(HEADS, prefix='student.'), r"prefix='student.'"),
    ],
)
def test_unknown_or_contradictory_options(tmp_path, options, message):
    torch.save(randomise(RandSACViT(ARCH, (12, 20), 4)).state_dict(), tmp_path / 'a.pth')
    with pytest.raises(ValueError, match=message):
        read_source(tmp_path / 'a.pth', **options)


@pytest.mark.parametrize(
    ('backbone', 'message'),
    [
        (dict(arch=dict(ARCH, num_heads=4)), '--config .* has num_heads=4, but .* was trained with num_heads=3'),
        (dict(arch=dict(ARCH, num_layers=4)), 'the config has num_layers=4, but the weights of .* have 3'),
        (dict(patch_size=2), 'the config has 2, but the patches of .* are 4 pixels wide'),
        (dict(img_size=(20, 12)), r'img_size=\(20, 12\), but the positions of .* are those of \(12, 20\) pixels'),
        (dict(window_size=2), 'attends in windows .window_size=2., which none of the targets does'),
    ],
)
def test_config_of_another_run(tmp_path, backbone, message):
    path, _ = checkpoint(tmp_path / 'a.pth')
    cfg = model_config()
    cfg['backbone'].update(backbone)
    Config(dict(model=cfg)).dump(tmp_path / 'other.py')
    with pytest.raises(ValueError, match=message):
        read_source(path, config=tmp_path / 'other.py')


def test_options_against_the_stored_config(tmp_path):
    path, _ = checkpoint(tmp_path / 'a.pth')
    with pytest.raises(ValueError, match=r'--num-heads 4 contradicts the config of .*, which has num_heads=3'):
        read_source(path, num_heads=4)
    assert read_source(path, num_heads=3, mean=[0], std=[1]).mean == (0, 0, 0)


def test_encoders_that_no_target_can_express(tmp_path):
    vit = RandSACViT(ARCH, 12, 4)
    state = vit.state_dict()
    for extra, message in (
        (dict(cls_token=torch.zeros(1, 1, 12)), 'has a class token: it comes from another project'),
        ({'layers.0.attn.relative_position_bias_table': torch.zeros(25, 3)}, 'has relative position biases'),
        (dict(pos_embed=None), 'has no positions'),
        ({'patch_embed.projection.weight': torch.zeros(12, 3, 4, 2)}, 'patches of 4 x 2 pixels; only square ones'),
        ({'layers.0.ffn.layers.0.0.weight': None}, 'feed-forward networks of another kind'),
        ({'layers.1.ln1.weight': None}, r"missing in the file: \['layers.1.ln1.weight'\]"),
        ({'layers.0.attn.gate': torch.zeros(3)}, r"left over in the file: \['layers.0.attn.gate'\]"),
    ):
        changed = {key: value for key, value in {**state, **extra}.items() if value is not None}
        torch.save(changed, tmp_path / 'a.pth')
        with pytest.raises(ValueError, match=message):
            read_source(tmp_path / 'a.pth', **HEADS)


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(ValueError, match='only local files are exported'):
        read_source('https://example.org/a.pth')
    with pytest.raises(FileNotFoundError, match='there is no checkpoint'):
        read_source(tmp_path / 'a.pth')
    path, _ = checkpoint(tmp_path / 'a.pth')
    with pytest.raises(FileNotFoundError, match='there is no config'):
        read_source(path, config=tmp_path / 'run.py')
    (tmp_path / 'run.py').write_text('optimizer = 1\n')
    with pytest.raises(ValueError, match='defines no model with a backbone'):
        read_source(path, config=tmp_path / 'run.py')


def test_stored_config_is_never_executed(tmp_path):
    mark = tmp_path / 'mark'
    text = f"open({str(mark)!r}, 'w')\nmodel = dict(a=-1.5, b=open({str(mark)!r}, 'w'), c=[(1, 'x')], d={{'e': None}})"
    assert stored_config({'meta': {'cfg': text}}, {}) == {
        'model': {'a': -1.5, 'b': None, 'c': [(1, 'x')], 'd': {'e': None}}
    }
    assert not mark.exists()
    assert stored_config({'meta': {'cfg': 'model = ('}}, {}) == {}


# ---- images ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(('channels', 'size'), [(1, (8, 8)), (1, (14, 6)), (3, (12, 20)), (3, (7, 5))])
def test_images_are_real_and_differ(channels, size):
    sample = real_images(channels, size)
    assert sample.pixels.shape == (len(sample.names), channels, *size)
    assert sample.pixels.dtype == torch.uint8
    assert all(image.float().std() > 5 for image in sample.pixels)
    assert len({image.numpy().tobytes() for image in sample.pixels}) == len(sample.names)


def test_images_of_a_folder(tmp_path, root):
    folder = tmp_path / 'photos'
    folder.mkdir()
    with pytest.raises(FileNotFoundError, match='no readable image there'):
        real_images(3, (8, 8), folder)
    (folder / 'broken.jpg').write_bytes(b'no image')
    (folder / 'one.png').write_bytes((root / 'docs/images/reconstruction.png').read_bytes())
    assert real_images(3, (9, 5), folder).names == (str(folder / 'one.png'),)
    assert real_images(1, (9, 5), folder).pixels.shape == (1, 1, 9, 5)
    with pytest.raises(FileNotFoundError, match='there is no such folder'):
        real_images(3, (8, 8), tmp_path / 'none')
    with pytest.raises(ValueError, match='reads 2 channels, but an export is proven on real images'):
        real_images(2, (8, 8))


def test_columns_come_first_in_our_positions():
    """What the tests above rely on: the two axes' orders can be told apart."""
    assert not torch.equal(sincos_positions((3, 3), 12), sincos_positions((3, 3), 12, first='rows'))
