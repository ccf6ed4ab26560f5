# default_runtime for long runs: the training step is compiled where that pays; it takes up to a minute at the start.
_base_ = './default_runtime.py'

default_hooks = dict(compile=dict(type='CompileHook'))
