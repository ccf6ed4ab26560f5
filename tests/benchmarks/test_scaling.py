"""Predictions of cost: the closed form by parts, processes, the paper model, each by numbers worked by hand."""

import json
import math
import sys
from types import SimpleNamespace

import pytest
import torch

H = 3600


def machine(cost, **changes):
    values = dict(
        rate=1e15, utilisation=0.5, memory=1e12, per_node=8, nvlink=4e11, network=1e11, delays=(0.0, 0.0), overlap=0.5,
        launch=0.0, bucket=1e6,
    )  # fmt: skip
    return cost.Machine(**{**values, **changes})


def run(cost, **changes):
    return cost.Run(**{**dict(multiply_adds=1e10, parameters=1e8, batch=1024, epochs=3, gradient_bytes=4), **changes})


def test_ring_all_reduce(bench):
    cost = bench('cost')
    assert cost.all_reduce_seconds(1, 4e8, machine(cost)) == 0
    assert cost.all_reduce_seconds(8, 4e8, machine(cost)) == pytest.approx(2 * 7 / 8 * 4e8 / 4e11)
    assert cost.all_reduce_seconds(16, 4e8, machine(cost)) == pytest.approx(2 * 15 / 16 * 4e8 / 1e11)
    # 400 buckets; 14 hops among 8 GPUs, and a tree over 4 machines up and down.
    slow = machine(cost, delays=(1e-6, 1e-5))
    extra = cost.all_reduce_seconds(32, 4e8, slow) - cost.all_reduce_seconds(32, 4e8, machine(cost))
    assert extra == pytest.approx(400 * (14e-6 + 2 * 2 * 1e-5))


def test_step_by_hand(bench):
    cost = bench('cost')
    step = cost.step(16, run(cost, images=10_240), machine(cost))
    assert step.compute == pytest.approx(6 * 1e10 * 64 / 5e14)  # 7.68 ms
    assert step.update == pytest.approx(28 * 1e8 / 1e12)  # 2.8 ms
    assert step.reduce == pytest.approx(7.5e-3)
    assert step.exposed == pytest.approx(7.5e-3 - 0.5 * 7.68e-3 * 2 / 3)
    assert step.total == pytest.approx(7.68e-3 + 2.8e-3 + step.exposed)
    assert step.hours == pytest.approx(3 * 10 * step.total / H)
    assert step.gpu_hours == pytest.approx(16 * step.hours)
    assert step.images_per_node == pytest.approx(512 / step.total)


def test_last_bucket_is_never_hidden_and_kernels_must_be_launched(bench):
    cost = bench('cost')
    hidden = cost.step(2, run(cost), machine(cost, overlap=1.0))
    assert hidden.exposed == pytest.approx(hidden.reduce / 400)
    assert hidden.images_per_node == pytest.approx(1024 / hidden.total)  # two GPUs of one machine
    waiting = cost.step(2, run(cost), machine(cost, overlap=1.0, launch=1.0))
    assert waiting.total == pytest.approx(1.0 + waiting.exposed)
    with pytest.raises(ValueError, match='3 GPUs cannot share a batch of 1024'):
        cost.step(3, run(cost), machine(cost))


def test_document_holds_what_the_command_prints(bench, root, tmp_path, capsys):
    cost = bench('cost')
    copy = tmp_path / 'scaling.md'
    original = (root / 'docs' / 'scaling.md').read_text()
    copy.write_text(original)
    cost.main(['--write', str(copy)])
    assert copy.read_text() == original, 'run python tools/benchmarks/cost.py --write docs/scaling.md'
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith('| 256')]
    assert len(rows) == 3
    (tmp_path / 'empty.md').write_text('nothing')
    with pytest.raises(ValueError, match='no lines <!-- cost -->'):
        cost.main(['--write', str(tmp_path / 'empty.md')])


@pytest.mark.slow
def test_defaults_of_the_paper_model_are_those_of_the_config(bench):
    from randsac_mm.complexity import complexity

    total = complexity(bench('step_models').build_model('vit-b_k9'))['total']
    args = bench('cost').parse_args([])
    assert args.multiply_adds == pytest.approx(total.executed / 1e9, abs=0.005)
    assert args.parameters == pytest.approx(total.parameters / 1e6, abs=0.005)


@pytest.mark.parametrize('options', [('--gpus', '3'), ('--utilisation', '1.5'), ('--network', '0')])
def test_bad_options(bench, capsys, options):
    with pytest.raises(SystemExit):
        bench('cost').parse_args([*options])
    assert options[0] in capsys.readouterr().err


