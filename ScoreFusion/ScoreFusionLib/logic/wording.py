"""Numbers and names as people read them."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping
from typing import Any

from ScoreFusionLib.i18n import tr as _
from ScoreFusionLib.logic.models import ModelInfo
from ScoreFusionLib.logic.run_state import RunState


def time_left(seconds: float | None) -> str:
    """Return e.g. `about 2 min left`; empty while nothing is known.

    >>> time_left(4.2), time_left(95), time_left(7300), time_left(None)
    ('a few seconds left', 'about 2 min left', 'about 2.0 h left', '')
    """
    if seconds is None or not math.isfinite(seconds):
        return ""
    if seconds < 8:
        return _("a few seconds left")
    if seconds < 55:
        return _("about {seconds} s left").format(seconds=5 * round(seconds / 5))
    if seconds < 3600:
        return _("about {minutes} min left").format(minutes=max(1, round(seconds / 60)))
    return _("about {hours:.1f} h left").format(hours=seconds / 3600)


def duration(seconds: float) -> str:
    """Return e.g. `42 s` or `3 min 5 s`."""
    if seconds < 60:
        return _("{seconds:.0f} s").format(seconds=seconds)
    return _("{minutes} min {seconds} s").format(minutes=int(seconds // 60), seconds=int(seconds % 60))


def estimate(seconds: float | None) -> str:
    """Return how long a whole head will take here; empty while that is not known.

    >>> estimate(48.0), estimate(700.0), estimate(None)
    ('About 48 s for a whole head on this computer.', 'About 12 min for a whole head on this computer.', '')
    """
    if seconds is None:
        return ""
    text = _("{seconds:.0f} s").format(seconds=seconds)
    if seconds >= 90:
        text = _("{minutes:.0f} min").format(minutes=seconds / 60)
    return _("About {time} for a whole head on this computer.").format(time=text)


def state_text(state: RunState, stage: str, left: str) -> str:
    """Return the line under the progress bar."""
    if state is RunState.STARTING:
        return _("Starting: {stage}").format(stage=stage) if stage else _("Starting the worker")
    if state is RunState.RUNNING:
        shown = stage[:1].upper() + stage[1:] if stage else _("Running")
        return f"{shown}, {left}" if left else shown
    if state is RunState.IMPORTING:
        return _("Bringing the result into the scene")
    if state is RunState.CANCELLING:
        return _("Cancelling")
    return ""


def model_summary(model: ModelInfo) -> str:
    """Return what the panel says about a model, as rich text."""
    lines = [html.escape(model.description)]
    domain = domain_text(model)
    if domain:
        lines.append("<b>{title}</b> {text}".format(title=_("Made for:"), text=html.escape(domain)))
    if model.licence:
        lines.append("<b>{title}</b> {text}".format(title=_("Licence:"), text=html.escape(model.licence)))
    return "<br>".join(line for line in lines if line)


def domain_text(model: ModelInfo) -> str:
    """Return the domain of a model in one line."""
    domain = model.domain
    parts = [str(domain[key]) for key in ("anatomy", "modality") if domain.get(key)]
    contrasts = [contrast for condition in model.conditions for contrast in condition.contrasts]
    if contrasts:
        parts.append(", ".join(dict.fromkeys(name.upper() for name in contrasts)))
    factor = domain.get("factor")
    if isinstance(factor, (list, tuple)) and len(factor) == 2 and model.task == "super_resolution":
        parts.append(_("slices up to {factor:g} times too thick").format(factor=float(factor[1])))
    return "; ".join(parts)


def scan_label(contrast: str) -> str:
    """Return what people call a contrast, or the name itself.

    >>> scan_label("t1ce"), scan_label("flair"), scan_label("image")
    ('T1w+C', 'FLAIR', 'image')
    """
    return {"t1": "T1w", "t1ce": "T1w+C", "t2": "T2w", "flair": "FLAIR", "pd": "PD"}.get(contrast, contrast)


def moved_lines(provenance: Mapping[str, Any]) -> list[str]:
    """Return one line for each scan that the engine registered, from its record of the run.

    >>> moved_lines({"Registration": [{"Input": "t1", "MovedMm": 3.21, "TurnedDegrees": 1.08, "Used": True}]})
    ['T1w: moved 3.2 mm, 1.1 degrees']
    """
    lines = []
    for entry in provenance.get("Registration") or ():
        known = str(entry.get("Input", ""))
        label = scan_label(known)
        name = label if label != known else str(entry.get("Name") or known)
        if not entry.get("Used", True):
            lines.append(_("{name}: left out, it could not be registered").format(name=name))
        elif not entry.get("Registered", True):
            lines.append(_("{name}: not registered, taken to lie right").format(name=name))
        elif isinstance(entry.get("MovedMm"), (int, float)):
            text = _("{name}: moved {distance:.1f} mm, {angle:.1f} degrees")
            lines.append(text.format(name=name, distance=entry["MovedMm"], angle=entry.get("TurnedDegrees") or 0.0))
    return lines


def quality_table(quality: Mapping[str, Any]) -> str:
    """Return the quality box as rich text: two columns, figures with their units."""
    rows = [
        (label, form.format(float(quality[key])))
        for key, label, form in _quality_rows()
        if isinstance(quality.get(key), (int, float)) and math.isfinite(float(quality[key]))
    ]
    reference = quality.get("reference") or {}
    rows += [
        (label, form.format(float(reference[key])))
        for key, label, form in _reference_rows()
        if isinstance(reference.get(key), (int, float))
    ]
    cells = "".join(
        f"<tr><td>{html.escape(label)}&nbsp;&nbsp;</td><td align='right'><b>{html.escape(value)}</b></td></tr>"
        for label, value in rows
    )
    return f"<table>{cells}</table>" if cells else _("The model reports no figures.")


def _quality_rows() -> list[tuple[str, str, str]]:
    return [
        ("measurement_residual_max", _("Largest difference to the measured voxels"), "{:.3g}"),
        ("measurement_residual_relative", _("... as a share of the range"), "{:.2%}"),
        ("mean_uncertainty", _("Uncertainty in the head (mean)"), "{:.3g}"),
    ]


def _reference_rows() -> list[tuple[str, str, str]]:
    return [
        ("psnr", _("PSNR to the reference"), "{:.2f} dB"),
        ("ssim", _("SSIM to the reference"), "{:.4f}"),
        ("mae", _("MAE, share of the range"), "{:.2%}"),
        ("psnr_brain", _("PSNR in the brain"), "{:.2f} dB"),
        ("ssim_brain", _("SSIM in the brain"), "{:.4f}"),
        ("mae_brain", _("MAE in the brain"), "{:.2%}"),
    ]
