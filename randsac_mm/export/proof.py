"""Compare what an export computes with what the encoder computes here."""

from typing import NamedTuple

from torch import Tensor

from randsac_mm.export.encoder import Features
from randsac_mm.export.targets import Outputs

_INPUT_TOLERANCE = 1e-5  # of preprocessing, as part of the largest input


class VerificationError(ValueError):
    """Raised if an export computes something else than the encoder."""


class Proof(NamedTuple):
    """Hold how far an export is from the encoder.

    Attributes:
        tokens: Greatest absolute difference of any number of any token.
        averaged: Greatest absolute difference of any averaged feature.
        inputs: Greatest absolute difference that the target's own preprocessing makes; None if it has none.
        scale: Largest absolute value and standard deviation of tokens and of averaged features, to judge these by.
    """

    tokens: float
    averaged: float
    inputs: float | None
    scale: dict[str, dict[str, float]]

    @property
    def greatest(self) -> float:
        """Give the greatest difference of features."""
        return max(self.tokens, self.averaged)


def prove(name: str, expected: Features, inputs: Tensor, outputs: Outputs, tolerance: float) -> Proof:
    """Compare features of the same images.

    Args:
        name: What was exported to, for the error.
        expected: Features by the encoder here.
        inputs: Its inputs, (B, C, H, W).
        outputs: What the export computes from its files.
        tolerance: Greatest absolute difference of features that is accepted.

    Returns:
        The differences.

    Raises:
        VerificationError: If a shape differs, a difference is greater or no number, the features are no numbers or all
            alike, or the target's own preprocessing makes other inputs.
    """
    for kind, tensor in expected._asdict().items():
        if not tensor.isfinite().all() or tensor.std() == 0:
            raise VerificationError(
                f'the encoder itself gives {kind} that are not finite or all alike: with such weights nothing can be '
                'proven. Export a checkpoint of a run that has not diverged'
            )
    differences = {
        kind: _difference(f'{name}: {kind}', getattr(expected, kind), getattr(outputs.features, kind))
        for kind in Features._fields
    }
    made = None
    if outputs.inputs is not None:
        made = _difference(f'{name}: inputs', inputs, outputs.inputs)
        limit = _INPUT_TOLERANCE * max(1.0, inputs.abs().max().item())
        if not made <= limit:
            raise VerificationError(
                f'{name}: the written preprocessing differs from ours by {made:.2e}, more than {limit:.0e}'
            )
    scale = {
        kind: {'max_abs': tensor.abs().max().item(), 'std': tensor.std().item()}
        for kind, tensor in expected._asdict().items()
    }
    proof = Proof(**differences, inputs=made, scale=scale)
    # Written so that NaN fails.
    if not (proof.tokens <= tolerance and proof.averaged <= tolerance):
        raise VerificationError(
            f'{name}: features differ from ours by {proof.tokens:.2e} (tokens) and {proof.averaged:.2e} (averaged), '
            f'more than {tolerance:.0e}; their largest value is {scale["tokens"]["max_abs"]:.2e}. It was discarded'
        )
    return proof


def _difference(what: str, expected: Tensor, given: Tensor) -> float:
    if expected.shape != given.shape:
        raise VerificationError(f'{what} have shape {tuple(given.shape)}, ours {tuple(expected.shape)}')
    return (expected.double() - given.double()).abs().max().item()
