"""The tables of a translation benchmark, and a picture a person."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from scorefusion.evaluation.metrics import LEAST_SHARE
from scorefusion.evaluation.pictures import Comparison, Panel
from scorefusion.evaluation.report import (
    ALONG,
    COST,
    THROUGH_PLANE,
    Cell,
    Column,
    Report,
    Section,
    Table,
    apart_note,
    heading,
    lesion_sections,
    lesion_sentences,
    mean_and_range,
    mean_only,
    mean_table,
    picture_sections,
    row_table,
    score_table,
)
from scorefusion.evaluation.rows import Benchmark, Gain, Made, Row, gains
from scorefusion.evaluation.translation.pairs import WHOLE_HEAD, Pair, to_unit

_HOW = (
    "Intensities: each contrast is scaled by itself, as the models say (above), the sources before they are given to "
    "a method, the truth to be compared with: its range becomes [0, 1]. A method gives the target in that range; "
    "nobody is told the truth's scanner units, and nothing is clipped.",
    "Scores are taken slice by slice inside the brain mask (of single slices: inside the head), and averaged over the "
    f"slices with at least {LEAST_SHARE:.0%} of the largest slice's area in it: PSNR with range 1; SSIM in 2D, uniform "
    "7 x 7 window, as in scikit-image; MAE. Which slices: see the table of persons.",
    "MMD (paper): linear MMD of one volume, its summed squared error. MMD of slices: linear MMD with the volume's "
    "slices as the set, in which errors that differ from slice to slice cancel. Both grow with the volume.",
    "Nothing of the target was measured, so nothing is projected. Means are over persons, with the smallest and the "
    "largest value; no significance is claimed from so few.",
)
_STACKED = (
    "Along the axis across the scored slices this says how well slices fit their neighbours; where the truth was "
    "interpolated along it, 1 is the smoothness of interpolation."
)
_FIGURES: tuple[Column, ...] = (
    ("PSNR (dB)", "psnr", ".2f"), ("SSIM", "ssim", ".4f"), ("MAE", "mae", ".4f"), ("MMD (paper)", "mmd", ".4g"),
    ("MMD of slices", "mmd_slices", ".4g"),
)  # fmt: skip
_CHANGE: tuple[Column, ...] = tuple((name.replace("along", "change"), figure, form) for name, figure, form in ALONG)


def document(benchmark: Benchmark, pictures: Sequence[Path] = ()) -> Report:
    """The whole report."""
    rows, facts = benchmark.rows, benchmark.facts
    main = score_table("PSNR (dB) / SSIM; the best SSIM of a person stands out", rows, facts, ("psnr", "ssim"), "ssim")
    tables = [main, mean_table("Means over persons (range)", rows, _FIGURES)]
    lines: list[list[Cell | str]] = [[gain.label, *cells] for gain, cells in _gain_cells(benchmark)]
    if lines:
        header = ["method", "PSNR (dB)", "SSIM", "persons with better SSIM"]
        tables.append(Table("Gain over the best baseline of each person (mean and range)", header, lines))
    if not any(f["single_slice"] for f in facts):
        tables.append(mean_table(THROUGH_PLANE, rows, ALONG, _STACKED))
    tables.append(mean_table("Cost (means)", rows, COST, show=mean_only))
    sections = [Section(f"Scores in the {_region(facts)}, slice by slice", apart_note(facts), tables)]
    sections += lesion_sections(rows, facts, "What the model does to lesions")
    every = row_table(rows, "person", (*_FIGURES, *_CHANGE, ("s", "seconds", ".2f")))
    sections.append(Section("Persons, and every row", (), [_person_table(facts), every]))
    title = f"Translation: {benchmark.caption['direction']}"
    return Report(title, benchmark.caption, _HOW, [*sections, *picture_sections(pictures)])


def terminal(benchmark: Benchmark) -> tuple[list[Table], list[str]]:
    """The first table, and the gains and what became of the lesions in words."""
    rows, facts = benchmark.rows, benchmark.facts
    title = f"{benchmark.caption['direction']}: PSNR (dB) / SSIM in the {_region(facts)}, slice by slice"
    said = [
        f"{gain.label}: {psnr.text} dB, SSIM {ssim.text} over the best baseline of each person"
        for gain, (psnr, ssim, _) in _gain_cells(benchmark)
    ]
    return [score_table(title, rows, facts, ("psnr", "ssim"), "ssim")], [*said, *lesion_sentences(rows)]


def _gain_cells(benchmark: Benchmark) -> list[tuple[Gain, list[Cell]]]:
    """PSNR, SSIM and on how many persons SSIM is higher than any baseline's; without those kept apart."""
    apart = {f["title"] for f in benchmark.facts if f["apart"]}
    found = []
    for by_psnr, by_ssim in zip(gains(benchmark.rows, "psnr"), gains(benchmark.rows, "ssim"), strict=True):
        psnr, ssim = ([v for who, v in g.per_subject.items() if who not in apart] for g in (by_psnr, by_ssim))
        better = sum(value > 0 for value in ssim)
        counted = Cell(f"{better} of {len(ssim)}", better)
        found.append((by_psnr, [mean_and_range(psnr, "+.2f"), mean_and_range(ssim, "+.4f"), counted]))
    return found


