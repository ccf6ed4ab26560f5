"""Contract: a config finds our types under the plain name in mmpretrain, and as ``randsac_mm.Name`` anywhere."""

import subprocess
import sys

import pytest
from builders import config
from mmengine import registry as root
from mmengine.registry import DefaultScope
from mmpretrain import registry as mmpretrain_registry
from torch import nn

from randsac_mm import models
from randsac_mm.registry import MODELS, register

BACKBONE = config()['backbone']
MODEL_TYPES = ['RandSAC', 'TwoStreamRandSAC', 'RandSACViT', 'RandSACDecoder', 'RandSACHead', 'RandSACDataPreprocessor']
STRATEGIES = [
    'PatchPartition',
    'SquarePartition',
    'BlobPartition',
    'ShuffledPartition',
    'RandomSerialization',
    'RasterSerialization',
]


def prefixed(cfg, prefix):
    """Put a scope before the type of the model and of its parts."""
    parts = {name: prefixed(part, prefix) if isinstance(part, dict) else part for name, part in cfg.items()}
    if cfg.get('type') in MODEL_TYPES:
        parts['type'] = prefix + cfg['type']
    return parts


@pytest.mark.parametrize('name', MODEL_TYPES)
def test_every_model_is_found(name):
    assert mmpretrain_registry.MODELS.get(name) is getattr(models, name)
    assert MODELS.get(name) is getattr(models, name)
    assert root.MODELS.get(f'randsac_mm.{name}') is getattr(models, name)


@pytest.mark.parametrize('name', STRATEGIES)
def test_every_strategy_is_found(name):
    assert mmpretrain_registry.TASK_UTILS.get(name).__name__ == name
    assert root.TASK_UTILS.get(f'randsac_mm.{name}') is mmpretrain_registry.TASK_UTILS.get(name)


@pytest.mark.parametrize('neck', [{}, None], ids=['RandSAC', 'TwoStreamRandSAC'])
@pytest.mark.parametrize('prefix', ['', 'mmpretrain.', 'randsac_mm.'], ids=['plain', 'mmpretrain', 'own'])
def test_models_build_in_mmpretrain(prefix, neck):
    cfg = prefixed(config(neck=neck), prefix)
    assert type(mmpretrain_registry.MODELS.build(cfg)).__name__ == config(neck=neck)['type']


@pytest.mark.parametrize('prefix', ['mmpretrain.', 'randsac_mm.'])
def test_models_build_at_the_root(prefix):
    assert type(root.MODELS.build(prefixed(config(), prefix))) is models.RandSAC


@pytest.mark.parametrize('library', ['mmseg', 'mmdet'])
@pytest.mark.parametrize('prefix', ['mmpretrain.', 'randsac_mm.'])
def test_models_build_in_other_libraries(library, prefix):
    registry = pytest.importorskip(f'{library}.registry', reason=f'{library} is not installed', exc_type=ImportError)
    with DefaultScope.overwrite_default_scope(library):
        assert type(registry.MODELS.build(prefixed(BACKBONE, prefix))) is models.RandSACViT
        assert type(registry.MODELS.build(prefixed(config(), prefix))) is models.RandSAC


@pytest.mark.slow
def test_own_scope_needs_no_import():
    """A config that names ``randsac_mm.RandSACViT`` works without ``custom_imports``, mmseg, mmdet and mmcv's ops."""
    code = (
        'import sys\n'
        'sys.modules.update({name: None for name in ("mmseg", "mmdet", "mmcv._ext")})\n'  # as if not installed
        'from mmengine.registry import MODELS\n'
        'assert "randsac_mm" not in sys.modules\n'
        f'print("built", type(MODELS.build({prefixed(BACKBONE, "randsac_mm.")!r})).__name__)\n'
    )
    out = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=False, timeout=120)
    assert out.returncode == 0, out.stderr
    assert 'built RandSACViT' in out.stdout


def test_register_everywhere_is_found_by_the_plain_name_in_every_library():
    @register('MODELS', everywhere=True)
    class NeckForEverybody(nn.Module):
        pass

    for registry in (root.MODELS, mmpretrain_registry.MODELS, MODELS):
        assert registry.get('NeckForEverybody') is NeckForEverybody


def test_register_keeps_to_mmpretrain_by_default():
    @register('MODELS')
    class NeckForMmpretrain(nn.Module):
        pass

    assert mmpretrain_registry.MODELS.get('NeckForMmpretrain') is NeckForMmpretrain
    assert 'NeckForMmpretrain' not in root.MODELS.module_dict


def test_register_refuses_an_unknown_kind():
    with pytest.raises(ValueError, match=r"kind='NECKS' is no registry of randsac_mm; choose one of \['DATASETS', "):
        register('NECKS')


def test_register_refuses_a_second_class_of_one_name():
    with pytest.raises(KeyError, match='RandSACViT is already registered'):

        @register('MODELS')
        class RandSACViT(nn.Module):
            pass
