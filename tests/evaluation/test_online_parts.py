"""Contract: what the online probe is made of: images chosen by class, features of any model."""

import copy
import random

import numpy as np
import pytest
import torch
from evaluation.online_runs import ARCH, MAE, RANDSAC, SIZES, Noisy
from hypothesis import given, settings
from hypothesis import strategies as st
from mmengine.registry import DefaultScope
from mmpretrain.registry import MODELS
from PIL import Image
from torch import nn
from torch.utils.data import Dataset

from randsac_mm.datasets import Digits, InMemoryDataset
from randsac_mm.evaluation import extract_features
from randsac_mm.evaluation.online_data import load_images, read_labels, stratified
from randsac_mm.evaluation.online_features import ProbedEncoder, undisturbed


def load(source, size=None, max_bytes=10**6, rank=0, world_size=1, seed=0):
    return load_images(source, 'test', size, seed, max_bytes, rank, world_size)


# ---- images ----------------------------------------------------------------------------------------------------------


@settings(max_examples=40)
@given(
    counts=st.lists(st.integers(1, 40), min_size=1, max_size=5), share=st.floats(0.01, 1), seed=st.integers(0, 10**6)
)
def test_every_class_keeps_its_share(counts, share, seed):
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)), counts))
    size = max(1, round(share * len(labels)))
    chosen = stratified(labels, size, seed)
    assert len(chosen) == len(set(chosen.tolist())) == size
    assert (np.diff(chosen) > 0).all()
    found = np.bincount(labels[chosen], minlength=len(counts))
    assert np.abs(found - np.array(counts) * size / len(labels)).max() <= 1
    assert (stratified(labels, size, seed) == chosen).all()


def test_choice_depends_on_its_seed_only():
    labels = np.arange(1000) % 10
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
    first, again, other = (stratified(labels, 200, seed).tolist() for seed in (0, 0, 1))
    assert first == again
    assert first != other
    assert len(set(first) & set(other)) < 100, 'not simply the first ones'
    assert random.getstate() == states[0]
    assert np.random.get_state()[1].tolist() == states[1]
    assert torch.equal(torch.get_rng_state(), states[2])


@pytest.fixture(scope='module')
def folders(tmp_path_factory):
    """Two classes of 3 and 2 grey pictures of 8 x 8, all different."""
    root = tmp_path_factory.mktemp('labelled')
    for number in range(5):
        folder = root / 'ab'[number >= 3]
        folder.mkdir(exist_ok=True)
        Image.fromarray(np.full((8, 8, 3), 10 * number, np.uint8)).save(folder / f'{number}.png')
    return root


def folder_config(root, **options):
    return dict(type='CustomDataset', data_root=str(root), pipeline=[dict(type='LoadImageFromFile')], **options)


@pytest.mark.parametrize('kind', ['digits', 'in memory', 'folders', 'items'])
def test_labelled_data_sets_of_all_kinds(kind, folders):
    source = {
        'digits': dict(type='Digits', split='test', with_label=False),
        'in memory': dict(type='InMemoryDataset', dataset=dict(type='Digits', split='test'), device='cpu'),
        'folders': folder_config(folders),
        'items': Items([dict(inputs=torch.full((1, 2, 2), i, dtype=torch.uint8), gt_label=i) for i in range(3)]),
    }[kind]
    images, labels = load(source)
    assert images.dtype == torch.uint8
    assert len(images) == len(labels)
    if kind in ('digits', 'in memory'):
        digits = Digits('test')
        assert torch.equal(images, digits.images)
        assert torch.equal(labels, digits.labels)
    elif kind == 'folders':
        assert images[:, 0, 0, 0].tolist() == [0, 10, 20, 30, 40]
        assert labels.tolist() == [0, 0, 0, 1, 1]
    else:
        assert labels.tolist() == images[:, 0, 0, 0].tolist() == [0, 1, 2]


class Items(Dataset):
    """Gives the items it is told, and counts how often."""

    def __init__(self, items):
        self.items, self.reads = items, 0

    def __len__(self):
        return len(self.items)

    def __getitem__(self, idx):
        self.reads += 1
        return self.items[idx]


def test_processes_share_the_images():
    whole = load(Noisy(), size=11)
    shares = [load(Noisy(), size=11, rank=rank, world_size=3) for rank in range(3)]
    for rank, (images, labels) in enumerate(shares):
        assert torch.equal(images, whole.images[rank::3])
        assert torch.equal(labels, whole.labels)
    assert load(Noisy(), size=2, rank=2, world_size=3).images is None


def pixels(*shape, dtype=torch.uint8):
    return torch.zeros(shape, dtype=dtype)


@pytest.mark.parametrize(
    ('items', 'message'),
    [
        ([], r'test \(Items\) has no images'),
        ([dict(inputs=pixels(1, 2, 2))], r'image 0 of test \(Items\) has no gt_label: probing needs labels'),
        ([dict(inputs=pixels(1, 2, 2), gt_label=[1, 2])], r'image 0 of test \(Items\) has 2 labels'),
        ([dict(inputs=pixels(1, 2, 2, dtype=torch.float32), gt_label=0)], r'test \(Items\): .*images must be uint8'),
        (
            [dict(inputs=pixels(1, 2, size), gt_label=0) for size in (2, 3)],
            r'test \(Items\): item 1 .* has shape \(1, 2, 3\) .* resize and a central crop',
        ),
        (
            [dict(inputs=pixels(3, 20, 20), gt_label=0)] * 3,
            r'3 images of shape \(3, 20, 20\) need 3600 bytes, more than max_bytes=3000 leaves: use fewer images',
        ),
    ],
)
def test_unusable_data_sets_are_refused(items, message):
    data = Items(items)
    with pytest.raises(ValueError, match=message):
        load(data, max_bytes=3000)


