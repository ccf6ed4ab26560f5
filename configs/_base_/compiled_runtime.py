# default_runtime for long runs: the training step is compiled, which takes a minute or two at the start.
_base_ = './default_runtime.py'

default_hooks = dict(compile=dict(type='CompileHook'))