def test_points(bench):
    scaling = bench('scaling')
    tokens = scaling.axis_points('tokens', 4, 2, 1)
    assert [p.value for p in tokens] == [64, 144, 256, 576, 1024]
    assert {p.batch * p.side**2 for p in tokens} == {9216}
    segments = scaling.axis_points('segments', 4, 2, 1)
    assert [p.side**2 - p.side**2 // p.squares for p in segments] == [108, 128, 135, 140, 143]
    assert [p.encoder for p in scaling.axis_points('depth', 4, 2, 1)] == [2, 4, 8, 12]
    for axis in scaling.AXES:
        for point in scaling.axis_points(axis, 4, 2, 1):
            model = scaling.build_point(point, 12, 2)
            assert math.prod(model.backbone.patch_resolution) == point.side**2
            assert (model.backbone.num_layers, model.neck.num_layers) == (point.encoder, point.decoder)


def test_predictions(bench):
    scaling = bench('scaling')
    points = [scaling.Point(64, 8, 4, 16, 2, 1), scaling.Point(256, 16, 1, 16, 2, 1)]
    works, predicted = [(900, 100), (900, 400)], [2.0, 6.0]
    rows = scaling.compare(points, works, predicted, [[3.0, 30.0, 3.0], [9.0, 90.0, 9.9]], [10, 10], [5, 5])
    assert [row['against_parts'] for row in rows] == pytest.approx([1, 1])
    assert rows[0]['against_operations'] == pytest.approx(1.3 / 3)
    assert scaling.verdict(rows)[0]
    for seconds in (11.0, 7.0):
        bad = scaling.compare(points, works, predicted, [[3.0], [seconds]], [10, 30], [5, 5])
        assert not scaling.verdict(bad)[0]
        assert scaling.verdict(bad)[1].startswith('FAIL')
    assert bad[0]['kept_against_proportional'] == pytest.approx(1 / 3)


def test_parts_by_hand(bench):
    scaling = bench('scaling_model')
    from randsac_mm.complexity import complexity

    model = scaling.build_point(scaling.Point(64, 8, 4, 16, 2, 1), 12, 2)
    tokens = 4 * 60  # 4 images
    parameters = complexity(model)['total'].parameters
    assert scaling.traffic(model, 4) == 12 * tokens * 12 * (2 * 18 + 23) + 28 * parameters
    # Two attentions of the encoder, two of the decoder; forward, and twice that backward, two operations each.
    assert scaling.attention_work(model, 4) == (4 * tokens * 12, 4 * 6 * 2 * tokens * 60 * 12)
    constants = dict(linear_rate=2.0, attention_number_seconds=3.0, attention_rate=5.0, traffic_rate=7.0)
    numbers, operations = scaling.attention_work(model, 4)
    parts = 3 * scaling.work(model, 4)[0] + 3 * numbers + operations / 5 + scaling.traffic(model, 4) / 7
    assert bench('scaling').predict(model, 4, constants) == pytest.approx(parts)


def test_time_of_attention_is_split(bench):
    costs = bench('scaling_model').attention_costs
    for each, operation in ((0.25, 0.5), (4.0, 0.125)):
        short, long = ((each * n + operation * o, n, o) for n, o in ((8, 16), (8, 256)))
        assert costs(short, long) == pytest.approx((each, operation))
    assert costs((1.0, 8, 16), (32.0, 8, 256)) == (0.0, 0.125)  # slower where long: all goes to the operations


def test_parts_can_be_measured(bench):
    scaling = bench('scaling_model')
    model = scaling.build_point(scaling.Point(64, 8, 4, 16, 2, 1), 12, 2)
    cpu = torch.device('cpu')
    assert 1e6 < scaling.traffic_rate(model, 4, cpu) < 1e14
    assert 1e6 < scaling.linear_rate(model, 4, cpu, torch.float32) < 1e14
    assert 1e-6 < scaling.attention_seconds(model, 4, cpu, torch.float32) < 10


@pytest.mark.slow
def test_scaling_as_a_script(bench, monkeypatch, tmp_path, capsys):
    options = ['--axes', 'segments', 'tokens', '--dims', '12', '--heads', '2', '--rounds', '5', '--variant', 'eager']
    scaling = bench('scaling')
    small = [scaling.Point(n * n, n, 64 // n**2, 4, 2, 1) for n in (4, 8)]
    monkeypatch.setattr(scaling, 'axis_points', lambda *_: small)
    monkeypatch.setattr(sys, 'argv', ['scaling.py', '--device', 'cpu', '--out', str(tmp_path), *options])
    with pytest.raises(SystemExit):
        scaling.main()
    report = json.loads((tmp_path / 'scaling.json').read_text())
    assert list(report['axes']) == ['segments', 'tokens']
    first, second = report['axes']['tokens']['points']
    assert second['against_parts'] == 1  # the middle one of two
    assert first['kept_against_proportional'] == pytest.approx(1, abs=0.25)
    assert report['verdict'][:4] in ('PASS', 'FAIL')
    assert report['verdict'] in capsys.readouterr().out


def test_efficiency_of_processes(bench):
    processes = bench('scaling_processes')
    rows = processes.efficiency({'one': 2.0, 'two apart': 2.5, 'two': 4.0}, 8)
    assert [row['images_per_second'] for row in rows] == [4.0, 6.4, 4.0]
    assert [row['efficiency'] for row in rows] == [1.0, 0.8, 0.5]
    assert '| two apart' in processes.processes_table(rows)


@pytest.mark.slow
def test_two_processes_really_run(bench, monkeypatch):
    processes = bench('scaling_processes')
    seconds = processes._run('two', 'tiny', 2, 2)
    assert len(seconds) == 2
    assert all(0 < value < 60 for value in seconds)
    done = SimpleNamespace(returncode=1, stdout='', stderr='a port is taken')
    monkeypatch.setattr(processes.subprocess, 'run', lambda *_, **__: done)
    with pytest.raises(RuntimeError, match=r'two: the processes ended with 1:\na port is taken'):
        processes._run('two', 'tiny', 2, 2)
