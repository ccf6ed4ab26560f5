"""At which scale the tables are run: the paper's, one for a machine without a GPU, and one that only shows it works."""

from typing import NamedTuple

from mmengine.config import Config, ConfigDict

from .recipes import find_datasets

_WARMUP = 0.05  # of all steps, where the number of epochs is changed


class Protocol(NamedTuple):
    """What is changed about the paper's runs. None: nothing."""

    what: str  # in words, for the reader of a result
    size: tuple[int, int, int, int] | None = None  # width D, layers of the encoder, heads, layers of the decoder
    epochs: int | None = None  # of pre-training
    batch_size: int | None = None
    lr: float | None = None  # of that batch size
    betas: tuple[float, float] | None = None  # AdamW's
    images: int | None = None  # training images for everything, the first ones
    probe_images: int | None = None  # training images of kNN and linear probe, where they are fewer
    test_images: int | None = None
    finetune_epochs: int | None = None  # 0: no fine-tuning
    compiled: bool = True


PROTOCOLS = {
    'paper': Protocol("nothing: the paper's sizes and epochs"),
    # At 40,000 images/s, which a large GPU should reach with ViT-T, a row takes about a minute.
    'gpu': Protocol(
        '40 epochs instead of 800 or 1,600, no fine-tuning; sizes and the rest as in the paper',
        epochs=40,
        finetune_epochs=0,
    ),
    'cpu': Protocol(
        'narrow and shallow encoder (4 layers of 48 dimensions, decoder of 1 layer), 2 epochs of 40,000 images instead '
        "of 800 or 1,600 of 50,000, 64 images a step, learning rate 3e-3, AdamW's second beta 0.95, bfloat16 autocast, "
        'no fine-tuning; kNN and linear probe on the features of 20,000 training images',
        size=(48, 4, 2, 1),
        epochs=2,
        batch_size=64,
        lr=3e-3,
        betas=(0.9, 0.95),
        images=40_000,
        probe_images=20_000,
        finetune_epochs=0,
        compiled=False,
    ),
    'smoke': Protocol(
        'everything: 2 layers of 16 dimensions, one epoch of 128 images, to see that each part runs',
        size=(16, 2, 2, 1),
        epochs=1,
        batch_size=32,
        lr=1e-3,
        images=128,
        test_images=64,
        finetune_epochs=2,
        compiled=False,
    ),
}


def parse_protocol(
    name: str, epochs: int | None, images: int | None, finetune_epochs: int | None
) -> tuple[Protocol, str]:
    """Look up a protocol and change what the command line asks for.

    Returns:
        The protocol and a name for the folder of its runs, another one for other epochs or images.

    Raises:
        ValueError: If a number is too small.
    """
    protocol, folder, changes = PROTOCOLS[name], name, []
    for option, value, least in (
        ('--epochs', epochs, 1),
        ('--subset', images, 1),
        ('--finetune-epochs', finetune_epochs, 0),
    ):
        if value is not None and value < least:
            raise ValueError(f'{option} {value} must be at least {least}')
    if epochs is not None:
        protocol, folder = protocol._replace(epochs=epochs), f'{folder}-{epochs}e'
        changes.append(f'{epochs} epochs')
    if images is not None:
        probe_images = protocol.probe_images and min(images, protocol.probe_images)
        protocol, folder = protocol._replace(images=images, probe_images=probe_images), f'{folder}-{images}'
        changes.append(f'the first {images:,} training images')
    if finetune_epochs is not None:
        protocol = protocol._replace(finetune_epochs=finetune_epochs)
        changes.append(f'{finetune_epochs} epochs of fine-tuning')
    if changes:
        protocol = protocol._replace(what=f'{protocol.what}; here with {", ".join(changes)}')
    return protocol, folder


def apply_protocol(cfg: Config, protocol: Protocol, images: int) -> None:
    """Change a config of the paper's size to a protocol.

    Args:
        cfg: The config of a pre-training run; changed in place.
        protocol: The protocol.
        images: Training images of the whole data set.

    Raises:
        ValueError: If more images are asked for than there are, or so few remain that an epoch has no step.
    """
    if protocol.images is not None:
        if protocol.images > images:
            raise ValueError(f'--subset {protocol.images} is more than the {images} training images of the data set')
        images = find_datasets(cfg)[0].indices = protocol.images
    if protocol.size is not None:
        _set_size(cfg.model, *protocol.size)
    if protocol.batch_size is not None:
        cfg.batch_size = cfg.train_dataloader.batch_size = protocol.batch_size
    changes = dict(lr=protocol.lr, betas=protocol.betas)
    cfg.optim_wrapper.optimizer.update({key: value for key, value in changes.items() if value is not None})
    steps = images // cfg.train_dataloader.batch_size
    if steps < 1:
        batch_size = cfg.train_dataloader.batch_size
        raise ValueError(f'{images} training images do not fill one step of {batch_size}: raise --subset')
    if protocol.epochs is not None:
        set_schedule(cfg, protocol.epochs, steps)
    hooks = cfg.default_hooks
    hooks.checkpoint.update(interval=max(1, cfg.max_epochs // 40), max_keep_ckpts=2)
    if not protocol.compiled:
        hooks.pop('compile', None)
    hooks.logger.interval = max(1, min(hooks.logger.get('interval', 50), steps))
    # Every row is evaluated afterwards, in the same way.
    cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
    cfg.test_cfg = cfg.test_dataloader = cfg.test_evaluator = None


def _set_size(model: ConfigDict, dims: int, layers: int, heads: int, decoder_layers: int) -> None:
    """Change the size of encoder and decoder, whatever the algorithm."""
    if model.type == 'TwoStreamRandSAC':  # has no decoder, but the layers of both, as at the paper's size
        layers += decoder_layers
    model.backbone.arch = dict(embed_dims=dims, num_layers=layers, num_heads=heads, feedforward_channels=4 * dims)
    if model.type == 'MAE':
        decoder = dict(decoder_embed_dim=dims, decoder_depth=decoder_layers, decoder_num_heads=heads)
        model.neck.update(embed_dim=dims, **decoder)
    elif model.type == 'ImageClassifier':
        model.head.in_channels = dims
    else:
        model.head.embed_dims = dims
        if model.get('neck'):
            decoder = dict(num_layers=decoder_layers, embed_dims=dims, num_heads=heads)
            model.neck.update(encoder_dims=dims, encoder_layers=layers, **decoder)


def set_schedule(cfg: Config, epochs: int, iters_per_epoch: int) -> None:
    """Make warm-up and cosine decay end after some epochs, counted in steps: two epochs have no epoch of warm-up."""
    total = epochs * iters_per_epoch
    begin = round(_WARMUP * total)
    begin = begin if begin > 1 else 0  # mmengine's LinearLR would keep the first value of a single step for ever
    warmup = dict(type='LinearLR', start_factor=1e-4, by_epoch=False, begin=0, end=begin)
    decay = dict(type='CosineAnnealingLR', eta_min=0.0, T_max=total - begin, by_epoch=False, begin=begin, end=total)
    cfg.max_epochs = cfg.train_cfg.max_epochs = epochs
    cfg.param_scheduler = [warmup, decay] if begin else [decay]
