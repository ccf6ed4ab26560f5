# The two-stream baseline on the digits, scattered segments: seconds on a CPU.
#
# Command:  python tools/train.py configs/smoke/two-stream_vit_digits.py
# Cost:     a few seconds
# Expected: it runs; 10 steps teach nothing
_base_ = './randsac_vit_digits.py'

model = dict(
    type='TwoStreamRandSAC',
    neck=None,
    data_preprocessor=dict(
        serialization=dict(
            partition=dict(_delete_=True, type='ShuffledPartition', partition=dict(type='SquarePartition', hierarchy=4))
        )
    ),
)
