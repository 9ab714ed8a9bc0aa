"""Who looks where: a network, the plane it looks along, and the conditions it sees."""

from __future__ import annotations

from dataclasses import dataclass

from scorefusion.fusion.planes import Plane


@dataclass(frozen=True)
class Member:
    """A member of the ensemble: a network that looks along a plane at some of the conditions."""

    network: int
    plane: Plane
    conditions: tuple[int, ...] = (0,)
