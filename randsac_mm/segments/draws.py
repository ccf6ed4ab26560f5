"""Random numbers for a batch, from one generator for all images or from a seed of each image."""

import math

import torch
from torch import Tensor

_STEP, *_FACTORS = (n - 2**64 for n in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))
_AT_ONCE = {'cuda': 256}  # numbers of an image that are made in one go, in the time of fewer


def scramble(numbers: Tensor) -> Tensor:
    """Hash integers of any shape one by one: splitmix64 on int64."""
    bits = numbers + _STEP
    for shift, factor in zip((30, 27), _FACTORS, strict=True):
        bits = (bits ^ ((bits >> shift) & (2 ** (64 - shift) - 1))) * factor  # the mask removes the sign
    return bits ^ ((bits >> 31) & (2**33 - 1))


class SampleGenerator(torch.Generator):
    """Generator with a stream of numbers for each image, whatever its batch, the device or the number of processes.

    :func:`draw_uniform` and permutations read the streams. To torch's own functions it is an ordinary generator.

    Args:
        seeds: A seed for each image (B,), int64, on the device of the draws.
    """

    def __new__(cls, seeds: Tensor) -> 'SampleGenerator':  # noqa: D102
        return super().__new__(cls, seeds.device)  # type: ignore[call-arg]  # torch's stubs call it __init__

    def __init__(self, seeds: Tensor) -> None:
        self._keys = scramble(seeds[:, None])
        self._ready, self._taken = self._keys[:, :0], 0

    def integers(self, size: int) -> Tensor:
        """Return the next integers in [0, 2^62) of each image: (B, size), int64."""
        if size > self._ready.shape[1]:
            count = max(size, _AT_ONCE.get(self._keys.device.type, 0))
            places = torch.arange(self._taken, self._taken + count, device=self._keys.device)
            self._ready = (scramble(self._keys + places * _STEP) >> 2) & (2**62 - 1)
        self._taken += size
        taken, self._ready = self._ready.tensor_split([size], dim=1)
        return taken


def draw_uniform(
    shape: tuple[int, ...], generator: torch.Generator, batch_dim: int = 0, double: bool = False
) -> Tensor:
    """Draw numbers in [0, 1), float32 or float64, of a shape whose axis ``batch_dim`` counts images."""
    dtype, bits = (torch.float64, 53) if double else (torch.float32, 24)
    if not isinstance(generator, SampleGenerator):
        return torch.rand(shape, generator=generator, device=generator.device, dtype=dtype)
    others = shape[:batch_dim] + shape[batch_dim + 1 :]
    numbers = (generator.integers(math.prod(others)) >> (62 - bits)).to(dtype) * 2.0**-bits
    return numbers.view(-1, *others).movedim(0, batch_dim)
