# Pre-training on the digits with the online probe: accuracies of the encoder beside the loss, seconds on a CPU.
#
# Command:  python tools/train.py configs/smoke/randsac_vit_probed_digits.py
# Cost:     a few seconds, of which the log says at the end how many were the probe's
# Expected: three lines "Online probe at iteration ..."; 10 steps teach nothing
_base_ = './randsac_vit_digits.py'

custom_hooks = [
    dict(
        type='OnlineProbeHook',
        train=dict(type='Digits', split='train'),
        test=dict(type='Digits', split='test'),
        interval=1,  # epochs
    )
]
