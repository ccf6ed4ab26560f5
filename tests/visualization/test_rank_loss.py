"""The loss by rank is the model's loss in parts: each against a slow loop, together against the loss itself."""

import json
import statistics

import pytest
import torch
from builders import ARCHITECTURES, PARTITIONS, build, config, images
from visualization.pictures import check_picture

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
        mine = [entry for entry in found if entry[1] == group]
        mean = statistics.fmean(entry[2] for entry in mine)
        assert tally['mse'][i] == pytest.approx(mean, rel=1e-4)
        assert tally['tokens'][i] == len(mine)
        of_image = {}
        for entry in mine:
            of_image.setdefault(entry[0], []).append(entry[2] - mean)
        assert tally['images'][i] == len(of_image)
        if len(of_image) == 1:
            assert tally['standard_error'][i] is None
        else:
            spread = sum(sum(deviations) ** 2 for deviations in of_image.values())
            error = (spread * len(of_image) / (len(of_image) - 1)) ** 0.5 / len(mine)
            assert tally['standard_error'][i] == pytest.approx(error, rel=1e-3, abs=1e-9)
    assert sum(tally['tokens']) == len(found), 'every predicted token is in one group'


@pytest.mark.parametrize(
    ('partition', 'architecture', 'norm_pix'),
    [
        ('square-hierarchical', 'skip', True),
        ('blob-hierarchical', 'transformer', False),
        ('blob-flat', 'two-stream', True),
    ],
)
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


def test_the_standard_error_of_equal_segments_is_the_usual_one():
    model, inputs = make('square-flat', 'skip', False)
    _, found = slow(model, inputs, 0)
    per_image = [statistics.fmean(e for image, r, e in found if (image, r) == (b, 2)) for b in range(5)]
    errors = loss_by_rank(model, inputs)['by_rank']['standard_error']
    assert errors[1] == pytest.approx(statistics.stdev(per_image) / 5**0.5, rel=1e-4)


@pytest.mark.parametrize('count', [1, 3])
def test_picture_and_plain_values(tmp_path, count):
    model, inputs = make('blob-flat', 'skip', True)
    result = draw_loss_by_rank(model, inputs[:count], tmp_path / 'r.png', seed=3)
    assert result == {**loss_by_rank(model, inputs[:count], seed=3), 'note': result['note']}
    check_picture(tmp_path / 'r.png', least=(800, 300))
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    assert (result['overall']['standard_error'] == [None]) == (count == 1)
