"""Contract: any image is predicted at its own size; a batch may mix sizes; unlabelled pixels teach nothing."""

import pytest
import torch
from segmentation.tiny import make_batch, tiny_model

SIZES = [(50, 71), (48, 48), (33, 200), (16, 17), (5, 97)]


def forward_losses(model, data):
    data = model.data_preprocessor(data, training=True)
    return {key: value for key, value in model.loss(**data).items() if 'loss' in key}


@pytest.mark.parametrize('patch_size', [8, 14, 16])
@pytest.mark.parametrize('mode', ['slide', 'whole'])
def test_every_size_is_predicted_at_its_own_size(patch_size, mode):
    model = tiny_model(patch_size, test_cfg=dict(mode=mode)).eval()
    for size in SIZES:
        [sample] = model.test_step(make_batch(size))
        assert sample.pred_sem_seg.data.shape == (1, *size)
        assert sample.seg_logits.data.shape == (7, *size)
        assert torch.isfinite(sample.seg_logits.data).all()


def test_padding_is_cut_back_to_the_image():
    model = tiny_model(test_cfg=dict(mode='whole')).eval()
    data = make_batch((50, 71))
    image = (data['inputs'][0].flip(0) - model.data_preprocessor.mean) / model.data_preprocessor.std
    padded = torch.nn.functional.pad(image, (0, 1, 0, 6))  # to 56 x 72; after normalisation, so that 0 is mean colour
    with torch.no_grad():
        small = model.decode_head(model.extract_feat(padded[None]))
    assert small.shape == (1, 7, 14, 18)
    expected = torch.nn.functional.interpolate(small, (56, 72), mode='bilinear')[0, :, :50, :71]
    [sample] = model.test_step(data)
    torch.testing.assert_close(sample.seg_logits.data, expected)


def test_one_window_equals_the_whole_image():
    """An image that is shorter than the window on one side, or on both, is taken whole."""
    model = tiny_model().eval()
    data = make_batch((20, 43))
    torch.manual_seed(0)
    slide = model.test_step(data)[0].seg_logits.data.clone()
    model.test_cfg.mode = 'whole'
    whole = model.test_step(data)[0].seg_logits.data
    torch.testing.assert_close(slide, whole)


def test_windows_cover_a_long_image():
    """Pixels far apart lie in no common window: a change at one end leaves the other end as it was."""
    model = tiny_model().eval()
    data = make_batch((48, 150))
    before = model.test_step(data)[0].seg_logits.data.clone()
    data['inputs'][0][:, :, :10] = 255 - data['inputs'][0][:, :, :10]
    after = model.test_step(data)[0].seg_logits.data
    assert not torch.allclose(before[..., :48], after[..., :48])
    assert torch.equal(before[..., 60:], after[..., 60:])
    model.test_cfg.mode = 'whole'
    assert not torch.allclose(model.test_step(data)[0].seg_logits.data[..., 60:], after[..., 60:])


@pytest.mark.parametrize('patch_size', [8, 14, 16])
def test_mixed_sizes_train_in_one_batch(patch_size):
    model = tiny_model(patch_size).train()
    side = model.data_preprocessor.size[0]
    data = model.data_preprocessor(make_batch((side, side), (31, 47), (13, 7)), training=True)
    assert data['inputs'].shape == (3, 3, side, side)
    labels = data['data_samples'][2].gt_sem_seg.data
    assert labels.shape == (1, side, side)
    assert (labels == 255).sum() == side**2 - 13 * 7
    assert (data['inputs'][2, :, 13:] == 0).all()
    sum(value for key, value in model.loss(**data).items() if 'loss' in key).backward()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert torch.isfinite(parameter.grad).all(), name
            assert parameter.grad.abs().sum() > 0, name


def test_image_without_labels_gives_no_loss_and_no_gradient():
    model = tiny_model().train()
    data = make_batch((48, 48), (40, 30), label=255)
    found = forward_losses(model, data)
    assert found == {'decode.loss_ce': 0, 'aux.loss_ce': 0}
    sum(found.values()).backward()
    grads = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    assert grads
    assert not any(grad.any() for grad in grads)


def test_one_unlabelled_image_does_not_spoil_the_batch():
    model = tiny_model().train()
    data = make_batch((48, 48), (48, 48))
    data['data_samples'][1].gt_sem_seg.data.fill_(255)
    found = forward_losses(model, data)
    assert all(torch.isfinite(value) and value > 0 for value in found.values())


def test_it_learns():
    """Twenty steps on one batch of coloured halves at least halve the loss."""
    norm = dict(norm_cfg=dict(_delete_=True, type='GN', num_groups=4))
    model = tiny_model(classes=3, neck=norm, decode_head=norm, auxiliary_head=norm).train()
    data = make_batch((48, 48), (48, 48))
    for image, sample in zip(data['inputs'], data['data_samples'], strict=True):
        image[0], image[1:] = 200, 20
        image[1, :, 24:] = 220
        sample.gt_sem_seg.data.zero_()
        sample.gt_sem_seg.data[..., 24:] = 2
    optimizer = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=1e-2)
    seen = []
    for _ in range(20):
        optimizer.zero_grad()
        loss = sum(forward_losses(model, data).values())
        loss.backward()
        optimizer.step()
        seen.append(loss.item())
    assert seen[-1] < 0.5 * seen[0], seen
