"""Relaxation times and proton density of tissues, and the palettes that turn classes into signal.

Means are rounded from: Stanisz et al. 2005 (Magn Reson Med 54:507; white and grey matter, nerve, cord, muscle,
blood), Wansapura et al. 1999 (J Magn Reson Imaging 9:531; T2 and T2* at 3 T), Rooney et al. 2007 (Magn Reson Med
57:308; T1 of cortex and deep nuclei against field), Wright et al. 2008 (MAGMA 21:121; T1 at 1.5 and 3 T), Gelman et
al. 1999 (Radiology 210:759; T2 of deep nuclei at 3 T), Peters et al. 2007 (Magn Reson Imaging 25:748; T2*), Whittall
et al. 1997 (Magn Reson Med 37:34; water content and T2 at 1.5 T) and Gold et al. 2004 (AJR 183:343; fat, marrow,
muscle). Published means of one tissue differ by 10-20 % between methods (Bojorquez et al. 2017, Magn Reson Imaging
35:69); within that room they were set so that tissue ratios agree with real T1w, T2w and FLAIR scans. Skin, mucosa,
choroid plexus and diseased tissue are assumptions; disease is told as factors on white matter.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from scorefusion.synthesis.labels import Tissue
from scorefusion.synthesis.sequences import Protocol, Relaxation

if TYPE_CHECKING:
    from numpy.typing import NDArray


T = Tissue

# Rows of a palette beyond `Tissue`: mixtures, told apart from the classes that a user sees.
OEDEMA = len(Tissue)
TUMOUR = OEDEMA + 1
NECROSIS = OEDEMA + 2
NUM_ROWS = OEDEMA + 3

MIXTURES = {int(T.LESION): int(T.WHITE_MATTER), OEDEMA: int(T.WHITE_MATTER), int(T.SOFT_TISSUE): int(T.FAT)}
"""Rows whose first texture level is a share, 0 to 1: from the tissue named here to the row's own."""

WATER_LEVELS, IRON_LEVELS = 32, 8
"""Shades of a tissue in a palette, along its two textures; their steps are far below the noise."""

WATER_RANGE, IRON_RANGE = 2.5, 2.0
"""Textures are standard normal fields, cut off here."""

# row: T1 at 1.5 and 3 T, T2 at 1.5 and 3 T, T2* at 1.5 and 3 T (ms), proton density, texture (relative, within a head)
MEANS: dict[int, tuple[float, float, float, float, float, float, float, float]] = {
    T.WHITE_MATTER: (640, 840, 80, 72, 66, 50, 0.70, 0.03),
    T.CORTEX: (1170, 1390, 97, 91, 84, 66, 0.81, 0.05),
    T.CAUDATE: (1060, 1270, 88, 78, 59, 42, 0.81, 0.03),
    T.PUTAMEN: (980, 1180, 80, 70, 56, 34, 0.80, 0.03),
    T.PALLIDUM: (710, 900, 70, 60, 40, 28, 0.74, 0.03),
    T.THALAMUS: (890, 1080, 84, 75, 62, 46, 0.76, 0.05),
    T.HIPPOCAMPUS: (1180, 1400, 104, 97, 80, 60, 0.83, 0.03),
    T.VENTRICLES: (4100, 4200, 2000, 1800, 1500, 1200, 1.0, 0.01),
    T.CSF: (4000, 4100, 1800, 1600, 1200, 1000, 1.0, 0.03),
    T.CHOROID_PLEXUS: (1700, 2000, 180, 160, 90, 70, 0.90, 0.10),
    T.BRAIN_STEM: (770, 980, 83, 76, 60, 46, 0.73, 0.07),
    T.CEREBELLAR_WHITE: (670, 870, 82, 74, 64, 48, 0.71, 0.03),
    T.CEREBELLAR_CORTEX: (1120, 1330, 96, 90, 80, 62, 0.82, 0.05),
    T.VESSEL: (1440, 1900, 180, 80, 80, 30, 0.85, 0.20),
    T.NERVE: (780, 1030, 78, 76, 55, 42, 0.72, 0.05),
    T.BONE: (300, 350, 1, 0.8, 0.5, 0.4, 0.15, 0.30),
    T.MARROW: (330, 380, 110, 95, 25, 18, 0.60, 0.22),
    T.SKIN: (700, 850, 40, 35, 20, 15, 0.70, 0.20),
    T.FAT: (290, 370, 150, 130, 40, 30, 0.85, 0.10),
    T.SOFT_TISSUE: (1100, 1400, 38, 33, 28, 24, 0.80, 0.10),
    T.MUSCLE: (1100, 1400, 38, 33, 28, 24, 0.80, 0.08),
    T.EYE: (3800, 4000, 1500, 1300, 900, 700, 1.0, 0.02),
    T.MUCOSA: (1250, 1500, 120, 105, 40, 30, 0.85, 0.20),
}

