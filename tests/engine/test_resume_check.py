"""Contract: what a run continues from fits it, in tensors, config and files, or it stops before the first step."""

import contextlib
import copy
import gzip
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from engine.toy_engine import Interrupted, ToyData, last_checkpoint, toy_config, train
from mmengine.config import Config
from mmengine.dataset import BaseDataset
from mmengine.registry import DATASETS
from mmengine.runner import FlexibleRunner, Runner

from randsac_mm.datasets import InMemoryDataset
from randsac_mm.engine.resume_check import compare_configs
from randsac_mm.engine.safe_loading import use_safe_reader
from randsac_mm.engine.train_files import describe_change, fingerprint, list_files, write_list


@pytest.fixture(autouse=True)
def reader_of_the_tools():
    use_safe_reader()


@pytest.fixture(scope='module')
def half(tmp_path_factory):
    """The checkpoint of the first of two epochs."""
    folder = tmp_path_factory.mktemp('half')
    train(folder, epochs=2, stop=6)
    return folder / 'epoch_1.pth'


EDITS = {
    'wider': (lambda c: c['state_dict'].update({'layer.weight': torch.zeros(3, 4)}), r'layer\.weight.*\[3, 4\]'),
    'missing': (lambda c: c['state_dict'].pop('layer.bias'), r'missing: layer\.bias'),
    'unexpected': (lambda c: c['state_dict'].update({'head.bias': torch.zeros(1)}), r'unexpected: head\.bias'),
    'state wider': (
        lambda c: c['optimizer']['state'][0].update(exp_avg=torch.zeros(3, 4)),
        r'layer\.weight\.exp_avg \(3',
    ),
    'state of a vector': (
        lambda c: c['optimizer']['state'][1].update(exp_avg_sq=torch.zeros(9)),
        r'layer\.bias\.exp_avg_sq',
    ),
    'state incomplete': (lambda c: c['optimizer']['state'][1].pop('exp_avg_sq'), r'layer\.bias\.exp_avg_sq missing'),
    'fewer parameters': (lambda c: c['optimizer']['param_groups'][0]['params'].pop(), r'1 parameters, not 2'),
    'more groups': (
        lambda c: c['optimizer']['param_groups'].append(c['optimizer']['param_groups'][0]),
        '1 .* groups.* 2',
    ),
    'no state': (lambda c: c['optimizer'].pop('state'), "optimiser's state: missing"),
    'no schedules': (lambda c: c.pop('param_schedulers'), 'no param_schedulers'),
    'schedules of another type': (lambda c: c.update(param_schedulers=3), 'no param_schedulers'),
    **{
        f'{key} is {value}': (lambda c, key=key, value=value: c.update({key: value}), f'no {key}')
        for key in ('optimizer', 'message_hub', 'meta', 'state_dict')
        for value in (None, 'text')
    },
    'no step': (lambda c: c['meta'].pop('iter'), 'epoch and iter'),
}


@pytest.mark.parametrize('name', EDITS)
def test_a_checkpoint_that_does_not_fit_is_refused(half, tmp_path, name):
    edit, message = EDITS[name]
    content = torch.load(half, weights_only=True)
    edit(content)
    torch.save(content, tmp_path / 'epoch_1.pth')
    with pytest.raises(ValueError, match=message) as error:
        train(tmp_path, epochs=2, resume=tmp_path / 'epoch_1.pth')
    assert str(error.value).count('\n') < 2


def test_a_checkpoint_is_refused_before_other_hooks_read_it(tmp_path):
    """EMAHook loads its own state, and what does not fit raises a RuntimeError there."""
    ema = [{'type': 'EMAHook'}]
    run(tmp_path, lambda c: c['custom_hooks'].extend(ema), stop=6)
    assert run(tmp_path, lambda c: c['custom_hooks'].extend(ema), tmp_path / 'epoch_1.pth').epoch == 2
    content = torch.load(tmp_path / 'epoch_1.pth', weights_only=True)
    for part, key in {'state_dict': 'layer.weight', 'ema_state_dict': 'module.layer.weight'}.items():
        content[part][key] = torch.zeros(3, 4)
    torch.save(content, tmp_path / 'wider.pth')
    with pytest.raises(ValueError, match=r'cannot resume.*layer\.weight.*\[3, 4\]'):
        run(tmp_path, lambda c: c['custom_hooks'].extend(ema), tmp_path / 'wider.pth')


def test_the_flexible_runner_refuses_too(tmp_path):
    train(tmp_path, epochs=2, stop=6, kind=FlexibleRunner)
    content = torch.load(tmp_path / 'epoch_1.pth', weights_only=True)
    EDITS['state wider'][0](content)
    torch.save(content, tmp_path / 'epoch_1.pth')
    with pytest.raises(ValueError, match=r'exp_avg'):
        train(tmp_path, epochs=2, resume=tmp_path / 'epoch_1.pth', kind=FlexibleRunner)


