"""Weights and a gain from the acquisition alone."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from scorefusion.networks.blocks import noise_time

STORED_NAME = "prior"
"""What files call the gate: `prior.head.weight` in weights, `networks.prior` and a stage `prior` in recipes. Those that
people have were written when it had this name, so it stays there; in the code it is the gate."""


class AcquisitionGate(nn.Module):
    """What is the same in every voxel: plane weights and a gain, from noise level and acquisition alone.

    Ours, beyond the paper. Which planes to believe follows first of all from how the scan was made: across thick slices
    the planes that cut through them know more than the plane along them. And the mean of several careful predictions is
    too careful, so it wants a gain: with it the predictions no longer count one in all. A few numbers a scan learn this
    from little data; the 3D network is left with what differs between voxels. Zero-initialised like the rest, so that a
    fresh rule is still the plane average.
    """

    def __init__(self, members: int, context_size: int) -> None:
        super().__init__()
        self.head = nn.Linear(2 * (context_size + 1), members, bias=False)
        nn.init.zeros_(self.head.weight)

    def features(self, alpha_bar: Tensor, context: Tensor | None) -> Tensor:
        """`(B, 2 (context_size + 1))`: context and one, shared out between pure noise and no noise."""
        level = noise_time(alpha_bar)[:, None]  # 1 = pure noise
        known = torch.ones_like(level) if context is None else torch.cat([context, torch.ones_like(level)], dim=1)
        return torch.cat([level * known, (1.0 - level) * known], dim=1)

    def forward(self, alpha_bar: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        """`(B, P - 1, 1, 1, 1)` to add to the free weights, and the gain `(B, 1, 1, 1, 1)` added to the average's."""
        values = self.head(self.features(alpha_bar, context))[:, :, None, None, None]
        return values[:, :-1], values[:, -1:]
