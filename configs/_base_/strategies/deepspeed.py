# DeepSpeed ZeRO: optimiser states and gradients (stage 2) are divided among the GPUs. Needs GPUs and `pip install
# deepspeed`, which this project neither requires nor installs.
#
# Use: DeepSpeed brings its own optimiser wrapper and its own mixed precision, so the config that combines both replaces
# the wrapper (repeat optimizer and paramwise_cfg of the base):
#     _base_ = ['../randsac/vit-b_in1k.py', '../_base_/strategies/deepspeed.py']
#     optim_wrapper = dict(
#         _delete_=True, type='DeepSpeedOptimWrapper',
#         optimizer=dict(type='AdamW', lr=..., betas=(0.9, 0.95), weight_decay=0.05),
#         paramwise_cfg=dict(...))
#     bash tools/dist_train.sh configs/randsac/my-vit-b_deepspeed.py 8
# Not with --amp: bf16 below takes its place. Gradient accumulation and clipping belong in `strategy`, too.
#
# Checkpoints are DeepSpeed's folders, epoch_N.pth/mp_rank_00_model_states.pt. They resume, but mmengine calls no hook
# when DeepSpeed loads them, so random states are not restored (the log says so), and they hold more than tensors.
runner_type = 'FlexibleRunner'
strategy = dict(
    type='DeepSpeedStrategy',
    bf16=dict(enabled=True),
    fp16=dict(enabled=False),
    zero_optimization=dict(
        stage=2, allgather_partitions=True, reduce_scatter=True, overlap_comm=True, contiguous_gradients=True
    ),
)
