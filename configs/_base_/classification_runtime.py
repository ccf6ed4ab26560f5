# What every linear probe and fine-tuning has in common.
_base_ = './default_runtime.py'

default_hooks = dict(checkpoint=dict(interval=5))
