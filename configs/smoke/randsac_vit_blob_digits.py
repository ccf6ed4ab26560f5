# Blobs in a hierarchy on the digits, without skip connections, in bfloat16: seconds on a CPU.
#
# Command:  python tools/train.py configs/smoke/randsac_vit_blob_digits.py
# Cost:     a few seconds
# Expected: it runs; 10 steps teach nothing
_base_ = './randsac_vit_digits.py'

model = dict(
    neck=dict(skip=False),
    data_preprocessor=dict(serialization=dict(partition=dict(_delete_=True, type='BlobPartition', hierarchy=(7, 3)))),
)
optim_wrapper = dict(type='AutocastOptimWrapper')
