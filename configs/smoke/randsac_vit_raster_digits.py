# Raster order, the baseline, on the digits: seconds on a CPU.
#
# Command:  python tools/train.py configs/smoke/randsac_vit_raster_digits.py
# Cost:     a few seconds
# Expected: it runs; 10 steps teach nothing
_base_ = './randsac_vit_digits.py'

model = dict(
    data_preprocessor=dict(
        serialization=dict(_delete_=True, type='RasterSerialization', partition=dict(type='PatchPartition'))
    )
)
