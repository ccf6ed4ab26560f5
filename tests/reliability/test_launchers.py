"""Signals, lost processes and requeueing under torchrun and slurm."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
import torch
from processes import ROOT, environment

CONFIG = ROOT / 'configs/randsac/vit_digits.py'


def launch(folder: Path, *options: object, **variables: str) -> subprocess.Popen:
    """Start a run of 4 epochs on two processes, each with its own seed; its output is appended to ``output.txt``."""
    folder.mkdir(exist_ok=True)
    command = ['bash', ROOT / 'tools/dist_train.sh', CONFIG, 2, '--work-dir', folder, '--epochs', 4, *options]
    command += ['--cfg-options', 'default_hooks.checkpoint.interval=2', 'default_hooks.logger.interval=1']
    command += ['randomness.diff_rank_seed=True']
    with open(folder / 'output.txt', 'ab') as output:
        return subprocess.Popen(
            list(map(str, command)), cwd=ROOT, env={**environment(), **variables}, stdout=output, stderr=output
        )


def wait_for(folder: Path, text: str, count: int = 1) -> None:
    """Wait until the output contains a text ``count`` times, whatever the number of spaces."""
    output = folder / 'output.txt'
    for _ in range(1200):
        if output.read_text(errors='replace').replace(' ', '').count(text.replace(' ', '')) >= count:
            return
        time.sleep(0.1)
    raise AssertionError(output.read_text()[-3000:])


def workers(launcher: subprocess.Popen) -> list[int]:
    """Return the two training processes of ``dist_train.sh``."""

    def children(process: int) -> list[int]:
        return list(map(int, Path(f'/proc/{process}/task/{process}/children').read_text().split()))

    (torchrun,) = children(launcher.pid)
    return children(torchrun)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_processes_survive_signals_and_a_loss(tmp_path):
    """SIGUSR1; the folder moves; one process is killed and torchrun starts both again; SIGTERM; then the end."""
    whole, run = tmp_path / 'whole', tmp_path / 'run'
    assert launch(whole).wait(300) == 0, (whole / 'output.txt').read_text()[-3000:]

    first = launch(tmp_path / 'begun', '--resume', 'auto')
    wait_for(tmp_path / 'begun', 'Epoch(train)   [1][ 5/11]')
    first.send_signal(signal.SIGUSR1)
    assert first.wait(60) == 0
    (tmp_path / 'begun').rename(run)
    assert 'so this is a new run from the start' in (run / 'output.txt').read_text()
    assert (run / 'interrupted.pth').exists()

    second = launch(run, '--resume', MAX_RESTARTS='1')
    wait_for(run, 'Epoch(train)   [3][ 3/11]')
    os.kill(workers(second)[1], signal.SIGKILL)
    wait_for(run, 'Epoch(train)   [3][ 8/11]')  # after the restart from epoch 2
    begin = time.monotonic()
    second.send_signal(signal.SIGTERM)
    assert second.wait(60) == 143
    print(f'two processes: {time.monotonic() - begin:.1f} s from SIGTERM to the end')
    assert torch.load(run / 'interrupted.pth', weights_only=True)['meta']['epoch'] == 2

    assert launch(run, '--resume').wait(300) == 0, (run / 'output.txt').read_text()[-3000:]
    expected, found = (torch.load(folder / 'epoch_4.pth', weights_only=True) for folder in (whole, run))
    for key in ('state_dict', 'optimizer'):
        torch.testing.assert_close(found[key], expected[key], rtol=0, atol=0)
    states = [[state['torch'] for state in content['meta']['random_states']] for content in (expected, found)]
    assert [len(processes) for processes in states] == [2, 2]
    assert all(map(torch.equal, *states))
    assert not torch.equal(*states[0])


@pytest.mark.parametrize(('name', 'status', 'requeued'), [('USR1', 0, True), ('TERM', 143, False), (None, 0, False)])
def test_slurm_job_is_requeued_when_its_time_is_up(tmp_path, name, status, requeued):
    """``srun`` is a script that ends like a training: 0 after SIGUSR1, 143 after SIGTERM, 0 at its end."""
    programs = {
        'srun': 'echo "$@" > called\ntrap "exit 0" USR1\ntrap "exit 143" TERM\ntouch started\n'
        f'for i in $(seq {50 if name else 2}); do sleep 0.1; done',
        'scontrol': 'echo "$@" > requeued',
    }
    for program, text in programs.items():
        path = tmp_path / program
        path.write_text(f'#!/usr/bin/env bash\n{text}\n')
        path.chmod(0o755)
    variables = {**os.environ, 'PATH': f'{tmp_path}:{os.environ["PATH"]}', 'SLURM_JOB_ID': '4321'}
    command = ['bash', str(ROOT / 'tools/slurm_train.sh'), 'gpu', 'name', 'config.py', 'work']
    job = subprocess.Popen(command, cwd=tmp_path, env=variables)
    while name and not (tmp_path / 'started').exists():
        time.sleep(0.05)
    if name:
        job.send_signal(getattr(signal, f'SIG{name}'))
    assert job.wait(20) == status
    assert 'train.py config.py --work-dir work --launcher slurm' in (tmp_path / 'called').read_text()
    assert (tmp_path / 'requeued').exists() == requeued
    if requeued:
        assert (tmp_path / 'requeued').read_text() == 'requeue 4321\n'
