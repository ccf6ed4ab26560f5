"""The loss by rank is the model's loss in parts: each against a slow loop, together against the loss itself."""

import json
import statistics

import pytest
import torch
from builders import ARCHITECTURES, PARTITIONS, build, config, images
from visualization.checks import check_picture

from randsac_mm.visualization import draw_loss_by_rank, rank_loss, serialize
from randsac_mm.visualization.rank_loss import loss_by_rank


def make(partition, architecture, norm_pix):
    model = build(config(PARTITIONS[partition], ARCHITECTURES[architecture], norm_pix=norm_pix))
    return model, images(batch_size=5)


def slow(model, inputs, seed):
    """Collect (image, rank, error) of every predicted token, one by one."""
    grid = model.backbone.grid(*inputs.shape[2:])
    ranks = serialize(model.data_preprocessor.serialization, 2 * len(inputs), grid, seed)[0]
    found = []
    for draw, rank in enumerate(ranks):
        image = draw % len(inputs)
        with torch.no_grad():
            pred = model.eval().reconstruct(inputs[image : image + 1], rank[None]).pred[0]
            target = model.head.target(inputs[image : image + 1])[0]
        for n, r in enumerate(rank.tolist()):
            if r:
                found.append((image, r, (pred[n] - target[n]).square().mean().item()))
    return ranks, found


def check(tally, found):
    """Compare a tally with single errors (image, group, error)."""
    for i, group in enumerate(tally['rank']):
        mine = [(image, error) for image, of, error in found if of == group]
        mean = statistics.fmean(error for _, error in mine)
        deviations = dict.fromkeys((image for image, _ in mine), 0)
        for image, error in mine:
            deviations[image] += error - mean
        n = len(deviations)
        assert (tally['tokens'][i], tally['images'][i]) == (len(mine), n)
        assert tally['mse'][i] == pytest.approx(mean, rel=1e-4)
        spread = sum(deviation**2 for deviation in deviations.values())
        error = None if n == 1 else pytest.approx((spread * n / (n - 1)) ** 0.5 / len(mine), rel=1e-3, abs=1e-9)
        assert tally['standard_error'][i] == error
    assert sum(tally['tokens']) == len(found), 'every predicted token is in one group'


@pytest.mark.parametrize('norm_pix', [True, False])
@pytest.mark.parametrize(('partition', 'architecture'), [('square-hierarchical', 'skip'), ('blob-flat', 'two-stream')])
def test_against_a_slow_loop_and_the_loss_itself(monkeypatch, partition, architecture, norm_pix):
    monkeypatch.setattr(rank_loss, '_BATCH', 2)
    model, inputs = make(partition, architecture, norm_pix)
    result = loss_by_rank(model.train(), inputs, seed=3)
    assert model.training
    ranks, found = slow(model, inputs, 3)
    check(result['by_rank'], found)
    check(result['overall'], [(image, 0, error) for image, _, error in found])
    assert result['by_rank']['rank'][0] == 1, 'rank 0 is never predicted'
    loss = model.loss(inputs.repeat(2, 1, 1, 1), rank=ranks)['loss'].item()
    assert result['overall']['mse'][0] == pytest.approx(loss, rel=1e-4)
    zero = model.head.target(inputs).square().mean(-1).repeat(2, 1)
    assert result['of_zero'] == pytest.approx(zero[ranks > 0].mean().item(), rel=1e-4)
    assert result['norm_pix'] == norm_pix


@pytest.mark.parametrize('count', [1, 3])
def test_picture_and_plain_values(tmp_path, count):
    model, inputs = make('blob-flat', 'skip', True)
    result = draw_loss_by_rank(model, inputs[:count], tmp_path / 'r.png', seed=3)
    assert result == {**loss_by_rank(model, inputs[:count], seed=3), 'note': result['note']}
    check_picture(tmp_path / 'r.png', least=(800, 300))
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    assert (result['overall']['standard_error'] == [None]) == (count == 1)
