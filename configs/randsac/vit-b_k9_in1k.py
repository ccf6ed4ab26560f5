# Table 8, row "RandSAC K = 9": ViT-B on ImageNet-1K, 9 squares of 4 x 4 tokens without hierarchy, 192 px (D.2).
#
# Command:  bash tools/dist_train.sh configs/randsac/vit-b_k9_in1k.py 8
# Cost:     1,600 epochs x 1.28 M images at 18.9 G multiply-adds, thrice that with backward
# Expected: paper: linear probe 72.3 %, fine-tuning 83.7 %; this row has not been run by us yet
_base_ = './vit-b_in1k.py'

model = dict(data_preprocessor=dict(serialization=dict(partition=dict(hierarchy=9))))
