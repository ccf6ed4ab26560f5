"""At which scale the tables are run: the paper's, one for a machine without a GPU, and one that only shows it works."""

from typing import NamedTuple

from mmengine.config import Config

from .recipes import data_sets, set_length, set_size


class Size(NamedTuple):
    """Size of encoder and decoder, both of one width.

    Attributes:
        embed_dims: Width D.
        num_layers: Layers of the encoder.
        num_heads: Attention heads.
        decoder_layers: Layers of the decoder.
    """

    embed_dims: int
    num_layers: int
    num_heads: int
    decoder_layers: int


class Protocol(NamedTuple):
    """What is changed about the paper's runs. None: nothing.

    Attributes:
        what: In words, for the reader of a result.
        size: Another encoder and decoder.
        epochs: Epochs of pre-training.
        warmup: Its warm-up, as a share of all steps.
        batch_size: Images in a step.
        lr: Learning rate, of that batch size.
        betas: AdamW's.
        images: Training images for everything, the first ones; None: all.
        probe_images: Training images of the fast probe and of kNN; None: as many as ``images``.
        test_images: Test images; None: all.
        finetune_epochs: Epochs of fine-tuning; 0: it is left out.
        compiled: Whether the step is compiled.
        attention: Attention back-end of training, see ``KernelHook``.
    """

    what: str
    size: Size | None = None
    epochs: int | None = None
    warmup: float = 0.05
    batch_size: int | None = None
    lr: float | None = None
    betas: tuple[float, float] | None = None
    images: int | None = None
    probe_images: int | None = None
    test_images: int | None = None
    finetune_epochs: int | None = None
    compiled: bool = True
    attention: str = 'auto'


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
        size=Size(48, 4, 2, 1),
        epochs=2,
        batch_size=64,
        lr=3e-3,
        betas=(0.9, 0.95),
        images=40_000,
        probe_images=20_000,
        finetune_epochs=0,
        compiled=False,
        attention='plain',
    ),
    'smoke': Protocol(
        'everything: 2 layers of 16 dimensions, one epoch of 128 images, to see that each part runs',
        size=Size(16, 2, 2, 1),
        epochs=1,
        batch_size=32,
        lr=1e-3,
        images=128,
        test_images=64,
        finetune_epochs=2,
        compiled=False,
        attention='plain',
    ),
}


def apply_protocol(cfg: Config, protocol: Protocol, images: int) -> None:
    """Change a config of the paper's size to a protocol.

    Args:
        cfg: The config of a pre-training run; changed in place.
        protocol: The protocol.
        images: Training images of the whole data set.

    Raises:
        ValueError: If more images are asked for than there are, or so few remain that an epoch has no step.
    """
    if protocol.images is not None and protocol.images > images:
        raise ValueError(f'--subset {protocol.images} is more than the {images} training images of the data set')
    if protocol.size is not None:
        set_size(cfg, *protocol.size)
    if protocol.batch_size is not None:
        cfg.batch_size = cfg.train_dataloader.batch_size = protocol.batch_size
    if protocol.images is not None:
        data_sets(cfg)[0].indices = protocol.images
    optimizer = cfg.optim_wrapper.optimizer
    if protocol.lr is not None:
        optimizer.lr = protocol.lr
    if protocol.betas is not None:
        optimizer.betas = protocol.betas
    batch_size = cfg.train_dataloader.batch_size
    steps = min(images, protocol.images or images) // batch_size
    if steps < 1:
        raise ValueError(
            f'{min(images, protocol.images or images)} training images do not fill one step of {batch_size}: use more '
            'images (--subset)'
        )
    epochs = cfg.max_epochs if protocol.epochs is None else protocol.epochs
    if protocol.epochs is not None:
        set_length(cfg, epochs, steps, round(protocol.warmup * epochs * steps))
    hooks = cfg.default_hooks
    hooks.checkpoint.update(interval=max(1, epochs // 40), max_keep_ckpts=2)
    hooks.kernels = dict(type='KernelHook', attention=protocol.attention)
    if not protocol.compiled:
        hooks.pop('compile', None)
    hooks.logger.interval = max(1, min(hooks.logger.get('interval', 50), steps))
    # Judged afterwards, in one way for all.
    cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
    cfg.test_cfg = cfg.test_dataloader = cfg.test_evaluator = None


def parse_protocol(
    name: str, epochs: int | None, images: int | None, finetune_epochs: int | None
) -> tuple[Protocol, str]:
    """Look up a protocol and change what the command line asks for.

    Args:
        name: Its name.
        epochs: Other epochs of pre-training, or None.
        images: Another number of training images, or None.
        finetune_epochs: Other epochs of fine-tuning, or None.

    Returns:
        The protocol and a name for the folder of its runs, which tells changed protocols apart.

    Raises:
        ValueError: If there is no such protocol, or a number is below its least.
    """
    if name not in PROTOCOLS:
        raise ValueError(f'--protocol {name}: choose from {", ".join(PROTOCOLS)}')
    for option, value, least in (
        ('--epochs', epochs, 1),
        ('--subset', images, 1),
        ('--finetune-epochs', finetune_epochs, 0),
    ):
        if value is not None and value < least:
            raise ValueError(f'{option} {value} must be at least {least}')
    protocol, folder, words = PROTOCOLS[name], name, []
    if epochs is not None:
        protocol, folder = protocol._replace(epochs=epochs), f'{folder}-{epochs}e'
        words.append(f'{epochs} epochs')
    if images is not None:
        probe = protocol.probe_images and min(images, protocol.probe_images)
        protocol, folder = protocol._replace(images=images, probe_images=probe), f'{folder}-{images}'
        words.append(f'the first {images:,} training images')
    if finetune_epochs is not None:
        protocol = protocol._replace(finetune_epochs=finetune_epochs)
        words.append(f'{finetune_epochs} epochs of fine-tuning')
    return protocol._replace(what='; here with '.join([protocol.what, *([', '.join(words)] if words else [])])), folder
