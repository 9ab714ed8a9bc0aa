"""`slicer.app.coreIOManager()`: reading and writing through the real storage nodes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import slicer
import vtk

# The file type of each kind of node, the more special classes first.
_FILE_TYPES = {
    "vtkMRMLSegmentationNode": "SegmentationFile",
    "vtkMRMLVolumeNode": "VolumeFile",
    "vtkMRMLTransformNode": "TransformFile",
    "vtkMRMLModelNode": "ModelFile",
    "vtkMRMLMarkupsNode": "MarkupsFile",
    "vtkMRMLTableNode": "TableFile",
    "vtkMRMLTextNode": "TextFile",
    "vtkMRMLColorTableNode": "ColorTableFile",
}
_EXTENSIONS = {
    "SceneFile": (".mrml", ".mrb"),
    "SegmentationFile": (".seg.nrrd",),
    "TransformFile": (".h5", ".tfm", ".mat", ".txt"),
    "VolumeFile": (".nrrd", ".nhdr", ".nii", ".nii.gz", ".mha", ".mhd", ".hdr", ".img", ".mgh", ".mgz", ".dcm", ".tif"),
    "ModelFile": (".vtk", ".vtp", ".stl", ".ply", ".obj"),
    "MarkupsFile": (".mrk.json", ".fcsv"),
    "TableFile": (".tsv", ".csv"),
    "ColorTableFile": (".ctbl",),
}
_NODE_CLASSES = {
    "TransformFile": "vtkMRMLTransformNode",
    "ModelFile": "vtkMRMLModelNode",
    "TableFile": "vtkMRMLTableNode",
    "TextFile": "vtkMRMLTextNode",
    "ColorTableFile": "vtkMRMLColorTableNode",
    "SegmentationFile": "vtkMRMLSegmentationNode",
}


class CoreIOManager:
    """Loads, saves and exports nodes."""

    def __init__(self, scene: Any, application_logic: Any, volumes_logic: Any) -> None:
        self._scene, self._application_logic, self._volumes_logic = scene, application_logic, volumes_logic

    # --- file types ---

    def fileType(self, filename: str) -> str:
        """Return the file type that reads a file."""
        lower = str(filename).lower()
        for kind, extensions in _EXTENSIONS.items():
            if lower.endswith(extensions):
                return kind
        return "TextFile" if lower.endswith((".json", ".txt", ".xml")) else "NoFile"

    def fileWriterFileType(self, node: Any) -> str:
        """Return the file type that writes a node."""
        return next((kind for cls, kind in _FILE_TYPES.items() if node.IsA(cls)), "NoFile")

    def fileWriterExtensions(self, node: Any) -> list[str]:
        """Return the formats in which a node can be written, like "NRRD (.nrrd)"."""
        storage = node.CreateDefaultStorageNode()
        if storage is None:
            return []
        storage.UnRegister(None)
        formats = storage.GetSupportedWriteFileTypes()
        if storage.IsA("vtkMRMLVolumeArchetypeStorageNode"):  # it leaves the list to ITK
            helper = slicer.vtkDataFileFormatHelper()
            formats = helper.GetITKSupportedWriteFileFormats()
        return [formats.GetValue(i) for i in range(formats.GetNumberOfValues())]

    def extractKnownExtension(self, filename: str, node: Any) -> str:
        """Return the longest extension of a file name that the node's formats know, with its dot."""
        helper = slicer.vtkDataFileFormatHelper
        known = (helper.GetFileExtensionFromFormatString(text) for text in self.fileWriterExtensions(node))
        matching = [extension for extension in known if str(filename).lower().endswith(extension.lower())]
        return max(matching, key=len) if matching else Path(filename).suffix

    def registeredFileReaderCount(self, fileType: str) -> int:
        """Return the number of readers of a file type."""
        return int(fileType in _EXTENSIONS)

    # --- reading ---

    def loadNodes(self, fileType: str, properties: dict[str, Any], nodes: Any = None, messages: Any = None) -> bool:
        """Read a file into the scene.

        Args:
            fileType: such as "VolumeFile".
            properties: "fileName", and options such as "name", "labelmap" or "show".
            nodes: a vtkCollection that gets the new nodes.
            messages: a vtkMRMLMessageCollection that gets the reasons of a failure.
        """
        if not isinstance(fileType, str):
            msg = f"loadNodes expects the file type as a string, got {type(fileType).__name__}"
            raise ValueError(msg)
        filename = properties["fileName"]
        if not Path(filename).exists():
            _tell(messages, f"File not found: {filename}")
            return False
        if fileType == "SceneFile":
            return self._load_scene(filename, properties.get("clear", True))
        node = (
            self._load_volume(properties, messages)
            if fileType == "VolumeFile"
            else self._load_other(fileType, properties, messages)
        )
        if node is None:
            return False
        if nodes is not None:
            nodes.AddItem(node)
        return True

    def _load_volume(self, properties: dict[str, Any], messages: Any) -> Any:
        filename = properties["fileName"]
        name = properties.get("name") or _stem(filename, _EXTENSIONS["VolumeFile"])
        flags = (("labelmap", 1), ("center", 2), ("singleFile", 4), ("discardOrientation", 16))
        options = sum(bit for key, bit in flags if properties.get(key))
        options += 8 * bool(properties.get("autoWindowLevel", True))
        node = self._volumes_logic.AddArchetypeVolume(filename, name, options, None, messages)
        if node is not None and properties.get("show", True):
            selection = self._application_logic.GetSelectionNode()
            if properties.get("labelmap"):
                selection.SetActiveLabelVolumeID(node.GetID())
            else:
                selection.SetActiveVolumeID(node.GetID())
            self._application_logic.PropagateVolumeSelection()
        return node

    def _load_other(self, file_type: str, properties: dict[str, Any], messages: Any) -> Any:
        class_name = _NODE_CLASSES.get(file_type)
        if class_name is None:
            _tell(messages, f"The host cannot read files of type {file_type}")
            return None
        filename = properties["fileName"]
        name = properties.get("name") or _stem(filename, _EXTENSIONS.get(file_type, ()))
        node = self._scene.CreateNodeByClass(class_name)
        node.UnRegister(None)
        node.SetName(self._scene.GetUniqueNameByString(name))
        storage = node.CreateDefaultStorageNode()
        storage.UnRegister(None)
        storage.SetFileName(filename)
        if not storage.ReadData(node):
            _tell(messages, f"Failed to read {filename}")
            return None
        self._scene.AddNode(storage)
        node = self._scene.AddNode(node)
        node.SetAndObserveStorageNodeID(storage.GetID())
        if hasattr(node, "CreateDefaultDisplayNodes"):
            node.CreateDefaultDisplayNodes()
        return node

    def _load_scene(self, filename: str, clear: bool) -> bool:
        if filename.endswith(".mrb"):
            return bool(self._scene.ReadFromMRB(filename, clear))
        self._scene.SetURL(filename)
        return bool(self._scene.Connect() if clear else self._scene.Import())

    # --- writing ---

    def saveNodes(self, fileType: str, properties: dict[str, Any], messages: Any = None) -> bool:
        """Write a node, or the scene, and remember the file name for the next time the scene is saved."""
        filename = str(properties["fileName"])
        if fileType == "SceneFile":
            return self._save_scene(filename)
        node = self._scene.GetNodeByID(properties["nodeID"])
        storage = node.GetStorageNode()
        if storage is None:
            node.AddDefaultStorageNode()
            storage = node.GetStorageNode()
        if storage is None:
            _tell(messages, f"A node of class {node.GetClassName()} cannot be written")
            return False
        return self._write(node, storage, filename, properties, messages)

    def _save_scene(self, filename: str) -> bool:
        if filename.endswith(".mrb"):
            return bool(self._scene.WriteToMRB(filename))
        if filename.endswith(".mrml"):
            self._scene.SetURL(filename)
            self._scene.SetRootDirectory(str(Path(filename).parent))
            return bool(self._scene.Commit())
        return bool(self._scene.SaveSceneToSlicerDataBundleDirectory(filename, None))

    def exportNodes(
        self,
        nodeIDs: list[str],
        fileNames: list[str],
        properties: dict[str, Any],
        hardenTransforms: bool,
        messages: Any = None,
    ) -> bool:
        """Write copies of nodes; the scene and the nodes' own file names stay as they are.

        Args:
            nodeIDs: the nodes.
            fileNames: their files.
            properties: options such as "useCompression".
            hardenTransforms: write as if the parent transforms were applied; otherwise they are left out.
            messages: gets the reasons of a failure.
        """
        if len(nodeIDs) != len(fileNames):
            _tell(messages, f"{len(nodeIDs)} nodes but {len(fileNames)} file names")
            return False
        return all(
            self._export(self._scene.GetNodeByID(node_id), str(filename), properties, hardenTransforms, messages)
            for node_id, filename in zip(nodeIDs, fileNames, strict=True)
        )

    def _export(self, node: Any, filename: str, properties: dict[str, Any], harden: bool, messages: Any) -> bool:
        if node is None:
            _tell(messages, "The node to export is not in the scene")
            return False
        copy = node.CreateNodeInstance()
        copy.UnRegister(None)
        copy.CopyContent(node)
        copy.SetName(node.GetName())
        transform = node.GetParentTransformNode() if node.IsA("vtkMRMLTransformableNode") else None
        if harden and transform is not None and not _harden(copy, transform):
            _tell(messages, f"{node.GetName()}: its non-linear transform cannot be hardened")
            return False
        # A scene of its own, because storage nodes write only what is in a scene.
        scene = slicer.vtkMRMLScene()
        copy = scene.AddNode(copy)
        copy.AddDefaultStorageNode()
        storage = copy.GetStorageNode()
        if storage is None:
            _tell(messages, f"A node of class {node.GetClassName()} cannot be written")
            return False
        return self._write(copy, storage, filename, properties, messages)

    def _write(self, node: Any, storage: Any, filename: str, properties: dict[str, Any], messages: Any) -> bool:
        storage.SetFileName(filename)
        if "useCompression" in properties:
            storage.SetUseCompression(int(properties["useCompression"]))
        if not storage.WriteData(node):
            for index in range(storage.GetUserMessages().GetNumberOfMessages()):
                _tell(messages, storage.GetUserMessages().GetNthMessageText(index))
            _tell(messages, f"Failed to write {filename}")
            return False
        return True


def _harden(node: Any, transform: Any) -> bool:
    """Apply a transform, with all its parents, to a node."""
    if transform.IsTransformToWorldLinear():
        matrix = vtk.vtkMatrix4x4()
        transform.GetMatrixTransformToWorld(matrix)
        node.ApplyTransformMatrix(matrix)
        return True
    if not node.CanApplyNonLinearTransforms():
        return False
    to_world = vtk.vtkGeneralTransform()
    transform.GetTransformToWorld(to_world)
    node.ApplyTransform(to_world)
    return True


def _tell(messages: Any, text: str) -> None:
    if messages is not None:
        messages.AddMessage(vtk.vtkCommand.ErrorEvent, text)


def _stem(filename: str, extensions: tuple[str, ...]) -> str:
    """Return the file's name without its (possibly double) extension."""
    name = Path(filename).name
    for extension in sorted(extensions, key=len, reverse=True):
        if name.lower().endswith(extension):
            return name[: -len(extension)]
    return Path(filename).stem
