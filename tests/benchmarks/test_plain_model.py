"""The baseline is no straw man: it computes the function of our model, loss and every gradient."""

import torch
from builders import perturb


def test_baseline_has_the_same_loss_and_gradients(bench):
    arch = dict(_delete_=True, embed_dims=24, num_layers=3, num_heads=2, feedforward_channels=40)
    model = bench('step_models').build_model(
        'tiny',
        backbone=dict(arch=arch, img_size=(12, 18), patch_size=3),
        neck=dict(num_heads=3, feedforward_channels=56),
        head=dict(patch_size=3),
        data_preprocessor=dict(serialization=dict(partition=dict(hierarchy=6))),
    )
    perturb(model)
    plain_model = bench('plain_model')
    plain = plain_model.PlainRandSAC(model)
    images = torch.randn(3, 3, 12, 18)
    batch = model.data_preprocessor.draw(images)
    ours, theirs = model.loss(images, **batch)['loss'], plain(images, **batch)['loss']
    torch.testing.assert_close(theirs, ours, rtol=1e-5, atol=1e-6)
    ours.backward()
    theirs.backward()
    gradients = plain_model.as_plain({name: p.grad for name, p in model.named_parameters() if p.requires_grad})
    assert gradients.keys() == {name for name, _ in plain.named_parameters()}
    for name, p in plain.named_parameters():
        torch.testing.assert_close(p.grad, gradients[name], rtol=1e-4, atol=1e-5, msg=name)
        assert p.grad.abs().max() > 1e-6, name
