"""The mask loss begins at log 2, whatever the number of classes; what has been trained is left as it is."""

from types import SimpleNamespace

import pytest
import torch
from detection.test_inputs import BOXES, check_training
from detection.tiny import make_batch, tiny_model

from randsac_mm.engine import SmallMaskLogitsHook


@pytest.mark.parametrize('classes', [1, 80])
def test_first_loss(classes):
    model = tiny_model(classes=classes)
    batch = make_batch(((48, 80), BOXES))
    for sample in batch['data_samples']:
        sample.gt_instances.labels %= classes
    model.init_weights()
    drawn = check_training(model, batch)['loss_mask']
    assert (drawn > 1.5) == (classes == 1), 'mmdet alone'
    SmallMaskLogitsHook().before_train(SimpleNamespace(model=model))
    assert 0.6 < check_training(model, batch)['loss_mask'] < 1.1


def test_trained_weights_stay():
    model = tiny_model()
    layer = model.roi_head.mask_head.conv_logits
    torch.nn.init.constant_(layer.bias, 0.1)
    before = layer.weight.clone()
    SmallMaskLogitsHook().before_train(SimpleNamespace(model=model))
    assert torch.equal(layer.weight, before)
