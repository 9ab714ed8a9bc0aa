"""A model on a device that was seen to run it.

Devices differ in the operators that they know, and drivers in those that they compute right. So a bundle's own networks
restore a few thousand voxels on the device first, and must say there what they say on the CPU in float32.
"""

from __future__ import annotations

import copy
import dataclasses
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

from scorefusion.bundle.load import Model, load_model
from scorefusion.diffusion.noise import NoiseField
from scorefusion.errors import RequestError
from scorefusion.fusion.base import base_image
from scorefusion.fusion.inputs import ModelInputs, acquisition_vector
from scorefusion.imaging.acquisition import Acquisition
from scorefusion.imaging.intensity_map import read_maps
from scorefusion.run.devices import Warn, pick_device, pick_precision
from scorefusion.run.memory import is_out_of_memory
from scorefusion.run.request import SamplingPlan
from scorefusion.run.restore import restore

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from scorefusion.bundle.folder import Bundle

FACTOR = 2.0  # of the small scan that is sharpened
TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.2, torch.float16: 0.2}
"""Largest root mean square of the difference, over that of what the networks add to the base."""


def load_checked(
    bundle: Bundle, device: str = "auto", precision: str = "auto", warn: Warn | None = None
) -> tuple[Model, torch.device, torch.dtype]:
    """The model, where it is, and the number format of its networks.

    Args:
        bundle: what to load.
        device: see `pick_device`.
        precision: see `pick_precision`.
        warn: receives a code and a message where ``auto`` has to leave a GPU aside for the CPU.

    Raises:
        RequestError: a named device does not run this model; it is never replaced by another.
        BundleError: weights and metadata do not fit each other.
    """
    chosen = pick_device(device, warn)
    dtype = pick_precision(precision, chosen)
    model = load_model(bundle, chosen, dtype)
    problem = model_problem(model, chosen, dtype)
    if problem is None:
        return model, chosen, dtype
    if device != "auto":
        msg = f"{problem} Use another device, or auto."
        raise RequestError(msg)
    if warn is not None:
        warn("cpu-fallback", f"{problem} Using the CPU.")
    chosen = torch.device("cpu")
    dtype = pick_precision("auto" if precision == "float16" else precision, chosen)
    return load_model(bundle, chosen, dtype), chosen, dtype


def model_problem(model: Model, device: torch.device, dtype: torch.dtype = torch.float32) -> str | None:
    """Why this device cannot be used for this model, as a sentence; None if it can."""
    if device.type == "cpu":
        return None
    try:
        there = _restored(model, device).cpu()
    except (RuntimeError, TypeError) as error:  # NotImplementedError, too, is a RuntimeError
        if is_out_of_memory(error):  # that is no fault; the caller has words for it
            raise
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        return f"Device '{device}' cannot run the networks of the model '{model.bundle.id}' ({reason})."
    own = dataclasses.replace(model, rule=copy.deepcopy(model.rule).cpu())
    with _in_full_precision(own):
        here = _restored(own, torch.device("cpu"))
    error_share = float((there - here).square().mean().sqrt() / here.square().mean().sqrt().clamp(min=1e-6))
    if error_share <= TOLERANCE[dtype]:  # not so if it is no number
        return None
    return (
        f"Device '{device}' computes the networks of the model '{model.bundle.id}' wrongly: what they add to a test "
        f"image is {100 * error_share:.3g} % off the CPU's; its driver or PyTorch is faulty."
    )


def _restored(model: Model, device: torch.device) -> Tensor:
    """`(1, 1, I, J, K)` what the model adds to the base of a small image of noise, in two steps, as in use."""
    multiple = model.rule.size_multiple
    shape = (2 * multiple, 2 * multiple + 2, 3 * multiple - 2)
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(1, len(model.section["conditions"]), *shape, generator=generator) - 0.5
    acquisition, measured, known = None, None, None
    if model.bundle.task == "super_resolution":
        acquisition = Acquisition.thick_slices(shape, 2, FACTOR)
        measured = acquisition.forward(image[:, :1])
        image = torch.cat([base_image(acquisition, measured, model.section), image[:, 1:]], dim=1)
        known, measured = acquisition_vector(acquisition).to(device), measured.to(device)
    inputs = ModelInputs(image.to(device), known, maps=read_maps(model.section))
    plan = SamplingPlan(steps=1 if model.bundle.volume_kind == "regression" else 2)
    with torch.inference_mode():
        result = restore(model.rule, model.schedule, inputs, plan, NoiseField(shape, 0), acquisition, measured)
        return result.mean - inputs.base


@contextmanager
def _in_full_precision(model: Model) -> Iterator[None]:
    found, model.ensemble.autocast = model.ensemble.autocast, None
    try:
        yield
    finally:
        model.ensemble.autocast = found
