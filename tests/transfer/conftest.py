"""Shared by the tests of randsac_mm.transfer: one checkpoint of a real pre-training run."""

import pytest
from mmengine.registry import DefaultScope


@pytest.fixture(scope='session')
def pretrained(tmp_path_factory):
    """The checkpoint of two steps of pre-training with our hook, and the model's state dict."""
    from transfer.three_models import pretrain

    checkpoint = pretrain(tmp_path_factory.mktemp('pretrained'), 'ResumableCheckpointHook')
    DefaultScope._instance_dict.clear()
    return checkpoint
