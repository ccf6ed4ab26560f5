"""A config of mmpretrain for an exported encoder."""

from randsac_mm.export.source import Source

_INIT = "        init_cfg=dict(type='Pretrained', checkpoint='{{{{ fileDirname }}}}/{file}'),\n"


def config_text(source: Source, file: str | None = None) -> str:
    """Write the config of a classifier without head around mmpretrain's own ``VisionTransformer``.

    Args:
        source: The encoder.
        file: The file with the weights, beside the config. None: the config names no weights.

    Returns:
        Python code that mmengine reads.
    """
    pooled = source.averaged_norm  # mmpretrain's 'avg_featmap' means: average, then a norm of its own
    neck = 'None' if pooled else "dict(type='GlobalAveragePooling')"
    to_rgb = source.in_channels == 3
    arch = ', '.join(f'{key}={value}' for key, value in source.arch.items())
    return (
        f'# The encoder of {source.path.name}, exported by randsac_mm. Add a head to train or test a classifier.\n'
        'model = dict(\n'
        "    type='ImageClassifier',\n"
        '    # For images in BGR, as mmcv loads them; for a data set in RGB, as CIFAR10, set to_rgb=False.\n'
        f'    data_preprocessor=dict(mean={list(source.mean)}, std={list(source.std)}, to_rgb={to_rgb}),\n'
        '    backbone=dict(\n'
        "        type='VisionTransformer',\n"
        f'        arch=dict({arch}),\n'
        f'        img_size={source.img_size},\n'
        f'        patch_size={source.patch_size},\n'
        f'        in_channels={source.in_channels},\n'
        f'        qkv_bias={source.qkv_bias},\n'
        "        norm_cfg=dict(type='LN', eps=1e-6),\n"
        f'        final_norm={source.final_norm},\n'
        '        with_cls_token=False,\n'
        f"        out_type='{'avg_featmap' if pooled else 'featmap'}',\n"
        f'{_INIT.format(file=file) if file else ""}'
        '    ),\n'
        f'    neck={neck},\n'
        '    head=None,\n'
        ')\n'
    )
