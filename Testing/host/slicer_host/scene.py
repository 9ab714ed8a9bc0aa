"""The real MRML scene with the logics of the application."""

from __future__ import annotations

from typing import Any

import slicer
import vtk

# name in slicer.modules -> (name that the application logic knows, class of the logic)
_LOGICS = {
    "colors": ("Colors", "vtkSlicerColorLogic"),
    "sequences": ("Sequences", "vtkSlicerSequencesLogic"),
    "volumes": ("Volumes", "vtkSlicerVolumesLogic"),
    "volumerendering": ("VolumeRendering", "vtkSlicerVolumeRenderingLogic"),
    "segmentations": ("Segmentations", "vtkSlicerSegmentationsModuleLogic"),
    "transforms": ("Transforms", "vtkSlicerTransformLogic"),
    "markups": ("Markups", "vtkSlicerMarkupsLogic"),
    "cropvolume": ("CropVolume", "vtkSlicerCropVolumeLogic"),
    "subjecthierarchy": ("SubjectHierarchy", "vtkSlicerSubjectHierarchyModuleLogic"),
}


class SceneParts:
    """Owns the scene, the application logic and the module logics; the application keeps only weak references."""

    def __init__(self, cache_folder: str) -> None:
        self.application_logic = slicer.vtkSlicerApplicationLogic()
        self.scene = slicer.vtkMRMLScene()
        slicer.mrmlScene = self.scene
        self.application_logic.SetMRMLScene(self.scene)
        self.application_logic.SetHomeDirectory(cache_folder)  # else the colour logic complains
        # Reading a scene bundle (.mrb) unpacks it into the cache folder.
        self.cache, self.data_io = slicer.vtkCacheManager(), slicer.vtkDataIOManager()
        self.cache.SetRemoteCacheDirectory(cache_folder)
        self.cache.SetMRMLScene(self.scene)
        self.data_io.SetCacheManager(self.cache)
        self.scene.SetCacheManager(self.cache)
        self.scene.SetDataIOManager(self.data_io)
        self.color_logic = self.application_logic.GetColorLogic()
        self.color_logic.SetMRMLScene(self.scene)
        self.color_logic.AddDefaultColorNodes()
        self.slice_logics, self.view_logics = vtk.vtkCollection(), vtk.vtkCollection()
        self.application_logic.SetSliceLogics(self.slice_logics)
        self.application_logic.SetViewLogics(self.view_logics)
        slicer.vtkMRMLSliceNode.AddDefaultSliceOrientationPresets(self.scene, True)
        self.logics: dict[str, Any] = {}
        for attribute, (name, class_name) in _LOGICS.items():
            cls = getattr(slicer, class_name, None)
            if cls is None:
                continue
            logic = cls()
            logic.SetMRMLApplicationLogic(self.application_logic)  # before the scene
            logic.SetMRMLScene(self.scene)
            self.application_logic.SetModuleLogic(name, logic)
            self.logics[attribute] = logic
        self._hierarchy_observer = self.scene.AddObserver(self.scene.NodeAddedEvent, self._on_node_added)

    @vtk.calldata_type(vtk.VTK_OBJECT)
    def _on_node_added(self, _scene: Any, _event: str, node: Any) -> None:
        """Give a data node its item in the subject hierarchy at once, as the application's plugins do."""
        is_data = node.IsA("vtkMRMLDisplayableNode") or node.IsA("vtkMRMLTableNode") or node.IsA("vtkMRMLTextNode")
        if not is_data or node.GetHideFromEditors():
            return
        hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(self.scene)
        if hierarchy is not None and not hierarchy.GetItemByDataNode(node):
            hierarchy.CreateItem(hierarchy.GetSceneItemID(), node)

    def close(self) -> None:
        """Empty the scene and let the logics go."""
        self.scene.RemoveObserver(self._hierarchy_observer)
        vtk.vtkObject.GlobalWarningDisplayOff()  # the hierarchy complains that its scene goes
        self.scene.Clear(1)
        for name, logic in self.logics.items():
            if name != "subjecthierarchy":
                logic.SetMRMLScene(None)
        self.scene.SetDataIOManager(None)
        self.scene.SetCacheManager(None)
        self.slice_logics.RemoveAllItems()
        self.view_logics.RemoveAllItems()
        self.application_logic.SetMRMLScene(None)
        vtk.vtkObject.GlobalWarningDisplayOn()
