"""What a backbone does with the positions of a state dict that is loaded into it."""

from torch import Tensor, nn


def check_positions(module: nn.Module, state_dict: dict[str, Tensor], prefix: str, *args: object) -> None:
    """Put fixed positions of the module's own grid in place of saved ones; refuse learned tables of other grids.

    A hook for ``register_load_state_dict_pre_hook``. Fixed positions made for another grid must not be resized: a
    9 x 16 grid looks like 12 x 12. Learned ones hold for one grid only, and mmengine skips what does not fit with no
    more than a warning.

    Args:
        module: A :class:`randsac_mm.models.RandSACViT`.
        state_dict: What is being loaded. Positions are replaced in it.
        prefix: What stands before the module's own names.
        args: Not read.

    Raises:
        ValueError: If positions that should be fixed are not, or a learned table has another shape.
    """
    key = prefix + 'pos_embed'
    if module.positions == 'fixed' and key in state_dict:
        saved = state_dict[key]
        axis = module.fixed_axis(saved)
        if axis is None or (axis == 'rows' and module.method == 'randsac'):  # peers have either, we have one
            raise ValueError(
                f'{key} of the checkpoint, shape {tuple(saved.shape)}, holds no fixed sine-cosine positions of '
                f"{module.embed_dims} channels for method='{module.method}': the checkpoint belongs to another "
                'architecture or method, or has learned positions. Load it into the architecture that it was saved '
                'from'
            )
        module.first_axis = axis
        state_dict[key] = module.fixed_positions(axis)
    for name, parameter in module.named_parameters():
        learned = (module.positions == 'learned' and name == 'pos_embed') or name.endswith('position_bias_table')
        saved = state_dict.get(prefix + name)
        if learned and saved is not None and saved.shape != parameter.shape:
            raise ValueError(
                f'{prefix + name} of the checkpoint has shape {tuple(saved.shape)}, but this backbone needs '
                f'{tuple(parameter.shape)}: give it the img_size, patch_size and window_size that the checkpoint was '
                'saved with; images of other sizes can be read all the same'
            )
