"""Contract: a config finds our types under the plain name in mmpretrain, and as ``randsac_mm.Name`` anywhere."""

import subprocess
import sys
from itertools import product

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
PARTITIONS = ['PatchPartition', 'SquarePartition', 'BlobPartition', 'ShuffledPartition']
TASK_UTILS = [*PARTITIONS, 'RandomSerialization', 'RasterSerialization']
PREFIXES = ['mmpretrain.', 'randsac_mm.']


def prefixed(cfg, prefix):
    """Put a scope before the type of the model and of its parts."""
    parts = {name: prefixed(part, prefix) if isinstance(part, dict) else part for name, part in cfg.items()}
    if cfg.get('type') in MODEL_TYPES:
        parts['type'] = prefix + cfg['type']
    return parts


@pytest.mark.parametrize('name', TASK_UTILS)
def test_every_partition_and_serialization_is_found(name):
    assert mmpretrain_registry.TASK_UTILS.get(name).__name__ == name
    assert root.TASK_UTILS.get(f'randsac_mm.{name}') is mmpretrain_registry.TASK_UTILS.get(name)


@pytest.mark.parametrize('neck', [{}, None], ids=['RandSAC', 'TwoStreamRandSAC'])
@pytest.mark.parametrize(
    ('scope', 'prefix'), [('mmpretrain', ''), *product(['mmpretrain', 'mmengine', 'mmseg', 'mmdet'], PREFIXES)]
)
def test_models_build_in_every_library(scope, prefix, neck):
    with DefaultScope.overwrite_default_scope(scope):
        cfg = config(neck=neck)
        assert type(root.MODELS.build(prefixed(cfg, prefix))) is getattr(models, cfg['type'])
        assert type(root.MODELS.build(prefixed(BACKBONE, prefix))) is models.RandSACViT


@pytest.mark.slow
def test_own_scope_needs_no_import():
    """A config that names ``randsac_mm.RandSACViT`` works without ``custom_imports``, mmseg, mmdet and mmcv's ops."""
    code = (
        'import sys\n'
        'sys.modules.update(dict.fromkeys(["mmseg", "mmdet", "mmcv._ext"]))\n'  # as if not installed
        'from mmengine.registry import MODELS\n'
        'assert "randsac_mm" not in sys.modules\n'
        f'print("built", type(MODELS.build({prefixed(BACKBONE, "randsac_mm.")!r})).__name__)\n'
    )
    out = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=False, timeout=120)
    assert out.returncode == 0, out.stderr
    assert 'built RandSACViT' in out.stdout


@pytest.mark.parametrize('everywhere', [True, False])
def test_register_everywhere_or_in_mmpretrain(everywhere):
    name = f'Neck{everywhere}'
    neck = register('MODELS', everywhere=everywhere)(type(name, (nn.Module,), {}))
    assert mmpretrain_registry.MODELS.get(name) is MODELS.get(name) is neck
    assert (name in root.MODELS.module_dict) is everywhere


def test_register_refuses_an_unknown_kind_and_a_second_class_of_one_name():
    with pytest.raises(ValueError, match='NECKS'):
        register('NECKS')
    with pytest.raises(KeyError, match='RandSACViT'):
        register('MODELS')(type('RandSACViT', (nn.Module,), {}))
