"""Contract: a key that nothing reads is refused by path, type and key; every config that builds is accepted."""

from pathlib import Path

import pytest
from mmengine.config import Config
from mmengine.registry import HOOKS, MODELS, VISBACKENDS

import randsac_mm  # noqa: F401
from randsac_mm.engine import config_values
from randsac_mm.engine.config_check import check_keys
from randsac_mm.engine.launch import load_config

CONFIGS = Path(__file__).resolve().parents[2] / 'configs'
OURS = [path for path in sorted(CONFIGS.glob('*/*.py')) if path.parent.name != '_base_']


@MODELS.register_module()
class Exact:
    def __init__(self, width, *, depth=1):
        pass


@MODELS.register_module()
class PassesOn(Exact):
    def __init__(self, heads=1, **kwargs):
        super().__init__(**kwargs)


@HOOKS.register_module()
class TakesAnything(Exact):
    def __init__(self, **kwargs):
        self.options = kwargs
        super().__init__(3)


@pytest.mark.parametrize('path', OURS, ids=lambda path: path.stem)
def test_our_configs_are_accepted(path):
    check_keys(Config.fromfile(path))


@pytest.mark.parametrize('scope', ['', 'mmengine.'])
def test_a_log_whose_package_is_missing_is_refused_at_the_start(monkeypatch, scope):
    """Not by torch, after the data sets and the model were built."""

    def visualizer(name):
        return {'visualizer': {'type': 'Visualizer', 'vis_backends': [{'type': scope + name}]}}

    path = str(CONFIGS / 'randsac' / 'vit_digits.py')
    load_config(path, visualizer('TensorboardVisBackend'), None, 'none')
    there = config_values.find_spec
    monkeypatch.setattr(config_values, 'find_spec', lambda name: None if name == 'tensorboard' else there(name))
    with pytest.raises(ValueError, match=r'visualizer\.vis_backends\.0\.type.*TensorboardVis.*pip install tensorboard'):
        load_config(path, visualizer('TensorboardVisBackend'), None, 'none')
    load_config(path, visualizer('LocalVisBackend'), None, 'none')


def test_packages_are_known_by_the_backends_that_need_them():
    assert set(config_values._PACKAGES) - set(VISBACKENDS.module_dict) == set()


@pytest.mark.parametrize(
    ('change', 'named'),
    [
        ({'model.backbone.img_sise': 8}, r'model\.backbone: RandSACViT has no img_sise; did you mean img_size'),
        ({'model.qqq': 8}, r'model: RandSAC has no qqq; it has attention, .*neck'),
        ({'model.data_preprocessor.serialization.partition.hierachy': 8}, 'hierachy; did you mean hierarchy'),
        ({'custom_hooks': [{'type': 'CompileHook', 'mod': 'x'}]}, r'custom_hooks\.0: CompileHook has no mod'),
        ({'default_hooks.logger.intervall': 8}, r'default_hooks\.logger: LoggerHook has no intervall'),
        ({'train_dataloader.batchsize': 8}, 'train_dataloader: DataLoader has no batchsize; did you mean batch_size'),
        ({'train_dataloader.sampler.shufle': True}, r'train_dataloader\.sampler: DefaultSampler has no shufle'),
        ({'train_dataloader.dataset.split_': 'x'}, 'train_dataloader.dataset: .*split_'),
        ({'optim_wrapper.optimizer.weight_decy': 1}, r'optim_wrapper\.optimizer: AdamW has no weight_decy'),
        ({'optim_wrapper.clip_grd': {}}, 'optim_wrapper: OptimWrapper has no clip_grd'),
        ({'param_scheduler.0.t_max': 1}, r'param_scheduler\.0: LinearLR has no t_max'),
        ({'train_cfg.max_epoch': 1}, 'train_cfg: EpochBasedTrainLoop has no max_epoch; did you mean max_epochs'),
    ],
)  # fmt: skip
def test_misspelt_keys_are_refused(change, named):
    with pytest.raises(ValueError, match=named):
        load_config(str(CONFIGS / 'randsac' / 'vit_digits.py'), change, None, 'none')


def test_keys_are_followed_to_where_they_are_read():
    check_keys(Config({'model': {'type': 'PassesOn', 'heads': 2, 'width': 3, '_scope_': 'mmengine'}}))
    check_keys(
        Config({'custom_hooks': [{'type': 'TakesAnything', 'any': 1, 'priority': 'LOW'}, {'type': 'Unknown', 'x': 1}]})
    )
    misspelt = 'width'[::-1]  # a word that the module of the type, this file, does not have
    with pytest.raises(ValueError, match=f'model.neck: PassesOn has no {misspelt}; it has depth, heads, '):
        check_keys(Config({'model': {'neck': {'type': 'PassesOn', misspelt: 3}}}))


@pytest.mark.parametrize('key', ['train_dataloder', 'optim_wraper', 'custom_hook', 'default_hook', 'work_dirs'])
def test_a_misspelt_key_of_the_file_is_refused(tmp_path, key):
    file = tmp_path / 'own.py'
    file.write_text(f"_base_ = '{CONFIGS / 'randsac' / 'vit_digits.py'}'\n{key} = dict(batch_size=2)\n")
    with pytest.raises(ValueError, match=f'{key}, .*did you mean'):
        load_config(str(file), None, None, 'none')
    file.write_text(file.read_text().replace(key, 'train_dataset'))
    assert load_config(str(file), None, None, 'none').train_dataset == {'batch_size': 2}


@pytest.mark.parametrize('workers', [0, 2])
def test_settings_of_workers_need_workers(workers):
    change = {f'train_dataloader.{key}': value for key, value in dict(num_workers=workers, prefetch_factor=2).items()}
    change['train_dataloader.persistent_workers'] = True
    loader = load_config(str(CONFIGS / 'randsac' / 'vit_digits.py'), change, None, 'none').train_dataloader
    assert ('persistent_workers' in loader, 'prefetch_factor' in loader) == (workers > 0, workers > 0)
