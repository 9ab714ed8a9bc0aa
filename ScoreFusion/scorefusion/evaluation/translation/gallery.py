"""Pictures of a translation benchmark: one PNG a person, from the sources to the truth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from scorefusion.evaluation.pictures import Comparison, Panel, draw_comparison
from scorefusion.evaluation.translation.pairs import Pair, to_unit
from scorefusion.evaluation.translation.run import PairRow

#: Rules that get a column each, at their first plan: heading by rule.
COLUMNS = {
    "linear": "linear",
    "regression": "U-Net regression",
    "volume": "3D diffusion",
    "average": "plane average",
    "fusion": "fusion",
}
#: The first of these that ran is shown where no model has a column above.
_INSTEAD = {"plane": "one plane", "source": "source"}
BRIGHT = 0.995  # quantile of what an input shows that is drawn white


class TranslationGallery:
    """Receives translations from `run_translation` and draws them.

    Args:
        folder: where the PNGs go.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.written: list[Path] = []

    def __call__(self, pair: Pair, made: Mapping[str, Tensor], rows: Sequence[PairRow]) -> None:
        name = f"{pair.case.case_id}_{pair.contrasts[-1]}.png"
        self.written.append(draw_comparison(compare_translations(pair, made, rows), self.folder / name))


def compare_translations(pair: Pair, made: Mapping[str, Tensor], rows: Sequence[PairRow]) -> Comparison:
    """Columns and captions of one picture.

    Args:
        made: `(I, J, K)` in the truth's [0, 1], by method key.
        rows: scores of the same methods.
    """
    shown = _columns(rows)
    panels = [
        Panel(contrast.upper(), _own_range(source), f"input '{name}'")
        for (name, source), contrast in zip(pair.sources.items(), pair.contrasts, strict=False)
    ]
    for row, heading in shown:
        note = f"{row.scores.psnr:.2f} dB   SSIM {row.scores.ssim:.3f}"
        panels.append(Panel(heading, made[row.method].numpy(), note, judged=True))
    target = pair.contrasts[-1].upper()
    what = "; ".join(f"{heading}: {row.label}" for row, heading in shown)
    place = "where the lesion mask is largest" if pair.lesion is not None else f"where {shown[0][1]} errs most"
    caption = (
        f"Made from {' + '.join(name.upper() for name in pair.contrasts[:-1])}; the {target} was not shown to any "
        f"method. {what}. Figures: means over {pair.plane.value} slices in the scored region ({pair.brain.how}). "
        f"Scored plane: {pair.why_axis}. Radiological view. Close-up: {place}. "
        "Translated images are synthetic: not for diagnosis."
    )
    return Comparison(
        title=f"{pair.case.case_id}   {' + '.join(name.upper() for name in pair.contrasts[:-1])} to {target}",
        caption=caption,
        spacing=pair.base.spacing,
        brain=pair.brain.mask.numpy(),
        panels=tuple(panels),
        truth=Panel(f"truth: {target}", pair.truth.numpy(), "measured"),
        close_up_axis=pair.axis,
        focus=None if pair.lesion is None else pair.lesion.inside.numpy(),
    )


def _own_range(source: Tensor) -> NDArray[Any]:
    """An input on a grey scale of its own: where its median is set, white matter may lie above 1."""
    unit = to_unit(source).numpy()
    seen = unit[unit > 0]
    return unit / max(1.0, float(np.quantile(seen, BRIGHT))) if seen.size else unit


def _columns(rows: Sequence[PairRow]) -> list[tuple[PairRow, str]]:
    """One row for each rule that is shown."""
    first: dict[str, PairRow] = {}
    for row in rows:
        first.setdefault(_rule(row), row)
    shown = [(first[rule], heading) for rule, heading in COLUMNS.items() if rule in first]
    if not any(row.family == "model" for row, _ in shown):
        shown += [(first[rule], heading) for rule, heading in _INSTEAD.items() if rule in first][:1]
    return shown or [(rows[0], rows[0].label)]


def _rule(row: PairRow) -> str:
    """The method's key without model and plan."""
    return row.method.partition("@")[0].rpartition(":")[2]
