"""What the residual is added to, and the way between the bases of members that see other conditions.

`residual = gain * (target - base) / 2`. Plane networks that see other conditions predict a residual of another base;
`rebase` and its inverse move between the bases (Score-Fusion, several conditions).
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from scorefusion.diffusion.schedule import Prediction
from scorefusion.fusion.inputs import ModelInputs
from scorefusion.fusion.members import Member
from scorefusion.imaging.acquisition import Acquisition


def base_image(acquisition: Acquisition, measured: Tensor, section: dict[str, Any]) -> Tensor:
    """The image that the residual is added to, as the bundle's metadata says: `(1, 1, i, j, k)` to the full grid."""
    if section["base"] == "back_projection":
        return acquisition.back_project(measured, section.get("base_rounds", 6))
    return acquisition.upsample(measured, section["base"])


def own_base_shift(inputs: ModelInputs, member: Member, gain: float) -> Tensor | None:
    """`(B, 1, I, J, K)` `gain * (base - the member's base) / 2`; None where nothing is to be moved.

    A base that all conditions say together is every member's base: it knows more than what any of them starts from
    alone, and what the surroundings in one condition say beyond brightness is added to it. (Moved to its own base, a
    member would take back what the other conditions say.)
    """
    own = next(index for index in member.conditions if index in inputs.available)
    if inputs.joined or own == inputs.available[0]:
        return None
    return 0.5 * gain * (inputs.base - inputs.base_of(own))


def rebase(x: Tensor, shift: Tensor, alpha_bar: Tensor) -> Tensor:
    """The noisy residual as a network with another base sees it: `x_t + sqrt(alpha_bar) * shift`.

    `shift = gain * (base - other base) / 2`; the noise is common to both.
    """
    return x + _expand(alpha_bar.sqrt(), x) * shift


def rebase_prediction(prediction: Tensor, shift: Tensor, alpha_bar: Tensor, kind: Prediction) -> Tensor:
    """A prediction made with another base, moved back to the common base."""
    if kind == "noise":
        return prediction
    if kind == "clean":
        return prediction - shift
    return prediction + _expand((1.0 - alpha_bar).sqrt(), prediction) * shift


def _expand(level: Tensor, like: Tensor) -> Tensor:
    return level.to(like.dtype).reshape(-1, *[1] * (like.dim() - 1))