# Diseased tissue as factors on white matter: T1, T2, proton density, each from ... to.
DISEASE: dict[int, tuple[tuple[float, float], tuple[float, float], tuple[float, float]]] = {
    T.LESION: ((1.15, 1.9), (1.3, 2.1), (1.05, 1.20)),
    OEDEMA: ((1.25, 1.7), (1.4, 2.1), (1.08, 1.20)),
    TUMOUR: ((1.4, 2.2), (1.25, 2.2), (1.08, 1.20)),
    NECROSIS: ((2.8, 4.2), (4.0, 9.0), (1.25, 1.40)),
}

ENHANCING = {int(T.VESSEL): 0.25, int(T.CHOROID_PLEXUS): 0.3, int(T.MUCOSA): 0.35, int(T.SKIN): 0.8, TUMOUR: 0.4}
"""Factor on T1 after gadolinium, where blood reaches the tissue."""

FATTY = {int(T.FAT): 1.0, int(T.MARROW): 0.8}
"""How much of a tissue's signal comes from fat."""


@dataclass(frozen=True, eq=False)
class Tissues:
    """The tissues of one head at one field strength, shared by all its contrasts.

    Attributes:
        field: tesla, 1.5 or 3.
        means: each `(NUM_ROWS,)`.
        texture: `(NUM_ROWS,)` relative spread within the tissue.
    """

    field: float
    means: Relaxation
    texture: NDArray[np.float64]

    def shades(self, *, enhanced: bool = False) -> Relaxation:
        """Each tissue in all its shades, `(NUM_ROWS, WATER_LEVELS, IRON_LEVELS)`.

        More water lengthens T1 and T2 and adds protons; more iron (or myelin) shortens T2 most.
        """
        water, iron = shade_axes()
        spread = self.texture[:, None, None]
        water, iron = spread * water[None, :, None], spread * iron[None, None, :]
        t1 = self.means.t1.copy()
        if enhanced:
            for row, factor in ENHANCING.items():
                t1[row] *= factor
        column = (slice(None), None, None)
        return Relaxation(
            t1=t1[column] * np.exp(water + 0.3 * iron),
            t2=self.means.t2[column] * np.exp(0.8 * water - 0.8 * iron),
            t2_star=self.means.t2_star[column] * np.exp(0.8 * water - iron),
            pd=self.means.pd[column] * np.exp(0.3 * water + 0.1 * iron),
        )

    def to_dict(self) -> dict[str, Any]:
        """For JSON: means by tissue name."""
        rows = {tissue.name.lower(): int(tissue) for tissue in T if tissue != T.BACKGROUND}
        rows.update(oedema=OEDEMA, tumour=TUMOUR, necrosis=NECROSIS)
        values = {key: getattr(self.means, key) for key in ("t1", "t2", "t2_star", "pd")}
        return {name: {key: round(float(value[row]), 3) for key, value in values.items()} for name, row in rows.items()}