def test_folder_without_labels_is_refused_before_it_is_decoded(folders):
    with pytest.raises(ValueError, match=r'image 0 of test \(UnlabelledImageFolder\) has no gt_label'):
        load(dict(type='UnlabelledImageFolder', data_root=str(folders)))


@pytest.mark.slow
def test_broken_file_is_an_error_and_not_another_image(folders, tmp_path):
    (tmp_path / 'a').mkdir()
    (tmp_path / 'a' / 'broken.png').write_bytes(b'no picture')
    with pytest.raises(Exception, match=r'broken|None'):
        load(folder_config(tmp_path))


def test_labels_are_read_without_decoding():
    data = Items([dict(inputs=pixels(1, 2, 2), gt_label=1)] * 3)
    data.get_data_info = lambda idx: data.items[idx]
    assert read_labels(data, 'test').tolist() == [1, 1, 1]
    assert data.reads == 0
    assert read_labels(InMemoryDataset(Digits('test'), device='cpu'), 'test').tolist() == Digits('test').labels.tolist()


# ---- features --------------------------------------------------------------------------------------------------------


def build(config):
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        model = MODELS.build(config)
    for parameter in model.parameters():
        with torch.no_grad():
            parameter.add_(torch.randn_like(parameter), alpha=0.3)
    return model


def classifier(out_type):
    return dict(
        type='ImageClassifier',
        backbone=dict(type='VisionTransformer', arch=ARCH, out_type=out_type, **SIZES),
        head=dict(type='LinearClsHead', num_classes=3, in_channels=16),
        data_preprocessor=dict(mean=[100.0] * 3, std=[50.0] * 3),
    )


PIXELS = (torch.arange(2 * 3 * 64).reshape(2, 3, 8, 8) * 7 % 251).byte()


@torch.no_grad()
def test_features_of_mae_are_its_patches_without_a_mask():
    config = copy.deepcopy(MAE)
    config['backbone'].pop('patch_cfg')
    model = build(config)
    encoder = ProbedEncoder(model)
    found = extract_features(encoder, PIXELS, preprocess=encoder.normalise)
    model.backbone.eval()
    tokens = model.backbone((PIXELS - 77.9) / 95.9, mask=None)[-1]
    assert tokens.shape == (2, 17, 16)
    torch.testing.assert_close(found, tokens[:, 1:].mean(1))


@torch.no_grad()
@pytest.mark.parametrize('out_type', ['raw', 'featmap', 'cls_token'])
def test_features_of_a_classifier(out_type):
    model = build(classifier(out_type))
    model.eval()
    encoder = ProbedEncoder(model)
    found = extract_features(encoder, PIXELS, preprocess=encoder.normalise)
    last = model.backbone((PIXELS - 100.0) / 50.0)[-1]
    expected = {'raw': lambda: last[:, 1:].mean(1), 'featmap': lambda: last.mean((2, 3)), 'cls_token': lambda: last}
    torch.testing.assert_close(found, expected[out_type]())
    named = ProbedEncoder(model, extract='extract_feat')
    expected = {**expected, 'raw': lambda: last.mean(1)}  # a method decides itself what is a token
    found = extract_features(named, PIXELS, preprocess=encoder.normalise)
    torch.testing.assert_close(found, expected[out_type]())


def test_models_without_features_are_refused():
    with pytest.raises(ValueError, match=r"Linear has no backbone: name the method that gives features, as extract='"):
        ProbedEncoder(nn.Linear(2, 2))
    with pytest.raises(ValueError, match=r"extract='encode' is no method of Linear"):
        ProbedEncoder(nn.Linear(2, 2), 'encode')

    class MMDeepSpeedEngineWrapper(nn.Linear):
        pass

    with pytest.raises(ValueError, match='MMDeepSpeedEngineWrapper spreads the weights over processes'):
        ProbedEncoder(MMDeepSpeedEngineWrapper(2, 2))


def test_preprocessors_of_several_views_are_refused():
    model = build(RANDSAC)
    model.data_preprocessor = nn.Module()
    model.data_preprocessor.forward = lambda data, training: dict(inputs=[data['inputs']] * 2)
    with pytest.raises(ValueError, match='Module makes no batch of single images'):
        ProbedEncoder(model).normalise(pixels(2, 1, 8, 8))


def test_compiled_code_is_set_aside_and_put_back():
    model = build(RANDSAC)

    def compiled(*args):
        raise AssertionError('compiled code ran')

    layer = model.backbone.layers[1]
    layer._compiled_call_impl = compiled
    with undisturbed(model):
        model.backbone(torch.zeros(2, 1, 8, 8))
    assert layer._compiled_call_impl is compiled
    assert model.backbone.layers[0]._compiled_call_impl is None
    with pytest.raises(AssertionError, match='compiled code ran'):
        model.backbone(torch.zeros(2, 1, 8, 8))


@pytest.mark.slow
def test_compiler_is_not_started_again():
    model, seen = build(RANDSAC), []

    def backend(graph, inputs):
        seen.append(inputs[0].shape)
        return graph

    layer = model.backbone.layers[0]
    layer.compile(backend=backend, dynamic=False)
    layer(torch.zeros(2, 15, 16))
    assert len(seen) == 1
    encoder = ProbedEncoder(model)
    with undisturbed(model):
        extract_features(encoder, pixels(5, 1, 8, 8), preprocess=encoder.normalise)
    assert len(seen) == 1
    layer(torch.zeros(2, 15, 16))
    assert len(seen) == 1
    layer(torch.zeros(3, 15, 16))
    assert len(seen) == 2, 'the layer is still a compiled one'
