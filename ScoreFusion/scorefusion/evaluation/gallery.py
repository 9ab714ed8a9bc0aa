"""Pictures of a benchmark: one PNG for each subject and setting, drawn as soon as its scores are known."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from scorefusion.evaluation.benchmark import Method, Restored, Subject
from scorefusion.evaluation.metrics import psnr, ssim
from scorefusion.evaluation.pictures import Comparison, Panel, draw_comparison

#: What is shown as ours: the first of these rules that ran, at its first plan.
_OURS = ("fusion+proj", "average+proj", "plane+proj")


class Gallery:
    """Receives restorations from `run_benchmark` and draws them.

    Args:
        folder: where the PNGs go.
        methods: rows of the run; decides what is shown.
    """

    def __init__(self, folder: Path, methods: Sequence[Method]) -> None:
        self.folder = folder
        self.written: list[Path] = []
        keys = {method.key: method for method in methods}
        self._baseline = next((key for key in ("cubic", "cubic+ibp", "linear") if key in keys), next(iter(keys)))
        ours = [key for rule in _OURS for key in keys if key.split("@")[0].split(":")[-1] == rule]
        self._ours = keys[ours[0]] if ours else keys.get("cubic+ibp", methods[-1])
        # The method whose several samples give a deviation, if any was asked for.
        self._unsure = next((key for key in ours if "uncertainty" in key), ours[-1] if ours else None)

    @property
    def wanted(self) -> tuple[str, ...]:
        """Method keys whose volumes are needed."""
        keys = [self._baseline, self._ours.key, self._unsure]
        return tuple(dict.fromkeys(key for key in keys if key is not None))

    def __call__(self, subject: Subject, restored: dict[str, Restored]) -> None:
        unsure = restored[self._unsure].uncertainty if self._unsure else None
        name = f"{subject.case.subject}_{subject.case.contrast or 'image'}_{subject.scan.setting.name}.png"
        comparison = compare(
            subject,
            restored[self._baseline],
            restored[self._ours.key],
            baseline_title="cubic" if self._baseline.startswith("cubic") else self._baseline,
            ours_title="ScoreFusion" if self._ours.family == "model" else self._ours.label.split(" (")[0],
            detail=self._ours.label,
            uncertainty=None if unsure is None else Restored(unsure),
        )
        self.written.append(draw_comparison(comparison, self.folder / name.replace("@", "-")))


def compare(
    subject: Subject,
    baseline: Restored,
    ours: Restored,
    *,
    baseline_title: str = "cubic",
    ours_title: str = "ScoreFusion",
    detail: str = "",
    uncertainty: Restored | None = None,
) -> Comparison:
    """Columns and captions of one picture.

    Args:
        subject: the truth, its scan and its brain.
        baseline, ours: restorations in scanner units.
        baseline_title, ours_title: headings.
        detail: what exactly `ours` is, for the small print.
        uncertainty: standard deviation in scanner units, as `Restored.data`.
    """
    scan, setting = subject.scan, subject.scan.setting
    truth = subject.unit_truth
    measured = torch.from_numpy(scan.volume.data)[None]
    blocks = subject.unit(scan.acquisition.upsample(measured, "nearest")[0, 0])
    spacing = " x ".join(f"{value:.3g}" for value in scan.volume.spacing)

    def judged(title: str, restored: Restored) -> Panel:
        data = subject.unit(restored.data.cpu().float())
        brain = subject.brain.mask
        note = f"{psnr(data, truth, brain):.2f} dB   SSIM {ssim(data, truth, brain):.3f}"
        return Panel(title, data.numpy(), note, judged=True)

    unsure = None
    if uncertainty is not None:
        deviation = uncertainty.data.cpu().float() / (subject.scale.high - subject.scale.low)
        unsure = Panel("uncertainty", deviation.numpy(), "one standard deviation")
    small_print = (
        f"{setting.description}. {detail}. Figures are for the brain ({subject.brain.how}). Radiological view. "
        f"Close-up: where {baseline_title} errs most in that slice. Restored volumes are synthetic: not for diagnosis."
    )
    if subject.doubtful_axes:
        letters = ", ".join("RAS"[axis] for axis in subject.doubtful_axes)
        small_print += f" The truth itself was interpolated along {letters}: its figures say little."
    return Comparison(
        title=f"{subject.case.title}   {setting.name}",
        caption=small_print,
        spacing=subject.truth.spacing,
        brain=subject.brain.mask.numpy(),
        panels=(
            Panel("coarse scan", blocks.numpy(), f"{spacing} mm"),
            judged(baseline_title, baseline),
            judged(ours_title, ours),
        ),
        truth=Panel("truth", truth.numpy(), f"noise ceiling {subject.ceiling:.1f} dB"),
        uncertainty=unsure,
        # Across thick slices the detail was lost in the planes that cut them: show one of those.
        close_up_axis=1 if setting.kind == "thick" and setting.axis != 1 else 2,
    )