def shade_axes() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Texture values of the levels of a palette, in standard deviations."""
    return np.linspace(-WATER_RANGE, WATER_RANGE, WATER_LEVELS), np.linspace(-IRON_RANGE, IRON_RANGE, IRON_LEVELS)


def mean_tissues(field: float) -> Tissues:
    """The published means at 1.5 or 3 T, without any chance; diseased tissue at the middle of its range."""
    at_3t = int(field >= 2.25)
    values = np.full((NUM_ROWS, 5), 1.0)
    values[T.BACKGROUND] = (1000.0, 50.0, 30.0, 0.0, 0.0)
    for row, means in MEANS.items():
        values[row] = (means[at_3t], means[2 + at_3t], means[4 + at_3t], means[6], means[7])
    white = values[T.WHITE_MATTER]
    for row, ranges in DISEASE.items():
        f1, f2, fd = (0.5 * (low + high) for low, high in ranges)
        values[row] = (white[0] * f1, white[1] * f2, white[2] * f2, white[3] * fd, 0.06)
    t1, t2, t2_star, pd, texture = values.T.copy()
    return Tissues(field, Relaxation(t1, t2, t2_star, pd), texture)


def draw_tissues(rng: np.random.Generator, field: float | None = None) -> Tissues:
    """One head's tissues around the published means.

    A factor common to all tissues (temperature, age, the method behind the numbers) varies by 5 %, each tissue by
    another 4 %, the nuclei's T2 with age, and diseased tissue over its whole range.
    """
    field = float(rng.choice([1.5, 3.0])) if field is None else field
    mean = mean_tissues(field)
    common = np.exp(0.05 * rng.standard_normal((3, 1)))  # T1, T2, T2*
    own = np.exp(0.04 * rng.standard_normal((3, NUM_ROWS)))
    t1, t2, t2_star = np.stack([mean.means.t1, mean.means.t2, mean.means.t2_star]) * common * own
    pd = np.minimum(mean.means.pd * np.exp(0.02 * rng.standard_normal(NUM_ROWS)), 1.0)
    ageing = rng.uniform(0.85, 1.05)  # iron in the nuclei
    for nucleus in (T.PALLIDUM, T.PUTAMEN, T.CAUDATE):
        t2[nucleus] *= ageing
        t2_star[nucleus] *= ageing
    white = int(T.WHITE_MATTER)
    for row, ranges in DISEASE.items():
        f1, f2, fd = (rng.uniform(low, high) for low, high in ranges)
        t1[row], t2[row], t2_star[row], pd[row] = t1[white] * f1, t2[white] * f2, t2_star[white] * f2, pd[white] * fd
    texture = mean.texture * np.exp(0.3 * rng.standard_normal()) * np.exp(0.2 * rng.standard_normal(NUM_ROWS))
    return Tissues(field, Relaxation(t1, t2, t2_star, np.minimum(pd, 1.0)), texture)


def plausible_palette(
    tissues: Tissues, protocol: Protocol, *, enhanced: bool = False, flow: float = 1.0
) -> NDArray[np.float64]:
    """The signal of every shade, `(NUM_ROWS, WATER_LEVELS, IRON_LEVELS)`.

    Args:
        tissues: of the head.
        protocol: of the contrast.
        enhanced: after a gadolinium contrast agent.
        flow: factor on the signal of vessels; near 0 where spins leave before they are refocused.
    """
    palette = protocol.signal(tissues.shades(enhanced=enhanced))
    palette[T.BACKGROUND] = 0.0
    palette[T.VESSEL] *= flow
    for row, share in FATTY.items():
        palette[row] *= 1.0 - share + share * protocol.fat
    return mix_rows(palette)


def random_palette(rng: np.random.Generator) -> NDArray[np.float64]:
    """Any contrast at all: the mean and spread of each tissue at random, `(NUM_ROWS, WATER_LEVELS, IRON_LEVELS)`.

    Fluids share one mean, and so do nuclei with the cortex in half of the draws, since no sequence tears them apart.
    """
    mean = rng.uniform(0.05, 1.0, NUM_ROWS)
    mean[T.VENTRICLES] = mean[T.CSF] = mean[T.EYE] = rng.uniform(0.0, 1.0)
    mean[T.CEREBELLAR_WHITE] = mean[T.WHITE_MATTER] + 0.04 * rng.standard_normal()
    mean[T.CEREBELLAR_CORTEX] = mean[T.CORTEX] + 0.04 * rng.standard_normal()
    mean[T.BONE] *= 0.3
    if rng.random() < 0.5:
        share = rng.uniform(0.2, 1.0)
        for row in (T.CAUDATE, T.PUTAMEN, T.THALAMUS, T.HIPPOCAMPUS, T.PALLIDUM, T.BRAIN_STEM):
            mean[row] = mean[T.WHITE_MATTER] + share * (mean[T.CORTEX] - mean[T.WHITE_MATTER])
    spread = rng.uniform(0.0, 0.08, NUM_ROWS)
    water, iron = shade_axes()
    towards_water, towards_iron = rng.choice([-1.0, 1.0], NUM_ROWS), 0.5 * rng.standard_normal(NUM_ROWS)
    shades = towards_water[:, None, None] * water[None, :, None] + towards_iron[:, None, None] * iron[None, None, :]
    palette = np.maximum(mean[:, None, None] + spread[:, None, None] * shades, 0.0)
    palette[T.BACKGROUND] = 0.0
    return mix_rows(palette)


def mix_rows(palette: NDArray[np.float64]) -> NDArray[np.float64]:
    """Make the first texture of `MIXTURES` a share of two tissues: a voxel's signal is the sum of its parts."""
    mixed = palette.copy()
    share = np.linspace(0.0, 1.0, WATER_LEVELS)[:, None]
    middle = WATER_LEVELS // 2
    for row, other in MIXTURES.items():
        mixed[row] = (1.0 - share) * palette[other, middle] + share * palette[row, middle]
    return mixed
