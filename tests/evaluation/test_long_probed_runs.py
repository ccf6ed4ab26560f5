"""Contract: the curve rises while features get better, TensorBoard shows it, and two processes write the same one."""

import copy
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from evaluation.probed_runs import PROBE, RANDSAC, log, run_config
from mmengine.runner import Runner

TESTS = Path(__file__).resolve().parents[1]
pytestmark = pytest.mark.slow


def test_curve_rises(tmp_path):
    dims = 32
    model = copy.deepcopy(RANDSAC)
    arch = dict(embed_dims=dims, num_layers=2, num_heads=4, feedforward_channels=4 * dims)
    model['backbone'].update(arch=arch, drop_path_rate=0.0)
    model['neck'].update(embed_dims=dims, num_heads=4, encoder_dims=dims)
    model['head'].update(embed_dims=dims)
    probe = dict(PROBE, judges=('knn',), interval=10, max_train=None, max_test=None, k=20)
    config = run_config(tmp_path, probe, model=model, epochs=30)
    data = dict(batch_size=64, drop_last=True, dataset=dict(type='Digits', split='train', with_label=False))
    config['train_dataloader'].update(data)
    config['default_hooks'].update(logger=dict(type='LoggerHook', interval=22), checkpoint=None)
    runner = Runner(**config)
    runner.train()
    curve = {entry['step']: entry['probe/knn'] for entry in log(runner)}
    assert list(curve) == [0, 220, 440, 660]
    assert curve[660] > curve[440] > curve[0]
    assert curve[660] > curve[0] + 10


def test_tensorboard_shows_it(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    config = run_config(tmp_path, PROBE, epochs=1)
    config['visualizer'] = dict(type='Visualizer', vis_backends=[dict(type='TensorboardVisBackend')])
    runner = Runner(**config)
    runner.train()
    events = EventAccumulator(str(Path(runner.log_dir, 'vis_data')))
    events.Reload()
    for key in ('probe/knn', 'probe/linear', 'probe/seconds'):
        assert [event.step for event in events.Scalars(key)] == [0, 4]
    assert events.Scalars('loss')[-1].step == 4
    last = runner.message_hub.get_scalar('probe/knn').current()
    assert events.Scalars('probe/knn')[-1].value == pytest.approx(last)


SCRIPT = """
import json, sys
from mmengine.config import Config
from mmengine.dist import get_rank
from randsac_mm.engine.distributed import leave_process_group, prepare_cpu_processes
from evaluation.probed_runs import PROBE, Runner, log, run_config
from randsac_mm.evaluation.online_probe import run_on_all_ranks

cfg = Config(dict(run_config(sys.argv[1], PROBE, epochs=1), launcher='pytorch'))
cfg.train_dataloader.batch_size = 45
prepare_cpu_processes(cfg)
rank = get_rank()

def fail_on(which):
    if rank == which:
        raise OSError(f'disk of rank {rank}')
    return rank

messages = []
for which in (1, 0, None):
    try:
        messages.append(run_on_all_ranks(lambda: fail_on(which)))
    except (OSError, RuntimeError) as error:
        messages.append(str(error))
runner = Runner.from_cfg(cfg)
runner.train()
hub = runner.message_hub
result = [messages, hub.get_scalar('probe/knn').data[0].tolist(), hub.get_info('probe_step')]
print('RESULT', json.dumps(result), flush=True)
leave_process_group()
"""


def test_two_processes_evaluate_as_one_and_fail_together(tmp_path):
    alone = Runner(**run_config(tmp_path / 'alone', PROBE, epochs=1))
    alone.train()
    environment = {
        **os.environ,
        'PYTHONPATH': os.pathsep.join([str(TESTS.parent), str(TESTS), os.environ.get('PYTHONPATH', '')]),
        'MASTER_ADDR': '127.0.0.1',
        'MASTER_PORT': str(20000 + (os.getpid() + 2) % 10000),
        'OMP_NUM_THREADS': '1',
        'WORLD_SIZE': '2',
    }
    command = [sys.executable, '-c', SCRIPT, str(tmp_path / 'two')]
    processes = [
        subprocess.Popen(
            command,
            env={**environment, 'RANK': str(rank), 'LOCAL_RANK': str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        outputs = [process.communicate(timeout=240)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], outputs[0][-3000:] + outputs[1][-3000:]
    results = [json.loads(out.partition('RESULT')[2].splitlines()[0]) for out in outputs]
    (first, curve, step), (second, other_curve, other_step) = results
    assert first == ['failed on rank 1: OSError: disk of rank 1', 'disk of rank 0', [0, 1]]
    assert second == ['disk of rank 1', 'failed on rank 0: OSError: disk of rank 0', [0, 1]]
    assert (curve, step) == (other_curve, other_step)
    assert step == 4
    # The untrained encoder is that of rank 0, whose seed is that of a single process.
    assert curve[0] == log(alone)[0]['probe/knn']
    (scalars,) = (tmp_path / 'two').glob('*/vis_data/scalars.json')
    entries = [json.loads(line) for line in scalars.read_text().splitlines()]
    assert [entry['probe/knn'] for entry in entries if 'probe/knn' in entry] == curve, 'only the first process writes'
