"""Signal equations against numbers worked out by hand, and the order of tissues that every radiologist knows."""

from __future__ import annotations

import math

import numpy as np
import pytest

from scorefusion.synthesis import sequences, tissue
from scorefusion.synthesis.labels import FLUIDS, Tissue

WHITE, GREY, FLUID, LESION = Tissue.WHITE_MATTER, Tissue.CORTEX, Tissue.VENTRICLES, Tissue.LESION
MIDDLE = (tissue.WATER_LEVELS // 2, tissue.IRON_LEVELS // 2)
FULLY_ILL = (tissue.WATER_LEVELS - 1, tissue.IRON_LEVELS // 2)


class TestEquations:
    def test_spin_echo_by_hand(self) -> None:
        # 0.7 (1 - exp(-1)) exp(-2) = 0.7 * 0.63212 * 0.13534
        signal = sequences.spin_echo(1000.0, 50.0, 0.7, tr=1000.0, te=100.0)
        assert float(signal) == pytest.approx(0.059884, rel=1e-4)

    def test_gradient_echo_by_hand(self) -> None:
        # E1 = exp(-0.02) = 0.980199; sin 30 = 0.5; cos 30 = 0.866025; T2* factor exp(-0.1) = 0.904837
        signal = sequences.gradient_echo(1000.0, 50.0, 1.0, tr=20.0, te=5.0, flip=30.0)
        assert float(signal) == pytest.approx(0.5 * 0.0198013 / (1 - 0.866025 * 0.980199) * 0.904837, rel=1e-5)

    def test_gradient_echo_peaks_at_the_ernst_angle(self) -> None:
        tr, t1 = 15.0, 900.0
        ernst = math.degrees(math.acos(math.exp(-tr / t1)))
        angles = np.array([ernst - 2, ernst, ernst + 2])
        low, top, high = (sequences.gradient_echo(t1, 50.0, 1.0, tr=tr, te=3.0, flip=a) for a in angles)
        assert top > low
        assert top > high

    def test_inversion_recovery_is_zero_at_the_null_time(self) -> None:
        ti = sequences.null_inversion_time(4000.0, tr=9000.0)
        assert ti == pytest.approx(4000.0 * (math.log(2) - math.log1p(math.exp(-2.25))))
        signal = sequences.inversion_recovery(4000.0, 2000.0, 1.0, tr=9000.0, te=100.0, ti=ti)
        assert float(signal) == pytest.approx(0.0, abs=1e-12)

    def test_inversion_recovery_without_inversion_time_is_a_negated_spin_echo(self) -> None:
        # |1 - 2 + exp(-TR/T1)| = 1 - exp(-TR/T1)
        args = {"tr": 2000.0, "te": 80.0}
        ir = sequences.inversion_recovery(900.0, 80.0, 0.8, ti=0.0, **args)
        assert float(ir) == pytest.approx(float(sequences.spin_echo(900.0, 80.0, 0.8, **args)))

    @pytest.mark.parametrize("t1", [400.0, 850.0, 1400.0, 4200.0])
    def test_mprage_agrees_with_pulse_by_pulse_simulation(self, t1: float) -> None:
        tr, ti, flip, spacing, echoes = 2300.0, 950.0, 9.0, 7.0, 160
        m, centre = 1.0, 0.0
        before, after = ti - 0.5 * echoes * spacing, tr - ti - 0.5 * echoes * spacing
        for _ in range(30):  # cycles, to the steady state
            m = 1 + (-m - 1) * math.exp(-before / t1)
            for echo in range(echoes):
                if echo == echoes // 2:
                    centre = m
                m = 1 + (m * math.cos(math.radians(flip)) - 1) * math.exp(-spacing / t1)
            m = 1 + (m - 1) * math.exp(-after / t1)
        expected = abs(centre) * math.sin(math.radians(flip)) * math.exp(-3.0 / 50.0)
        signal = sequences.mprage(t1, 50.0, 1.0, tr=tr, te=3.0, ti=ti, flip=flip, spacing=spacing, echoes=echoes)
        # The closed form takes the pulses of the train as a steady pull: right to about 1 % of full magnetisation.
        assert float(signal) == pytest.approx(expected, abs=0.01 * math.sin(math.radians(flip)))


@pytest.mark.parametrize("field", [1.5, 3.0])
class TestOrderOfTissues:
    """With published means and the settings of a textbook."""

    def palette(self, field: float, protocol: sequences.Protocol) -> np.ndarray:
        return tissue.plausible_palette(tissue.mean_tissues(field), protocol)

    @pytest.mark.parametrize("kind", ["mprage", "gradient_echo", "spin_echo"])
    def test_t1w_white_over_grey_over_fluid(self, field: float, kind: str) -> None:
        protocols = {
            "mprage": sequences.Protocol("mprage", field, 2300, 3, 900, 9, 7, 160),
            "gradient_echo": sequences.Protocol("gradient_echo", field, 15, 4, flip=20),
            "spin_echo": sequences.Protocol("spin_echo", field, 500, 10),
        }
        signal = self.palette(field, protocols[kind])
        white, grey, fluid = (signal[row][MIDDLE] for row in (WHITE, GREY, FLUID))
        assert white > grey > fluid
        assert 0.55 < grey / white < 0.9
        assert fluid / white < 0.45
        nuclei = [signal[row][MIDDLE] for row in (Tissue.CAUDATE, Tissue.PUTAMEN, Tissue.THALAMUS, Tissue.PALLIDUM)]
        assert grey < min(nuclei)
        assert max(nuclei) < white
        assert nuclei == sorted(nuclei)  # caudate darkest, pallidum brightest

    def test_t2w_fluid_brightest_and_grey_over_white(self, field: float) -> None:
        signal = self.palette(field, sequences.Protocol("spin_echo", field, 4500, 100))
        white, grey, fluid = (signal[row][MIDDLE] for row in (WHITE, GREY, FLUID))
        assert fluid > max(signal[row][MIDDLE] for row in range(1, Tissue.LESION) if row not in FLUIDS)
        assert 1.2 < grey / white < 1.7
        assert fluid > 2 * grey
        assert white < signal[LESION][FULLY_ILL] < fluid

    def test_flair_fluid_dark_lesion_bright(self, field: float) -> None:
        fluid_t1 = float(tissue.mean_tissues(field).means.t1[FLUID])
        ti = sequences.null_inversion_time(fluid_t1, 9000)
        signal = self.palette(field, sequences.Protocol("inversion_recovery", field, 9000, 110, ti))
        white, grey, fluid = (signal[row][MIDDLE] for row in (WHITE, GREY, FLUID))
        assert fluid < 0.1 * white
        assert 1.0 < grey / white < 1.4
        assert signal[LESION][FULLY_ILL] > 1.25 * grey

    def test_pd_grey_over_white(self, field: float) -> None:
        signal = self.palette(field, sequences.Protocol("spin_echo", field, 3500, 15))
        white, grey, fluid = (signal[row][MIDDLE] for row in (WHITE, GREY, FLUID))
        assert 1.05 < grey / white < 1.25
        assert fluid > 0.6 * white

    def test_contrast_agent_brightens_blood_and_tumour_only(self, field: float) -> None:
        protocol = sequences.Protocol("gradient_echo", field, 15, 4, flip=20)
        tissues = tissue.mean_tissues(field)
        before = tissue.plausible_palette(tissues, protocol)
        after = tissue.plausible_palette(tissues, protocol, enhanced=True)
        for row in (Tissue.VESSEL, tissue.TUMOUR):
            assert after[row][MIDDLE] > 1.3 * before[row][MIDDLE]
        for row in (WHITE, GREY, FLUID):
            assert after[row][MIDDLE] == before[row][MIDDLE]


class TestPalettes:
    def test_a_mixture_goes_straight_from_one_tissue_to_the_other(self) -> None:
        protocol = sequences.Protocol("spin_echo", 3.0, 4500, 100)
        signal = tissue.plausible_palette(tissue.mean_tissues(3.0), protocol)
        lesion = signal[LESION, :, MIDDLE[1]]
        assert lesion[0] == pytest.approx(signal[WHITE][MIDDLE])
        assert np.allclose(np.diff(lesion), (lesion[-1] - lesion[0]) / (tissue.WATER_LEVELS - 1))

    def test_drawn_tissues_scatter_around_the_means(self) -> None:
        drawn = [tissue.draw_tissues(np.random.default_rng(seed), 3.0).means.t1[WHITE] for seed in range(200)]
        assert np.mean(drawn) == pytest.approx(840, rel=0.02)
        assert 0.045 < np.std(drawn) / 840 < 0.085  # 5 % common and 4 % own: 6.4 %

    def test_protocols_stay_within_what_hospitals_use(self) -> None:
        for seed in range(100):
            rng = np.random.default_rng(seed)
            flair = sequences.draw_protocol("flair", 3.0, 4200.0, rng)
            assert 7000 <= flair.tr <= 11000
            assert 0.94 <= flair.ti / sequences.null_inversion_time(4200.0, flair.tr) <= 1.04
            assert 75 <= sequences.draw_protocol("t2", 3.0, 4200.0, rng).te <= 110

    def test_random_palettes_have_no_order(self) -> None:
        palettes = [tissue.random_palette(np.random.default_rng(seed)) for seed in range(60)]
        white_first = sum(p[WHITE][MIDDLE] > p[GREY][MIDDLE] for p in palettes)
        assert 15 < white_first < 45
        assert all((p >= 0).all() and (p[Tissue.BACKGROUND] == 0).all() for p in palettes)
