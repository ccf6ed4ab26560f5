# Evaluate the encoder on CIFAR-10 labels during pre-training: kNN and linear accuracy beside the loss, in the log, in
# scalars.json and, with TensorboardVisBackend among visualizer.vis_backends, in TensorBoard. One more base of a run on
# images of 32 x 32 pixels is all it takes:
#     _base_ = ['configs/randsac/vit-t_cifar10.py', 'configs/_base_/online_probe_cifar10.py']
# Other labels: any data set of mmpretrain or of ours whose pipeline is not random and ends at one size, such as
#     train=dict(type='CustomDataset', data_root='/my/labelled/train', pipeline=[
#         dict(type='LoadImageStrict'), dict(type='ResizeEdge', scale=256, edge='short'),
#         dict(type='CenterCrop', crop_size=224)])
#
# Cost: forward passes of 7,000 images, which is 5 % of an epoch of CIFAR-10 (50,000 forward and backward), every 10
# epochs: half a percent, and some seconds for kNN and probe. The last line of the log gives what it really was.
custom_hooks = [
    dict(
        type='OnlineProbeHook',
        train=dict(type='PreparedCIFAR10', data_root='data/cifar10', split='train'),
        test=dict(type='PreparedCIFAR10', data_root='data/cifar10', split='test'),
        interval=10,  # epochs
        max_train=5000,  # images, chosen once, of all classes alike
        max_test=2000,
    )
]
