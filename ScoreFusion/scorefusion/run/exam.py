"""The scans of an exam brought together: each guide is registered to the scan to restore, and what was done is told.

A guide keeps its voxels; only its place in the world changes, so that it is interpolated once, onto the target grid.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from scorefusion.errors import GeometryError, RequestError, VolumeError
from scorefusion.imaging.registration import Motion, find_motion, refine_motion
from scorefusion.imaging.volume import Volume
from scorefusion.progress import Reporter

LEAST_OVERLAP = 0.4  # of the heads; a stripped brain fills about 0.6 of a head
FAR_MM, FAR_DEGREES = 40.0, 30.0  # beyond what a person moves between two scans: headers that mean nothing
WEAK = 0.06  # nats; contrasts of one person had 0.13 and more, heads of two persons 0.04 to 0.12
THINNEST = 6  # voxels along the shortest axis that registration can hold on to
SMALL_MM, SMALL_DEGREES = 0.25, 0.25  # below what registration can tell


@dataclass(frozen=True)
class Placement:
    """Where a scan was put.

    Attributes:
        name: of the model's input.
        scan: name of the volume.
        motion: from the headers' place.
        used: False where it could not be registered, and was left out.
        registered: False where the headers were trusted.
    """

    name: str
    scan: str
    motion: Motion
    used: bool = True
    registered: bool = True

    def to_dict(self) -> dict[str, Any]:
        """For the record."""
        return {
            "Input": self.name,
            "Name": self.scan,
            "Registered": self.registered,
            "Used": self.used,
            "MovedMm": round(self.motion.distance_mm, 2),
            "TurnedDegrees": round(self.motion.rotation_degrees, 2),
            "MetricBefore": self.motion.metric_before,
            "MetricAfter": self.motion.metric_after,
            "Overlap": self.motion.overlap,
        }


def bring_together(
    volumes: Mapping[str, Volume], restoring: bool, register: bool, skip: bool, report: Reporter
) -> tuple[dict[str, Volume], list[Placement]]:
    """Every further scan where it lies on the first one.

    Scans on one grid are taken to be aligned already by whoever put them there; beside a scan to restore they are only
    searched for what is left. Inputs of a translation model on one grid are trusted.

    Args:
        volumes: by input name; the first one stays.
        restoring: the first one is a scan to restore, and the others are its guides.
        register: False trusts the headers.
        skip: go on without a guide that cannot be registered.
        report: is told what moved.

    Raises:
        GeometryError: a scan cannot be registered.
    """
    names = list(volumes)
    base = volumes[names[0]]
    placed, placements = {names[0]: base}, []
    for name in names[1:]:
        volume = volumes[name]
        if np.array_equal(volume.data, base.data):
            msg = f"{volume.name} (input '{name}') is {base.name} again. Give each input its own scan, or leave it out."
            raise RequestError(msg)
        if not register or (not restoring and _on_one_grid(volume, base)):
            placed[name] = volume
            placements.append(Placement(name, volume.name, Motion.none(), registered=False))
            continue
        report.log(f"Registering {volume.name} ({name}) to {base.name}")
        try:
            motion = motion_between(volume, base)
        except (VolumeError, GeometryError) as error:
            what = f"{volume.name} (input '{name}') was not registered to {base.name}: {error}"
            if not (skip and restoring):
                fix = (
                    "Check that both show the same head, leave the scan out, skip what cannot be registered "
                    "(--skip-unregistered), or trust the headers (--no-register)."
                )
                msg = f"{what.rstrip('.')}. {fix}"
                raise GeometryError(msg) from error
            report.warning("guide-left-out", f"{what.rstrip('.')}. It was left out, as you asked for.")
            placements.append(Placement(name, volume.name, Motion.none(), used=False))
            continue
        placements.append(Placement(name, volume.name, motion))
        placed[name] = motion.place(volume)
        moved = f"{motion.distance_mm:.1f} mm and {motion.rotation_degrees:.1f} degrees"
        report.log(f"{volume.name} ({name}) was moved by {moved} to lie on {base.name}")
        if motion.metric_after is not None and motion.metric_after < WEAK:
            report.warning(
                "registration-weak",
                f"{volume.name} ({name}) hardly agrees with {base.name} (mutual information "
                f"{motion.metric_after:.3f}). Look whether it lies on the result, and whether it is the same person.",
            )
        if motion.distance_mm > FAR_MM or motion.rotation_degrees > FAR_DEGREES:
            report.warning(
                "registration-far",
                f"{volume.name} ({name}) was moved by {moved}: more than a person moves between two scans. Look "
                "whether it lies on the result, and whether it is the same person.",
            )
    return placed, placements


def motion_between(volume: Volume, base: Volume) -> Motion:
    """The motion that puts a volume onto another; none where the headers are as good.

    Raises:
        GeometryError: it cannot be found, or little of the heads lies on each other.
    """
    thin = min(*volume.spatial_shape, *base.spatial_shape)
    if thin < THINNEST:
        msg = f"one of them has {thin} slices only, too few to hold on to"
        raise GeometryError(msg)
    motion = refine_motion(volume, base) if _on_one_grid(volume, base) else find_motion(volume, base)
    assert motion.overlap is not None
    assert motion.metric_after is not None
    if motion.overlap < LEAST_OVERLAP:
        msg = f"only {motion.overlap:.0%} of the head lies on the other one where they agree best"
        raise GeometryError(msg)
    small = motion.distance_mm < SMALL_MM and motion.rotation_degrees < SMALL_DEGREES
    worse = motion.metric_before is not None and motion.metric_after < motion.metric_before
    if small or worse:  # the headers are as good
        return Motion.stay(motion)
    return motion


def _on_one_grid(volume: Volume, base: Volume) -> bool:
    """Whether both have the same voxels in space, in whatever order they are stored."""
    return volume.canonical()[0].grid.is_close(base.canonical()[0].grid)
