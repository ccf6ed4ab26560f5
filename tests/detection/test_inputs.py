"""What real data bring along: any size, sizes mixed in a batch, boxes of a pixel, nothing to detect, nothing found.

A tiny Mask R-CNN must have finite losses, a gradient to every trainable parameter (or several processes would hang),
and boxes and masks inside the original image.
"""

import pytest
import torch
from detection.tiny import make_batch, tiny_model

from randsac_mm.engine import AutocastOptimWrapper

BOXES = [(4.0, 6.0, 40.0, 30.0), (20.0, 3.0, 33.0, 44.0)]


def check_training(model: torch.nn.Module, batch: dict) -> dict[str, torch.Tensor]:
    """Return the losses of a training step, after a check that they and all gradients are finite."""
    model.train()
    model.zero_grad()
    data = model.data_preprocessor(batch, True)
    total, log = model.parse_losses(model(**data, mode='loss'))
    total.backward()
    assert all(torch.isfinite(value) for value in log.values()), log
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, f'{name} has no gradient'
            assert torch.isfinite(parameter.grad).all(), name
    return log


def check_prediction(model: torch.nn.Module, batch: dict) -> list:
    sizes = [tuple(image.shape[1:]) for image in batch['inputs']]
    model.eval()
    with torch.no_grad():
        results = model.test_step(batch)
    for (height, width), sample in zip(sizes, results, strict=True):
        found = sample.pred_instances
        assert found.masks.shape == (len(found), height, width)
        if len(found):
            x1, y1, x2, y2 = found.bboxes.unbind(1)
            assert min(x1.min(), y1.min()) >= 0
            assert x2.max() <= width
            assert y2.max() <= height
    return results


@pytest.mark.slow
@pytest.mark.parametrize('size', [(48, 80), (80, 48)])
@pytest.mark.parametrize(('patch_size', 'divisor'), [(8, 8), (8, 32), (14, 14), (14, 56), (16, 16), (16, 32)], ids=str)
def test_patch_sizes(patch_size, divisor, size):
    """A multiple of the patch size is all that padding must reach; the pyramid's sizes are rounded up."""
    model = tiny_model(patch_size, divisor)
    log = check_training(model, make_batch((size, BOXES)))
    assert log['loss_mask'] > 0
    assert any(len(sample.pred_instances) for sample in check_prediction(model, make_batch((size, []))))


def test_mixed_sizes_in_a_batch():
    model = tiny_model()
    images = [((37, 61), BOXES), ((80, 48), BOXES[:1]), ((33, 97), BOXES), ((64, 64), [])]
    check_training(model, make_batch(*images))
    assert len(check_prediction(model, make_batch(*images))) == 4


def test_padding_that_patches_do_not_divide_is_explained():
    model = tiny_model(14, 32)
    with pytest.raises(ValueError, match=r'64 x 96.*14'):
        check_training(model, make_batch(((48, 80), BOXES)))


def test_boxes_of_one_pixel_and_less():
    model = tiny_model()
    boxes = [(10.0, 10.0, 11.0, 11.0), (0.0, 0.0, 1.0, 1.0), (79.0, 47.0, 80.0, 48.0), (30.2, 20.2, 30.5, 20.5)]
    log = check_training(model, make_batch(((48, 80), boxes)))
    assert log['loss_bbox'] > 0, 'they are found as regions, or nothing could be learned from them'
    assert log['loss_mask'] > 0


def test_training_on_images_without_instances():
    model = tiny_model()
    log = check_training(model, make_batch(((48, 80), []), ((37, 61), [])))
    assert log['loss_mask'] == log['loss_bbox'] == log['loss_rpn_bbox'] == 0
    assert log['loss_rpn_cls'] > 0


def test_prediction_with_nothing_found():
    model = tiny_model()
    model.roi_head.test_cfg.score_thr = 1.1
    for sample in check_prediction(model, make_batch(((48, 80), []), ((37, 61), BOXES))):
        assert len(sample.pred_instances) == 0


@pytest.mark.usefixtures('has_bfloat16')
def test_bfloat16_works_in_named_parts_and_not_around_everything():
    """Why the recipes name modules. If the second half fails, mmcv knows bfloat16 and they need not."""
    model = tiny_model().train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    modules = ['backbone', 'neck', 'rpn_head', 'roi_head.bbox_head', 'roi_head.mask_head']
    log = model.train_step(make_batch(((48, 80), [])), AutocastOptimWrapper(modules=modules, optimizer=optimizer))
    assert log['loss_mask'] == 0
    assert all(torch.isfinite(parameter).all() for parameter in model.parameters())
    with pytest.raises(RuntimeError, match='BFloat16'):
        model.train_step(make_batch(((48, 80), BOXES)), AutocastOptimWrapper(optimizer=optimizer))


def test_pyramid_for_patches_of_14_keeps_its_places_in_bfloat16():
    pyramid = tiny_model(14, 14).neck[0].eval()
    ramp = torch.linspace(-1, 1, 75).expand(1, 32, 5, 75).contiguous()
    exact = pyramid([ramp] * 4)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        rough = pyramid([ramp.bfloat16()] * 4)
    for a, b in zip(exact, rough, strict=True):
        assert (a - b.float()).abs().max() < 0.02 * a.abs().max()
