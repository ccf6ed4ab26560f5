# Fully sharded data parallel: parameters, gradients and optimiser states are divided among the GPUs, for models that do
# not fit on one. Needs GPUs (mmengine hands each process a CUDA device); ViT-B does not need it.
#
# Use: a config of three lines, and the usual command:
#     _base_ = ['../randsac/vit-b_in1k.py', '../_base_/strategies/fsdp.py']
#     bash tools/dist_train.sh configs/randsac/my-vit-b_fsdp.py 8
# Keep AutocastOptimWrapper for bfloat16 (--amp); AmpOptimWrapper works as well and shards its loss scaler by itself.
#
# state_dict_cfg='full': rank 0 writes one file like that of a run without sharding, ready for hand-over to mmseg and
# mmdet. Not 'local', a folder with a part of every rank: its objects cannot be read without running code of the files.
runner_type = 'FlexibleRunner'
strategy = dict(
    type='FSDPStrategy',
    model_wrapper=dict(
        type='MMFullyShardedDataParallel',
        sharding_strategy='FULL_SHARD',
        use_orig_params=True,  # so that weight decay can differ between parameters
        # A ViT-B layer has 7 M parameters: about one unit of communication per layer.
        auto_wrap_policy=dict(type='torch.distributed.fsdp.wrap.size_based_auto_wrap_policy', min_num_params=5_000_000),
    ),
    state_dict_cfg='full',
)