def run(folder, change=None, resume=None, stop=None, **options):
    config = toy_config(folder, epochs=2, **options)
    config['custom_hooks'] = [{'type': 'Interrupt', 'iteration': stop}]
    (change or (lambda c: None))(config)
    runner = Runner.from_cfg(Config({**config, 'resume': resume is not None, 'load_from': resume and str(resume)}))
    with contextlib.suppress(Interrupted):
        runner.train()
    return runner


CHANGES = {
    'train_dataloader.batch_size': lambda c: c['train_dataloader'].update(batch_size=2),
    'train_dataloader.sampler.shuffle': lambda c: c['train_dataloader']['sampler'].update(shuffle=False),
    'optim_wrapper.accumulative_counts': lambda c: c['optim_wrapper'].update(accumulative_counts=2),
    'randomness.seed': lambda c: c['randomness'].update(seed=6),
    'custom_hooks.train.0.type': lambda c: c['custom_hooks'].append({'type': 'EMAHook'}),
}


@pytest.fixture(scope='module')
def stopped(tmp_path_factory):
    folder = tmp_path_factory.mktemp('stopped')
    run(folder, stop=6)
    return folder / 'epoch_1.pth'


@pytest.mark.parametrize('name', CHANGES)
def test_another_config_is_refused_unless_changes_are_allowed(stopped, tmp_path, name):
    with pytest.raises(ValueError, match=rf'{re.escape(name)} is .*, not .*allow_changes=True'):
        run(tmp_path / 'refused', CHANGES[name], stopped)
    options = {'allow_changes': True, 'keep_schedule': 'batch' in name}
    assert run(tmp_path / 'allowed', CHANGES[name], stopped, **options).epoch == 2


def harmless(config):
    config['train_dataloader'].update(num_workers=1, dataset={'type': 'ToyData', 'size': 13})
    config['log_level'] = 'INFO'
    config['optim_wrapper']['clip_grad'] = {'max_norm': 100.0}


def test_a_config_that_changes_no_number_is_accepted_and_named_in_the_log(tmp_path):
    def complete(config):
        config['train_dataloader']['dataset']['size'] = 13

    run(tmp_path, complete, stop=6)
    run(tmp_path, harmless, tmp_path / 'epoch_1.pth')
    log = ''.join(path.read_text() for path in tmp_path.glob('*/*.log'))
    assert 'train_dataloader.num_workers is 1, not 0' in log
    assert 'optim_wrapper.clip_grad.max_norm is 100.0, not None' in log


def test_checkpoints_of_earlier_versions_are_accepted(stopped, tmp_path):
    content = torch.load(stopped, weights_only=True)
    del content['meta']['numerics'], content['meta']['train_files']
    torch.save(content, tmp_path / 'epoch_1.pth')
    assert run(tmp_path / 'run', CHANGES['train_dataloader.sampler.shuffle'], tmp_path / 'epoch_1.pth').epoch == 2


@pytest.mark.parametrize(
    ('now', 'before', 'serious'),
    [
        ({'model': {'a': (1, 2)}}, {'model': {'a': [1, 2]}}, []),
        ({'model': {'norm_cfg': {'type': 'BN'}}}, {'model': {'norm_cfg': {'type': 'SyncBN'}}}, []),
        ({'model': {'init_cfg': {'checkpoint': 'a.pth'}}}, {'model': {'init_cfg': {'checkpoint': 'b.pth'}}}, []),
        (
            {'train_dataloader': {'dataset': {'data_root': 'a'}}},
            {'train_dataloader': {'dataset': {'data_root': 'b'}}},
            [],
        ),
        ({'optim_wrapper': {'type': 'A'}}, {'optim_wrapper': {'type': 'B'}}, ['optim_wrapper.type is A, not B']),
        ({'model': {'norm_pix': True}}, {'model': {'norm_pix': False}}, ['model.norm_pix is True, not False']),
        ({'model': {'x': 1}}, {'model': {'x': 1, 'heads': 3}}, ['model.heads is None, not 3']),
        ({'param_scheduler': [{'end': 3}]}, {'param_scheduler': [{'end': 2}]}, ['param_scheduler.0.end is 3, not 2']),
    ],
)
def test_which_changes_are_serious(now, before, serious):
    assert compare_configs(now, before)[0] == serious
    assert compare_configs(now, before, new_schedule=True)[0] == [line for line in serious if 'scheduler' not in line]


def test_other_rounding_is_named(stopped, tmp_path, monkeypatch):
    threads = torch.get_num_threads()
    monkeypatch.setattr('torch.get_num_threads', lambda: 77)
    run(tmp_path, resume=stopped)
    assert f'other rounding: threads is 77, not {threads}' in next(tmp_path.glob('*/*.log')).read_text()


@DATASETS.register_module()
class ToyFiles(ToyData):
    """ToyData of files that nobody reads."""

    def __init__(self, data_root):
        self.data_root = data_root
        self.data_list = [{'img_path': str(path)} for path in sorted(Path(data_root).glob('*.jpg'))]
        super().__init__(len(self.data_list))


