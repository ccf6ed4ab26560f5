"""From images to tokens that know their place: the part of the backbone before its layers."""

from collections.abc import Sequence

from mmpretrain.models.backbones.base_backbone import BaseBackbone
from torch import Tensor, nn

from randsac_mm.segments import Layout
from randsac_mm.transfer.resize import resize_positions

from .layers import PatchEmbed
from .loading import check_positions
from .options import Method
from .positions import AxisOrder, find_first_axis, sincos_positions


class ViTEmbedding(BaseBackbone):
    """Embed patches and add their positions, for any image size.

    Args:
        embed_dims: Width D of the tokens.
        img_size: Usual height and width in pixels, one number or two.
        patch_size: Side P of a patch, in pixels.
        in_channels: Number of image channels C.
        traits: Which positions there are.
        init_cfg: Initialisation from a checkpoint, as in mmengine.

    Raises:
        ValueError: If the patch size does not divide the image size, or D does not suit fixed positions.
    """

    def __init__(
        self,
        embed_dims: int,
        img_size: int | Sequence[int],
        patch_size: int,
        in_channels: int,
        traits: Method,
        init_cfg: dict | list[dict] | None = None,
    ) -> None:
        super().__init__(init_cfg)
        self.embed_dims = embed_dims
        self.patch_size = patch_size
        self.in_channels = in_channels
        self.img_size = (img_size, img_size) if isinstance(img_size, int) else tuple(img_size)
        self.patch_embed = PatchEmbed(in_channels, embed_dims, patch_size)
        self.patch_resolution = self.grid(*self.img_size)
        self.positions = traits.positions
        self.first_axis: AxisOrder = traits.first_axis  # the checkpoint's, once one is loaded
        self._register_load_state_dict_pre_hook(check_positions, with_module=True)
        if self.positions == 'none':
            self.pos_embed = None
            return
        # Fixed ones are in the state dict for mmpretrain's sake: never trained, never read from a checkpoint.
        table = sincos_positions(self.patch_resolution, embed_dims, first=self.first_axis).clone()
        self.pos_embed = nn.Parameter(table, requires_grad=self.positions == 'learned')
        if self.positions == 'learned':
            nn.init.trunc_normal_(self.pos_embed, std=0.02)

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Give the token grid of an image.

        Args:
            height: Image height H in pixels.
            width: Image width W in pixels.

        Returns:
            Rows and columns of tokens.

        Raises:
            ValueError: If the patch size does not divide the image size.
        """
        p = self.patch_size
        if height < p or width < p or height % p or width % p:
            raise ValueError(
                f'an image of {height} x {width} pixels cannot be cut in patches of {p} x {p}. Resize, crop or pad it '
                f'to multiples of {p} (for example pad_size_divisor={p} in the data preprocessor)'
            )
        return height // p, width // p

    def embed(self, images: Tensor) -> Tensor:
        """Embed all patches of images (B, C, H, W): tokens (B, N, D) in raster order, positions added."""
        grid = self.grid_of(images)
        x = self.patch_embed(images)
        positions = self._positions(grid)
        return x if positions is None else x + positions

    def embed_source(self, images: Tensor, layout: Layout) -> Tensor:
        """Embed the tokens that a layout lets into the encoder, H^0 (B, S, D).

        Args:
            images: Normalised images (B, C, H, W).
            layout: Which S tokens to embed.

        Returns:
            Tokens (B, S, D) in the order of ``layout.source``, positions added.

        Raises:
            ValueError: If the number of channels or the image size does not fit.
        """
        grid = self.grid_of(images)
        x = self.patch_embed.forward_some(images, layout.source)
        return x + self._positions(grid)[0, layout.source]

    def grid_of(self, images: Tensor) -> tuple[int, int]:
        """Give the token grid of images (B, C, H, W); a ValueError says how they do not fit."""
        if images.ndim != 4 or images.shape[1] != self.in_channels:
            raise ValueError(
                f'images have shape {tuple(images.shape)}, but this backbone reads (B, {self.in_channels}, H, W): set '
                'in_channels, or convert the images'
            )
        return self.grid(*images.shape[2:])

    def fixed_positions(self, first: AxisOrder) -> Tensor:
        """Make the fixed positions (1, N, D) of the usual image size; ``first``: see :func:`sincos_positions`."""
        table = sincos_positions(self.patch_resolution, self.embed_dims, self.pos_embed.device, first)
        return table.to(self.pos_embed.dtype, copy=True)

    def fixed_axis(self, positions: Tensor) -> AxisOrder | None:
        """Tell which axis comes first in fixed positions (1, N, D); None if they are learned or of another width."""
        return find_first_axis(positions, self.first_axis) if positions.shape[-1] == self.embed_dims else None

    def _positions(self, grid: tuple[int, int]) -> Tensor | None:
        if self.pos_embed is None or grid == self.patch_resolution:
            return self.pos_embed
        if self.positions == 'learned':
            return resize_positions(self.pos_embed, self.patch_resolution, grid)
        table = sincos_positions(grid, self.embed_dims, self.pos_embed.device, self.first_axis)
        return table.to(self.pos_embed.dtype)
