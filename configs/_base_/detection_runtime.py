# What every detection run has in common.
_base_ = './default_runtime.py'

default_scope = 'mmdet'
default_hooks = dict(
    visualization=dict(type='DetVisualizationHook'),
    # Masks of one class begin with the loss of many; mmdet draws larger weights the fewer classes there are.
    mask_logits=dict(type='SmallMaskLogitsHook'),
)
visualizer = dict(_delete_=True, type='DetLocalVisualizer', vis_backends=[dict(type='LocalVisBackend')])