def test_changed_files_are_named_before_the_schedule_is_compared(tmp_path):
    images = tmp_path / 'images'
    images.mkdir()
    for number in range(13):
        (images / f'{number:02d}.jpg').touch()

    def use(config):
        config['train_dataloader']['dataset'] = {'type': 'ToyFiles', 'data_root': str(images)}

    run(tmp_path / 'run', use, stop=6)
    images = moved = images.rename(tmp_path / 'moved')
    assert run(tmp_path / 'same', use, tmp_path / 'run' / 'epoch_1.pth').epoch == 2
    for number in range(3, 11):
        (moved / f'{number:02d}.jpg').unlink()
    (moved / '00.jpg').write_text('longer')
    (moved / 'new.jpg').touch()
    with pytest.raises(ValueError, match=r'files have changed: 8 fewer: 03.jpg.*; 1 new: new.jpg; 1 changed: 00.jpg'):
        run(tmp_path / 'run', use, tmp_path / 'run' / 'epoch_1.pth')
    allowed = {'allow_changes': True, 'keep_schedule': True}
    assert run(tmp_path / 'allowed', use, tmp_path / 'run' / 'epoch_1.pth', **allowed).epoch == 2


def test_lists_of_files(tmp_path):
    class Files(BaseDataset):
        def load_data_list(self):
            return [{'img_path': str(path)} for path in sorted(tmp_path.glob('images/*'))]

    (tmp_path / 'images').mkdir()
    for name in ('a b.jpg', 'ü.jpg'):
        (tmp_path / 'images' / name).write_text(name)
    for serialize in (True, False):
        dataset = Files(data_root=str(tmp_path), serialize_data=serialize)
        assert list_files(dataset) == ['7 images/a b.jpg', '6 images/ü.jpg']
    lines = list_files(dataset)
    write_list(lines, tmp_path)
    assert gzip.decompress((tmp_path / 'train_files.txt.gz').read_bytes()).decode().split('\n') == lines
    assert describe_change(lines, fingerprint(lines), tmp_path) is None
    assert describe_change(lines[::-1], fingerprint(lines), tmp_path) == 'the files have another order'
    (tmp_path / 'train_files.txt.gz').write_bytes(b'damaged')
    assert describe_change(lines[1:], fingerprint(lines), tmp_path).startswith('there are 1 files, not 2')
    digits = InMemoryDataset({'type': 'Digits', 'split': 'test'}, device='cpu')
    before = copy.copy(list_files(digits))
    digits.images[0, 0, 0, 0] += 1
    assert before[0].endswith(' 360 images in memory')
    assert list_files(digits) != before


@pytest.mark.parametrize(('epochs', 'longer'), [(5, True), (2, False)])
def test_the_refusal_names_what_works(half, tmp_path, epochs, longer):
    """Another number of epochs, or another schedule."""
    config = toy_config(tmp_path, epochs=epochs)
    config['param_scheduler'][0]['T_max'] = 7
    with pytest.raises(ValueError, match='load_from') as refused:
        Runner.from_cfg(Config({**config, 'resume': True, 'load_from': str(half)})).train()
    assert ('--extend-to 5' in str(refused.value)) == longer
    assert len(str(refused.value).splitlines()) == 2


@pytest.mark.slow
def test_extend_to(tmp_path, run_tool):
    """The rate rises from its last value to the longer schedule; interrupted meanwhile, the run ends the same."""

    def config(epochs, folder, stop=None):
        content = toy_config(tmp_path / folder, epochs=epochs)
        content['custom_hooks'] = [{'type': 'Interrupt', 'iteration': stop}] if stop else []
        content['param_scheduler'][0].update(begin=0)
        content['train_dataloader']['dataset'].update(size=13)
        Config(content).dump(tmp_path / 'toy.py')
        return tmp_path / 'toy.py'

    def rates(folder, epochs):
        hub = torch.load(tmp_path / folder / f'epoch_{epochs}.pth', weights_only=True)['message_hub']
        return hub['log_scalars']['train/lr']['values'].tolist()

    longer = ('--no-check', '--extend-to', 42, '--cfg-options')
    run_tool('train.py', config(2, 'part'), '--no-check')
    shutil.copytree(tmp_path / 'part', tmp_path / 'again')
    run_tool('train.py', config(2, 'part'), *longer, 'experiment_name=longer')
    assert last_checkpoint(tmp_path / 'part').name == 'epoch_42.pth'
    whole = train(tmp_path / 'whole', epochs=42).message_hub.get_scalar('train/lr').data[0].tolist()
    part, last = rates('part', 42), rates('part', 2)[-1]
    assert part[8] < whole[8]
    assert part[8] == pytest.approx(last, rel=0.3)
    factors = [ours / theirs for ours, theirs in zip(part[8:16], whole[8:16], strict=True)]
    assert factors == pytest.approx(np.linspace(factors[0], 1, 8))  # a twentieth of 160 steps
    assert part[16:] == pytest.approx(whole[16:])

    with pytest.raises(Interrupted):
        run_tool('train.py', config(2, 'again', stop=14), *longer, 'experiment_name=broken')
    assert last_checkpoint(tmp_path / 'again').name == 'epoch_3.pth'
    run_tool('train.py', config(2, 'again'), *longer, 'experiment_name=again')
    assert rates('again', 42) == part
