"""Landmarks stay where they are, from node to file, through the worker, and back to a node."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import slicer
import slicer.util
from helpers_geometry import blob, centre_of_mass, oblique_affine, rigid

from ScoreFusionLib.logic.errors import RunError
from ScoreFusionLib.logic.geometry import affine_from_node, plan_frame, world_affine
from ScoreFusionLib.logic.job import TranslateJob
from ScoreFusionLib.logic.request import JobInputs, TranslateRequest


def add_transform(scene: Any, matrix: np.ndarray, name: str = "T") -> Any:
    node = scene.AddNewNodeByClass("vtkMRMLLinearTransformNode", name)
    node.SetMatrixTransformToParent(slicer.util.vtkMatrixFromArray(matrix))
    return node


def run(scene: Any, node: Any, model: Any) -> Any:
    job = TranslateJob(scene, JobInputs({"image": node}), TranslateRequest(model="test-sr"), model)
    job.start()
    return job.wait()


class TestLandmarks:
    @pytest.mark.parametrize("seed", range(50))
    def test_a_landmark_keeps_its_place_in_the_world(
        self, seed: int, scene: Any, add_volume: Any, in_process_worker: None, model: Any
    ) -> None:
        rng = np.random.default_rng(seed)
        shape = tuple(int(n) for n in rng.integers(11, 17, size=3))
        affine = oblique_affine(rng)
        landmark = np.array(shape) / 2 + rng.uniform(-1.0, 1.0, size=3)
        node = add_volume("head", blob(shape, landmark).transpose(2, 1, 0), affine)
        if seed % 2:  # every other one under two transforms, the upper one rigid
            upper = add_transform(scene, rigid(rng), "upper")
            lower = add_transform(scene, rigid(rng), "lower")
            lower.SetAndObserveTransformNodeID(upper.GetID())
            node.SetAndObserveTransformNodeID(lower.GetID())
        before = world_affine(node) @ [*centre_of_mass(slicer.util.arrayFromVolume(node).transpose(2, 1, 0)), 1.0]

        result = run(scene, node, model)

        found = centre_of_mass(slicer.util.arrayFromVolume(result).transpose(2, 1, 0))
        after = world_affine(result) @ [*found, 1.0]
        spacing = np.linalg.norm(affine[:3, :3], axis=0).min()
        assert np.linalg.norm((after - before)[:3]) / spacing < 0.1
        assert result.GetTransformNodeID() is None  # hardened: the result lies in the world


class TestFrame:
    def test_a_volume_without_transform_keeps_its_affine(self, add_volume: Any) -> None:
        affine = oblique_affine(np.random.default_rng(1))
        node = add_volume("head", np.zeros((4, 5, 6), np.int16), affine)
        assert np.allclose(plan_frame({"image": node}).affines["image"], affine, atol=1e-9)

    def test_the_scene_is_left_alone(self, scene: Any, add_volume: Any) -> None:
        node = add_volume("head", np.zeros((4, 5, 6), np.int16))
        node.SetAndObserveTransformNodeID(add_transform(scene, rigid(np.random.default_rng(2))).GetID())
        before = affine_from_node(node)
        plan_frame({"image": node})
        assert np.array_equal(affine_from_node(node), before)
        assert node.GetTransformNodeID() is not None

    def test_shear_is_carried_over_to_the_result(
        self, scene: Any, add_volume: Any, in_process_worker: None, model: Any
    ) -> None:
        shear = np.eye(4)
        shear[0, 1] = 0.3
        node = add_volume("head", blob((12, 13, 14), np.array([6.0, 6.0, 7.0])).transpose(2, 1, 0))
        node.SetAndObserveTransformNodeID(add_transform(scene, shear).GetID())
        result = run(scene, node, model)
        assert result.GetTransformNodeID() == node.GetTransformNodeID()
        assert np.allclose(affine_from_node(result), affine_from_node(node), atol=1e-4)

    def test_a_nonlinear_transform_is_carried_over_to_the_result(self, scene: Any, add_volume: Any) -> None:
        node = add_volume("head", np.zeros((4, 5, 6), np.int16))
        node.SetAndObserveTransformNodeID(scene.AddNewNodeByClass("vtkMRMLBSplineTransformNode", "warp").GetID())
        frame = plan_frame({"image": node})
        assert frame.transform_id == node.GetTransformNodeID()
        assert "'warp'" in frame.notes[0]

    def test_inputs_under_different_bending_transforms_are_refused(self, scene: Any, add_volume: Any) -> None:
        first, second = (add_volume(name, np.zeros((4, 5, 6), np.int16)) for name in ("t1", "flair"))
        first.SetAndObserveTransformNodeID(scene.AddNewNodeByClass("vtkMRMLBSplineTransformNode", "warp").GetID())
        with pytest.raises(RunError, match="'t1' lies under a transform"):
            plan_frame({"t1": first, "flair": second})
