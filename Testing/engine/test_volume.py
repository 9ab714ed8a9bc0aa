"""A landmark stays where it is in the world, whatever is done to the voxels."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import scorefusion
from scorefusion.errors import GeometryError, RequestError, VolumeError
from scorefusion.imaging.foreground import foreground_box
from scorefusion.imaging.grid import Box, Grid, Reorientation, overlap_fraction, super_resolution_grid
from scorefusion.imaging.volume import Volume, resample

SHAPE = (9, 12, 14)
OBLIQUE = np.array([[0.0, 0.31, -2.9, 40.0], [0.9, 0.0, 0.0, -51.0], [0.0, -1.16, -0.77, 62.0], [0.0, 0.0, 0.0, 1.0]])
OBLIQUE[:3, :3] = np.linalg.qr(OBLIQUE[:3, :3])[0] * (0.9, 1.2, 3.0)


def rotation(angles: tuple[float, float, float]) -> NDArray[np.float64]:
    """Turn about x, then y, then z, radians."""
    turn = np.eye(3)
    for axis, angle in enumerate(angles):
        a, b = (n for n in range(3) if n != axis)
        step = np.eye(3)
        step[a, a] = step[b, b] = np.cos(angle)
        step[b, a], step[a, b] = np.sin(angle), -np.sin(angle)
        turn = step @ turn
    return turn


@st.composite
def affines(draw: st.DrawFn, spacing: tuple[float, float] = (0.4, 6.0)) -> NDArray[np.float64]:
    """Oblique, permuted, flipped and anisotropic, all at once."""
    angles = draw(st.tuples(*[st.floats(-3.1, 3.1)] * 3))
    permutation = draw(st.permutations(range(3)))
    signs = draw(st.tuples(*[st.sampled_from((-1.0, 1.0))] * 3))
    affine = np.eye(4)
    affine[:3, :3] = rotation(angles)[:, permutation] * signs * draw(st.tuples(*[st.floats(*spacing)] * 3))
    affine[:3, 3] = draw(st.tuples(*[st.floats(-150, 150)] * 3))
    return affine


indices = st.tuples(*(st.integers(0, n - 1) for n in SHAPE))


def marked(affine: NDArray[np.float64], index: tuple[int, int, int]) -> Volume:
    """A volume whose only bright voxel is at `index`."""
    data = np.zeros((1, *SHAPE), np.float32)
    data[(0, *index)] = 1.0
    return Volume(data, affine, slice_axis=2)


def landmark(volume: Volume) -> NDArray[np.float64]:
    """World position of the brightest voxel, mm."""
    return volume.grid.index_to_world(np.unravel_index(volume.data[0].argmax(), volume.spatial_shape))


def centre_of_mass(volume: Volume) -> NDArray[np.float64]:
    """World position of the intensity-weighted mean, mm."""
    points = volume.grid.index_to_world(np.stack(np.indices(volume.spatial_shape), axis=-1))
    weights = volume.data[0, ..., None].astype(np.float64)
    return (points * weights).sum(axis=(0, 1, 2)) / weights.sum()


def voxels_apart(volume: Volume, a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """Distance of two world points, in voxels of `volume`."""
    return float(np.abs(volume.grid.world_to_index(a) - volume.grid.world_to_index(b)).max())


class TestGrid:
    def test_copies_its_affine_and_locks_it(self) -> None:
        mine = OBLIQUE.copy()
        grid = Grid(SHAPE, mine)
        mine[:] = 0
        assert np.array_equal(grid.affine, OBLIQUE)
        with pytest.raises(ValueError, match="read-only"):
            grid.affine[0, 0] = 5.0

    def test_affine_is_always_float64(self) -> None:
        assert Grid(SHAPE, np.diag([2, 3, 4, 1])).affine.dtype == np.float64

    @given(affines(), indices)
    def test_world_to_index_undoes_index_to_world(
        self, affine: NDArray[np.float64], index: tuple[int, int, int]
    ) -> None:
        grid = Grid(SHAPE, affine)
        np.testing.assert_allclose(grid.world_to_index(grid.index_to_world(index)), index, atol=1e-9)

    def test_spacing_origin_extent(self) -> None:
        grid = Grid(SHAPE, OBLIQUE)
        np.testing.assert_allclose(grid.spacing, (0.9, 1.2, 3.0))
        np.testing.assert_allclose(grid.extent_mm, (8.1, 14.4, 42.0))
        assert grid.origin == (40.0, -51.0, 62.0)

    @pytest.mark.parametrize(
        ("diagonal_of", "code"),
        [((0, 1, 2), "RAS"), ((2, 0, 1), "ASR"), ((1, 2, 0), "SRA")],
    )
    def test_orientation_of_permuted_axes(self, diagonal_of: tuple[int, int, int], code: str) -> None:
        affine = np.eye(4)
        affine[:3, :3] = np.diag((1.0, 2.0, 3.0))[list(diagonal_of)]
        assert Grid(SHAPE, affine).orientation == code
        affine[:3, :3] *= -1
        assert Grid(SHAPE, affine).orientation == code.translate(str.maketrans("RAS", "LPI"))

    def test_is_close_measures_the_far_corner(self) -> None:
        turned, shifted = OBLIQUE.copy(), OBLIQUE.copy()
        turned[:3, :3] = rotation((0, 0, 0.001)) @ turned[:3, :3]
        shifted[:3, 3] += 1e-6
        assert Grid(SHAPE, OBLIQUE).is_close(Grid(SHAPE, shifted))
        assert not Grid(SHAPE, OBLIQUE).is_close(Grid(SHAPE, turned))
        assert not Grid(SHAPE, OBLIQUE).is_close(Grid((9, 12, 15), OBLIQUE))

    @pytest.mark.parametrize(
        ("affine", "words"),
        [
            (np.eye(3), "4 x 4"),
            (np.diag([1.0, 0.0, 2.0, 1.0]), r"spacing is \(1, 0, 2\) mm"),
            (np.diag([1.0, np.nan, 2.0, 1.0]), "NaN"),
            (np.diag([1.0, 1.0, 2.0, 2.0]), "last row"),
            (np.array([[1, 1, 0, 0], [0, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]]), "singular"),
            (np.array([[1, 0.3, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]]), "sheared: 16.7 degrees"),
        ],
    )
    def test_refuses_an_affine_without_a_place_in_space(self, affine: NDArray[np.float64], words: str) -> None:
        with pytest.raises(GeometryError, match=words):
            Grid(SHAPE, affine)

    def test_accepts_the_shear_of_a_rounded_header(self) -> None:
        affine = np.eye(4)
        affine[0, 1] = 0.005
        assert Grid(SHAPE, affine).orientation == "RAS"

    def test_refuses_an_empty_shape(self) -> None:
        with pytest.raises(GeometryError, match="at least 1 voxel"):
            Grid((4, 0, 5), OBLIQUE)


class TestVolume:
    def test_needs_a_channel_axis(self) -> None:
        with pytest.raises(VolumeError, match=r"\(C, I, J, K\).*\(9, 12, 14\)"):
            Volume(np.zeros(SHAPE, np.float32), OBLIQUE)

    def test_is_float32_and_does_not_copy_it(self) -> None:
        data = np.zeros((1, *SHAPE), np.float32)
        assert Volume(data, OBLIQUE).data is data
        assert Volume(data.astype(np.int16), OBLIQUE).data.dtype == np.float32

    def test_complaints_name_the_source(self) -> None:
        with pytest.raises(GeometryError, match=r"'scan\.nii'.*spacing"):
            Volume(np.zeros((1, *SHAPE)), np.diag([1, 0, 1, 1]), source="scan.nii")
        with pytest.raises(VolumeError, match=r"'scan\.nii'.*thickness"):
            Volume(np.zeros((1, *SHAPE)), OBLIQUE, slice_thickness=-1.0, source="scan.nii")
        with pytest.raises(VolumeError, match=r"'scan\.nii'.*slice_axis"):
            Volume(np.zeros((1, *SHAPE)), OBLIQUE, slice_axis=3, source="scan.nii")

    def test_with_data_keeps_the_place_and_refuses_another_shape(self) -> None:
        volume = Volume(np.zeros((1, *SHAPE)), OBLIQUE, contrast="t1")
        other = volume.with_data(np.ones((2, *SHAPE), np.float32))
        assert other.grid.is_close(volume.grid)
        assert other.contrast == "t1"
        with pytest.raises(VolumeError, match="does not fit"):
            volume.with_data(np.ones((1, 14, 12, 9), np.float32))

    def test_prints_itself_in_one_line(self) -> None:
        text = repr(Volume(np.zeros((1, *SHAPE)), np.diag([1, 2, 3.5, 1]), source="scan.nii"))
        assert text == "Volume('scan.nii': Grid(9 x 12 x 14 voxels of 1 x 2 x 3.5 mm, RAS))"

    def test_check_voxels_counts_what_is_not_finite(self) -> None:
        data = np.arange(np.prod(SHAPE), dtype=np.float32).reshape(1, *SHAPE)
        Volume(data, OBLIQUE).check_voxels()
        data[0, 0, 0, :3] = (np.nan, np.inf, -np.inf)
        with pytest.raises(VolumeError, match="NaN or infinite values in 3 of 1512 voxels"):
            Volume(data, OBLIQUE).check_voxels()

    def test_importing_it_loads_neither_torch_nor_file_libraries(self) -> None:
        code = "import sys, scorefusion.imaging.volume, scorefusion.imaging.intensity; print(*sys.modules)"
        env = {**os.environ, "PYTHONPATH": str(Path(scorefusion.__file__).parents[1])}
        run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env)
        assert not {"torch", "nibabel", "SimpleITK"} & set(run.stdout.split())


class TestCanonical:
    @given(affines(), indices)
    def test_landmark_stays_and_axes_point_right_front_up(
        self, affine: NDArray[np.float64], index: tuple[int, int, int]
    ) -> None:
        volume = marked(affine, index)
        turned, _ = volume.canonical()
        assert turned.orientation == "RAS"
        np.testing.assert_allclose(landmark(turned), landmark(volume), atol=1e-9)

    @given(affines(), indices)
    def test_inverse_is_exact(self, affine: NDArray[np.float64], index: tuple[int, int, int]) -> None:
        volume = marked(affine, index)
        turned, reorientation = volume.canonical()
        back = turned.reoriented(reorientation.inverse)
        assert np.array_equal(back.data, volume.data)
        np.testing.assert_allclose(back.affine, volume.affine, atol=1e-10)
        assert back.slice_axis == volume.slice_axis

    @given(affines())
    def test_agrees_with_nibabel(self, affine: NDArray[np.float64]) -> None:
        orientations = pytest.importorskip("nibabel.orientations")
        cosines = np.abs(affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0))
        if np.sort(cosines, axis=0)[1].max() > 0.6:  # nearly halfway between two world axes: either answer is right
            return
        assert Grid(SHAPE, affine).orientation == "".join(orientations.aff2axcodes(affine))

    def test_slice_axis_moves_along(self) -> None:
        affine = np.eye(4)
        affine[:3, :3] = [[0, 0, 1], [1, 0, 0], [0, 1, 0]]  # i to the front, j up, k to the right
        turned, reorientation = marked(affine, (1, 2, 3)).canonical()
        assert turned.spatial_shape == (14, 9, 12)
        assert turned.slice_axis == 0
        assert reorientation.axis_to_canonical(2) == 0
        assert reorientation.axis_from_canonical(0) == 2

    @given(affines())
    def test_inverts_a_grid_that_was_subdivided(self, affine: NDArray[np.float64]) -> None:
        grid = Grid(SHAPE, affine)
        reorientation = Reorientation.to_canonical(grid)
        there = super_resolution_grid(reorientation.apply_to_grid(grid), 0.8)
        assert reorientation.invert_grid(there).is_close(super_resolution_grid(grid, 0.8), tolerance_mm=1e-6)

    def test_data_can_go_to_torch(self) -> None:
        turned, _ = marked(-np.diag([1.0, 1.0, 1.0, -1.0]), (1, 2, 3)).canonical()
        assert turned.data.flags.c_contiguous


class TestCrop:
    @given(affines(), indices, st.integers(0, 3))
    def test_landmark_stays(self, affine: NDArray[np.float64], index: tuple[int, int, int], margin: int) -> None:
        volume = marked(affine, index)
        part = volume.crop(foreground_box(volume.data[0] > 0, margin))
        np.testing.assert_allclose(landmark(part), landmark(volume), atol=1e-9)
        assert max(part.spatial_shape) <= 2 * margin + 1

    def test_is_a_copy(self) -> None:
        volume = marked(OBLIQUE, (1, 2, 3))
        volume.crop(Box((0, 0, 0), (4, 5, 6))).data[:] = 7
        assert volume.data.max() == 1

    def test_refuses_a_box_outside(self) -> None:
        with pytest.raises(GeometryError, match="outside a volume of"):
            marked(OBLIQUE, (1, 2, 3)).crop(Box((0, 0, 0), (4, 5, 15)))

    def test_refuses_an_empty_box(self) -> None:
        with pytest.raises(GeometryError, match="below its stop"):
            Box((0, 5, 0), (4, 5, 6))


class TestForegroundBox:
    def test_holds_every_voxel_tightly(self) -> None:
        mask = np.zeros(SHAPE, bool)
        mask[2:5, 3, 7:13] = True
        assert foreground_box(mask) == Box((2, 3, 7), (5, 4, 13))
        assert foreground_box(mask, margin=2) == Box((0, 1, 5), (7, 6, 14))

    @given(indices, indices, st.integers(0, 4), st.integers(1, 8))
    def test_sizes_are_multiples_where_the_volume_allows(
        self, a: tuple[int, int, int], b: tuple[int, int, int], margin: int, multiple: int
    ) -> None:
        mask = np.zeros(SHAPE, bool)
        mask[a] = mask[b] = True
        box = foreground_box(mask, margin, multiple)
        box.check_inside(SHAPE)
        assert mask[box.slices].sum() == mask.sum()
        assert all(n % multiple == 0 or n == size for n, size in zip(box.shape, SHAPE, strict=True))

    def test_empty_mask_gives_everything(self) -> None:
        assert foreground_box(np.zeros(SHAPE, bool)) == Box((0, 0, 0), SHAPE)


class TestSuperResolutionGrid:
    @given(affines(), st.tuples(*[st.floats(0.3, 3.0)] * 3), st.booleans())
    @example(OBLIQUE, (1.0, 1.0, 1.0), True)
    def test_keeps_corner_extent_and_directions(
        self, affine: NDArray[np.float64], spacing: tuple[float, float, float], keep_finer: bool
    ) -> None:
        grid = Grid(SHAPE, affine)
        fine = super_resolution_grid(grid, spacing, keep_finer=keep_finer)
        for low_corner in ((-0.5, -0.5, -0.5), tuple(n - 0.5 for n in SHAPE)):
            high_corner = [-0.5 if c < 0 else n - 0.5 for c, n in zip(low_corner, fine.spatial_shape, strict=True)]
            np.testing.assert_allclose(fine.index_to_world(high_corner), grid.index_to_world(low_corner), atol=1e-6)
        np.testing.assert_allclose(fine.affine[:3, :3] / fine.spacing, grid.affine[:3, :3] / grid.spacing, atol=1e-9)

    def test_divides_coarse_axes_only(self) -> None:
        fine = super_resolution_grid(Grid((20, 30, 12), np.diag([0.9, 1.2, 5.0, 1.0])), 1.0)
        assert fine.spatial_shape == (20, 30, 60)  # 1.2 mm is near enough to 1 mm
        np.testing.assert_allclose(fine.spacing, (0.9, 1.2, 1.0))

    def test_resizes_every_axis_on_demand(self) -> None:
        fine = super_resolution_grid(Grid((20, 30, 12), np.diag([0.9, 1.2, 5.0, 1.0])), 1.0, keep_finer=False)
        assert fine.spatial_shape == (18, 36, 60)

    def test_spacing_divides_the_extent(self) -> None:
        fine = super_resolution_grid(Grid((20, 30, 7), np.diag([1.0, 1.0, 3.3, 1.0])), (1, 1, 1.2))
        assert fine.spatial_shape == (20, 30, 19)  # 23.1 mm / 1.2 mm = 19.25
        assert fine.spacing[2] == pytest.approx(23.1 / 19)

    @pytest.mark.parametrize("spacing", [0.0, -1.0, np.nan, (1.0, 0.0, 1.0)])
    def test_refuses_a_spacing_that_is_no_length(self, spacing: float) -> None:
        with pytest.raises(GeometryError, match="target spacing"):
            super_resolution_grid(Grid(SHAPE, OBLIQUE), spacing)


class TestResample:
    def test_survives_numbers_next_to_zero(self) -> None:
        affine = np.diag([1.0, 1.0, 2.0, 1.0])
        affine[0, 1] = 1e-310  # ITK's inversion of the direction breaks down on this
        volume = self.blob(affine)
        np.testing.assert_allclose(resample(volume, volume.grid).data, volume.data, atol=1e-6)

    @staticmethod
    def blob(affine: NDArray[np.float64], shape: tuple[int, int, int] = (13, 15, 17)) -> Volume:
        """A Gaussian of 1.3 voxels, a little off the middle."""
        offset = np.stack(np.indices(shape), axis=-1) - (np.array(shape) - 1) / 2 - (0.3, -0.4, 0.2)
        return Volume(np.exp(-(offset**2).sum(axis=-1) / (2 * 1.3**2))[None].astype(np.float32), affine)

    @pytest.mark.parametrize("interpolation", ["nearest", "linear", "cubic"])
    @settings(max_examples=15)
    @given(source=affines(spacing=(0.8, 2.5)), target=affines(spacing=(1.0, 1.5)))
    def test_landmark_stays_between_any_two_grids(
        self, interpolation: str, source: NDArray[np.float64], target: NDArray[np.float64]
    ) -> None:
        volume = self.blob(source)
        reach = 2 * 5.0 * max(volume.spacing)  # mm, across the blob
        shape = tuple(int(reach / s) + extra for s, extra in zip(Grid(SHAPE, target).spacing, (2, 4, 6), strict=True))
        target = target.copy()
        middle = (np.array(shape) - 1) / 2
        target[:3, 3] = centre_of_mass(volume) - target[:3, :3] @ middle
        moved = resample(volume, Grid(shape, target), interpolation, fill=0.0)
        assert moved.grid.is_close(Grid(shape, target))
        tolerance = 0.1 if interpolation != "nearest" else 0.5  # nearest moves each value by up to half a voxel
        assert voxels_apart(volume, centre_of_mass(moved), centre_of_mass(volume)) < tolerance

    @pytest.mark.parametrize("interpolation", ["linear", "cubic"])
    @settings(max_examples=15)
    @given(source=affines(spacing=(0.8, 3.0)))
    def test_landmark_stays_on_the_super_resolution_grid(self, interpolation: str, source: NDArray[np.float64]) -> None:
        volume = self.blob(source)
        fine = resample(volume, super_resolution_grid(volume.grid, 1.0), interpolation)
        assert voxels_apart(volume, centre_of_mass(fine), centre_of_mass(volume)) < 0.1

    @pytest.mark.parametrize("interpolation", ["nearest", "linear", "cubic"])
    @settings(max_examples=15)
    @given(source=affines())
    def test_own_grid_changes_nothing(self, interpolation: str, source: NDArray[np.float64]) -> None:
        volume = self.blob(source, shape=(5, 6, 7))
        same = resample(volume, volume.grid, interpolation)
        assert same.data.dtype == np.float32
        np.testing.assert_allclose(same.data, volume.data, atol=1e-4)

    def test_reorients_without_loss(self) -> None:
        volume = Volume(np.random.default_rng(0).random((1, *SHAPE)), OBLIQUE)
        turned, _ = volume.canonical()
        np.testing.assert_allclose(resample(volume, turned.grid, "nearest").data, turned.data)

    def test_each_channel_by_itself_with_its_own_fill(self) -> None:
        volume = Volume(np.stack([np.full(SHAPE, 3.0), np.full(SHAPE, -5.0)]), OBLIQUE)
        volume.data[:, 0, 0, 0] = (2.0, -7.0)
        away = volume.affine.copy()
        away[:3, 3] += 500
        assert np.unique(resample(volume, Grid((2, 3, 4), away)).data).tolist() == [-7.0, 2.0]
        assert np.unique(resample(volume, Grid((2, 3, 4), away), fill=9.0).data).tolist() == [9.0]

    def test_reaches_to_the_outer_faces(self) -> None:
        volume = Volume(np.full((1, *SHAPE), 3.0), OBLIQUE)
        fine = resample(volume, super_resolution_grid(volume.grid, 0.5), "linear", fill=0.0)
        assert fine.data.min() == pytest.approx(3.0)

    def test_refuses_an_unknown_interpolation(self) -> None:
        with pytest.raises(RequestError, match="'sinc'.*nearest, linear, cubic"):
            resample(self.blob(OBLIQUE), Grid(SHAPE, OBLIQUE), "sinc")


class TestOverlapFraction:
    def test_of_itself_and_of_far_away(self) -> None:
        grid = Grid(SHAPE, OBLIQUE)
        away = OBLIQUE.copy()
        away[:3, 3] += 500
        assert overlap_fraction(grid, grid) == 1.0
        assert overlap_fraction(grid, Grid(SHAPE, away)) == 0.0

    def test_is_the_share_of_the_first(self) -> None:
        whole = Grid(SHAPE, OBLIQUE)
        part = whole.crop(Box((0, 0, 0), (9, 6, 14)))
        assert overlap_fraction(part, whole) == 1.0
        assert overlap_fraction(whole, part) == pytest.approx(0.5, abs=0.05)