def _region(facts: Sequence[Mapping[str, Any]]) -> str:
    """Single slices of heads come without a brain mask."""
    return "head" if any(f["brain"].startswith(WHOLE_HEAD) for f in facts) else "brain"


def _person_table(facts: Sequence[Mapping[str, Any]]) -> Table:
    header = ["person", "contrasts", "shape", "spacing (mm)", "scored slices", "brain region", "truth's range",
              "baselines learned from", "model"]  # fmt: skip
    lines = []
    for f in facts:
        contrasts = f"{_sources(f['contrasts'])} to {f['contrasts'][-1].upper()}"
        shape, spacing = " x ".join(map(str, f["shape"])), " x ".join(f"{s:.3g}" for s in f["spacing_mm"])
        slices = f"{f['slices']} normal to {f['axis']} ({f['why_axis']})"
        region = f"{f['brain']} ({f['brain_voxels']} voxels)"
        extent = "{:.4g} to {:.4g}".format(*f["intensity_range"])
        teachers, models = ", ".join(f["teachers"]) or "nobody", ", ".join(f["models"])
        lines.append([heading(f), contrasts, shape, spacing, slices, region, extent, teachers, models])
    return Table("Persons", header, lines)


def _sources(contrasts: Sequence[str]) -> str:
    return " + ".join(name.upper() for name in contrasts[:-1])


# -- pictures ----------------------------------------------------------------------------------------------------------

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


def compare_translations(pair: Pair, made: Mapping[str, Made], rows: Sequence[Row]) -> Comparison:
    """Columns and captions of one picture: the sources, what some methods made of them, the truth."""
    shown = _shown(rows)
    panels = [
        Panel(contrast.upper(), _own_range(source), f"input '{name}'")
        for (name, source), contrast in zip(pair.sources.items(), pair.contrasts, strict=False)
    ]
    for row, title in shown:
        note = f"{row['psnr']:.2f} dB   SSIM {row['ssim']:.3f}"
        panels.append(Panel(title, made[row.method].data.numpy(), note, judged=True))
    sources, target = _sources(pair.contrasts), pair.contrasts[-1].upper()
    what = "; ".join(f"{title}: {row.label}" for row, title in shown)
    place = "where the lesion mask is largest" if pair.lesion is not None else f"where {shown[0][1]} errs most"
    caption = (
        f"Made from {sources}; the {target} was not shown to any method. {what}. "
        f"Figures: means over {pair.plane.value} slices in the scored region ({pair.brain.how}). "
        f"Scored plane: {pair.why_axis}. Radiological view. Close-up: {place}. "
        "Translated images are synthetic: not for diagnosis."
    )
    truth = Panel(f"truth: {target}", pair.truth.numpy(), "measured")
    focus = None if pair.lesion is None else pair.lesion.inside.numpy()
    title = f"{pair.name}   {sources} to {target}"
    return Comparison(title, caption, pair.base.spacing, pair.brain.mask.numpy(), panels, truth, None, pair.axis, focus)


def _own_range(source: Tensor) -> NDArray[Any]:
    """An input on a grey scale of its own: where its median is set, white matter may lie above 1."""
    unit = to_unit(source).numpy()
    seen = unit[unit > 0]
    return unit / max(1.0, float(np.quantile(seen, BRIGHT))) if seen.size else unit


def _shown(rows: Sequence[Row]) -> list[tuple[Row, str]]:
    """One row for each rule that is shown."""
    first: dict[str, Row] = {}
    for row in rows:
        first.setdefault(row.method.partition("@")[0].rpartition(":")[2], row)
    shown = [(first[rule], title) for rule, title in COLUMNS.items() if rule in first]
    if not any(row.family == "model" for row, _ in shown):
        shown += [(first[rule], title) for rule, title in _INSTEAD.items() if rule in first][:1]
    return shown or [(rows[0], rows[0].label)]
