"""At which scale the tables are run: the paper's, one for a machine without a GPU, and one that only shows it works."""

from typing import NamedTuple

from mmengine.config import Config, ConfigDict

from randsac_mm.complexity import count_executed
from randsac_mm.engine.schedule import set_epochs
from randsac_mm.evaluation.frozen_encoder import build_untrained

from .recipes import find_datasets

_WARMUP = 0.05  # of all steps, where the number of epochs is changed


class Protocol(NamedTuple):
    """What is changed about the paper's runs. None: nothing."""

    what: str  # in words, for the reader of a result
    size: tuple[int, int, int, int] | None = None  # width D, encoder layers, heads, decoder layers; not compiled
    epochs: int | None = None  # of pre-training
    batch_size: int | None = None
    lr: float | None = None  # of that batch size
    betas: tuple[float, float] | None = None  # AdamW's
    images: int | None = None  # training images for everything, the first ones
    probe_images: int | None = None  # training images of kNN and linear probe, where they are fewer
    test_images: int | None = None
    finetune_epochs: int | None = None  # 0: no fine-tuning


PROTOCOLS = {
    'paper': Protocol("nothing: the paper's sizes and epochs"),
    'gpu': Protocol(
        '40 epochs instead of 800 or 1,600, no fine-tuning; sizes and the rest as in the paper',
        epochs=40,
        finetune_epochs=0,
    ),
    'cpu': Protocol(
        'narrow and shallow encoder (4 layers of 48 dimensions, decoder of 1 layer), 2 epochs of 40,000 images instead '
        "of 800 or 1,600 of 50,000, 64 images a step, learning rate 3e-3, AdamW's second beta 0.95, bfloat16 autocast "
        'where the processor has it, no fine-tuning; kNN and linear probe on the features of 20,000 training images',
        size=(48, 4, 2, 1),
        epochs=2,
        batch_size=64,
        lr=3e-3,
        betas=(0.9, 0.95),
        images=40_000,
        probe_images=20_000,
        finetune_epochs=0,
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
    ),
}


def parse_protocol(
    name: str, epochs: int | None, images: int | None, finetune_epochs: int | None
) -> tuple[Protocol, str]:
    """Look up a protocol and change what the command line asks for.

    Returns:
        The protocol and a name for the folder of its runs, another one for other epochs or images.
    """
    protocol, folder = PROTOCOLS[name], name
    options = {'epochs': epochs, 'images': images, 'finetune_epochs': finetune_epochs}
    changes = {option: number for option, number in options.items() if number is not None}
    if not changes:
        return protocol, folder
    words = ', '.join(f'{number:,} {option.replace("_", " ")}' for option, number in changes.items())
    if epochs is not None:
        folder += f'-{epochs}e'
    if images is not None:
        folder += f'-{images}'
        changes['probe_images'] = min(images, protocol.probe_images or images)
    return protocol._replace(**changes, what=f'{protocol.what}; here with {words}'), folder


def apply_protocol(cfg: Config, protocol: Protocol, images: int, like: ConfigDict | None = None) -> None:
    """Change the config of a pre-training run, on a data set of so many images, to a protocol.

    With ``like``, the model of another run, the number of epochs becomes that of as many multiply-adds as its own.

    Raises:
        ValueError: If there are too few epochs, fewer images than asked for, or too few for a step.
    """
    if protocol.images is not None:
        if protocol.images > images:
            raise ValueError(f'--subset {protocol.images} is more than the {images} training images of the data set')
        images = find_datasets(cfg)[0].indices = protocol.images
    hooks, optimizer = cfg.default_hooks, cfg.optim_wrapper.optimizer
    if protocol.size is not None:
        for model in filter(None, (cfg.model, like)):
            _set_size(model, *protocol.size)
        hooks.pop('compile', None)
    if protocol.batch_size is not None:
        cfg.batch_size = cfg.train_dataloader.batch_size = protocol.batch_size
    if protocol.lr is not None:
        optimizer.lr = protocol.lr
    if protocol.betas is not None:
        optimizer.betas = protocol.betas
    steps = images // cfg.train_dataloader.batch_size
    if steps < 1:
        raise ValueError(f'{images} training images do not fill a step of {cfg.batch_size} images: raise --subset')
    epochs = cfg.max_epochs if protocol.epochs is None else protocol.epochs
    if like is not None:
        other, own = (count_executed(build_untrained(model, seed=0)) for model in (like, cfg.model))
        epochs = round(epochs * other / own)
    in_steps = {} if protocol.epochs is None else dict(steps_per_epoch=steps, warmup_share=_WARMUP)
    set_epochs(cfg, epochs, **in_steps)
    hooks.checkpoint.update(interval=max(1, cfg.max_epochs // 40), max_keep_ckpts=2)
    hooks.logger.interval = min(hooks.logger.interval, steps)
    # Every row is evaluated afterwards, in the same way.
    cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
    cfg.test_cfg = cfg.test_dataloader = cfg.test_evaluator = None


def _set_size(model: ConfigDict, dims: int, layers: int, heads: int, decoder_layers: int) -> None:
    """Change the size of encoder and decoder, whatever the algorithm."""
    if model.type == 'TwoStreamRandSAC':
        # It has no decoder but as many parameters: 12 D^2 in each of its layers, 16 D^2 in one of a decoder.
        layers = round(layers + decoder_layers * 16 / 12)
    model.backbone.arch = dict(embed_dims=dims, num_layers=layers, num_heads=heads, feedforward_channels=4 * dims)
    if model.type == 'RandSAC':
        model.neck.update(num_layers=decoder_layers, embed_dims=dims, num_heads=heads)
    elif model.type == 'MAE':
        decoder = dict(decoder_embed_dim=dims, decoder_depth=decoder_layers, decoder_num_heads=heads)
        model.neck.update(embed_dim=dims, **decoder)
    elif model.type == 'ImageClassifier':
        model.head.in_channels = dims
