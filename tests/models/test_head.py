"""Contract: patches in (row, column, channel) order; the error is averaged over tokens that have a predecessor."""

import pytest
import reference
import torch

from randsac_mm.models import RandSACHead

P, C, GRID = 3, 2, (4, 5)
N = GRID[0] * GRID[1]


def images(dtype=torch.float32):
    return torch.randn(2, C, GRID[0] * P, GRID[1] * P, dtype=dtype)


def head(**kwargs):
    return RandSACHead(**{'embed_dims': 7, 'patch_size': P, 'in_channels': C, **kwargs})


@pytest.mark.parametrize('patch_size', [1, 3])
@pytest.mark.parametrize('channels', [1, 2, 5])
def test_unpatchify_is_the_inverse(patch_size, channels):
    model = head(patch_size=patch_size, in_channels=channels, norm_pix=False)
    x = torch.randn(2, channels, 4 * patch_size, 7 * patch_size)
    assert torch.equal(model.unpatchify(model.patchify(x), (4, 7)), x)


@pytest.mark.parametrize('norm_pix', [True, False])
def test_target_against_loops(norm_pix):
    model, x = head(norm_pix=norm_pix), images(torch.float64)
    patches, target = model.patchify(x), model.target(x)
    for b in range(2):
        for n in range(N):
            assert torch.equal(patches[b, n], reference.flat_patch(x[b], n, P))
            torch.testing.assert_close(target[b, n], reference.target(x[b], n, P, norm_pix))
    if norm_pix:
        mean, std = model.patch_statistics(patches)
        torch.testing.assert_close(target * std + mean, patches)


def test_blank_patches_stay_finite():
    target = head().target(torch.full((1, C, P, P), 0.7))
    assert target.isfinite().all()
    assert target.abs().max() < 1e-3


@pytest.mark.parametrize('norm_pix', [True, False])
def test_loss_against_loops(norm_pix):
    model, x = head(norm_pix=norm_pix), images(torch.float64)
    target = torch.stack([torch.randperm(N)[:11] for _ in range(2)])
    predicted = torch.rand(2, 11) < 0.6
    pred = torch.randn(2, 11, P * P * C, dtype=torch.float64, requires_grad=True)
    vectors = [
        {int(n): v for n, v, counts in zip(target[b], pred[b], predicted[b], strict=True) if counts} for b in range(2)
    ]
    assert len(vectors[0]) != len(vectors[1])  # so that an average of averages would be another number
    expected = reference.loss(vectors, x, P, norm_pix)
    loss = model.loss(pred, x, target, predicted)
    assert loss.item() == pytest.approx(expected, rel=1e-12)
    loss.backward()
    assert torch.equal(pred.grad != 0, predicted[..., None].expand_as(pred))


def test_half_precision_predictions_are_compared_in_float32():
    model, x = head(), images()
    pred = torch.randn(2, N, P * P * C).bfloat16()
    arguments = torch.arange(N).expand(2, -1), torch.ones(2, N, dtype=torch.bool)
    loss = model.loss(pred, x, *arguments)
    assert loss.dtype == torch.float32
    assert torch.equal(loss, model.loss(pred.float(), x, *arguments))
    assert model.loss(pred, x.bfloat16(), *arguments).dtype == torch.float32


def test_norm_pix_of_a_single_number_is_refused():
    with pytest.raises(ValueError, match='1 x 1 x 1'):
        head(patch_size=1, in_channels=1)
    head(patch_size=1, in_channels=1, norm_pix=False)
    head(patch_size=1, in_channels=3)
