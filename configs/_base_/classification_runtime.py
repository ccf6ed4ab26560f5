# What supervised training, every linear probe and every fine-tuning have in common.
_base_ = './default_runtime.py'

default_hooks = dict(checkpoint=dict(interval=5))
val_cfg = dict()
test_cfg = dict()
val_evaluator = dict(type='Accuracy', topk=(1, 5))
test_evaluator = val_evaluator
