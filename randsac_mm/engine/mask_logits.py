"""Mask heads that start alike for any number of classes."""

import torch
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner

from randsac_mm.registry import register

_STD = 0.001  # as in Detectron2


@register('HOOKS', everywhere=True)
class SmallMaskLogitsHook(Hook):
    """Scale the random weights of mmdet's ``conv_logits`` down, so that every mask loss begins at log 2.

    mmdet draws them with a standard deviation of sqrt(2 / classes), which makes a loss of about 9 with one class. A
    layer whose biases are not zero has been trained, and is left as it is.
    """

    @torch.no_grad()
    def before_train(self, runner: Runner) -> None:
        """Scale the weights of the last layer of every mask head of ``runner.model``."""
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        for name, layer in model.named_modules():
            if name.rpartition('.')[2] == 'conv_logits' and not layer.bias.any():
                layer.weight.mul_(_STD / layer.weight.std())
