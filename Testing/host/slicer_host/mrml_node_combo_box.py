"""The node selector, bound to a real scene."""

from __future__ import annotations

import weakref
from typing import Any

import shiboken6
import slicer
import vtk
from PySide6 import QtCore, QtWidgets

from slicer_host.pythonqt import native

_SCENE_EVENTS = (
    slicer.vtkMRMLScene.NodeAddedEvent,
    slicer.vtkMRMLScene.NodeRemovedEvent,
    slicer.vtkMRMLScene.EndBatchProcessEvent,
    slicer.vtkMRMLScene.EndCloseEvent,
    slicer.vtkMRMLScene.EndImportEvent,
)


class _Watcher:
    """Calls a widget's method on VTK events without keeping the widget alive."""

    def __init__(self, widget: qMRMLNodeComboBox) -> None:
        self._widget = weakref.ref(widget)
        self._tags: list[tuple[Any, int]] = []

    def __call__(self, caller: Any, event: str) -> None:
        widget = self._widget()
        if widget is not None and shiboken6.isValid(widget):
            widget._update_items()

    def watch(self, obj: Any, *events: Any) -> None:
        for event in events:
            self._tags.append((obj, obj.AddObserver(event, self)))

    def watch_leaving(self, scene: Any) -> None:
        """The row of a node goes before the node does (qMRMLSceneModel::onMRMLSceneNodeAboutToBeRemoved)."""
        of_widget = self._widget

        @vtk.calldata_type(vtk.VTK_OBJECT)
        def leaves(_caller: Any, _event: str, node: Any) -> None:
            widget = of_widget()
            if widget is not None and shiboken6.isValid(widget) and not scene.IsClosing():
                widget._update_items(leaving=node)

        self._tags.append((scene, scene.AddObserver(scene.NodeAboutToBeRemovedEvent, leaves)))

    def stop(self) -> None:
        for obj, tag in self._tags:
            obj.RemoveObserver(tag)
        self._tags.clear()


@native
class qMRMLNodeComboBox(QtWidgets.QWidget):
    """Choose a node of the scene. Follows what is added to the scene, removed from it or renamed in it."""

    currentNodeChanged = QtCore.Signal(object)
    _currentNodeBool = QtCore.Signal(bool)
    currentNodeIDChanged = QtCore.Signal(str)
    nodeAddedByUser = QtCore.Signal(object)
    nodeAdded = QtCore.Signal(object)
    nodeActivated = QtCore.Signal(object)
    nodeAboutToBeRemoved = QtCore.Signal(object)
    host_signals = {
        "currentNodeChanged(vtkMRMLNode*)": "currentNodeChanged",
        "currentNodeChanged(bool)": "_currentNodeBool",
        "currentNodeIDChanged(QString)": "currentNodeIDChanged",
        "nodeAddedByUser(vtkMRMLNode*)": "nodeAddedByUser",
        "nodeAdded(vtkMRMLNode*)": "nodeAdded",
        "nodeActivated(vtkMRMLNode*)": "nodeActivated",
        "nodeAboutToBeRemoved(vtkMRMLNode*)": "nodeAboutToBeRemoved",
    }

    def __init__(self, parent: QtWidgets.QWidget | None = None) -> None:
        super().__init__(parent)
        self._scene: Any = None
        self._node_types: tuple[str, ...] = ()
        self._flags = {
            "showHidden": False,
            "showChildNodeTypes": True,
            "addEnabled": True,
            "removeEnabled": True,
            "editEnabled": False,
            "renameEnabled": False,
            "noneEnabled": False,
            "selectNodeUponCreation": True,
        }
        self._base_name = ""
        self._none_display = ""
        self._attributes: dict[str, dict[str, str | None]] = {}
        self._ids: list[str] = []  # of the rows, "" for None
        self._current_id = ""
        self._updating = False
        self._scene_watcher, self._node_watcher = _Watcher(self), _Watcher(self)
        self.destroyed.connect(self._scene_watcher.stop)
        self.destroyed.connect(self._node_watcher.stop)
        layout = QtWidgets.QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        self._combo = QtWidgets.QComboBox(self)
        self._combo.setSizePolicy(QtWidgets.QSizePolicy.Expanding, QtWidgets.QSizePolicy.Fixed)
        self._combo.setSizeAdjustPolicy(QtWidgets.QComboBox.AdjustToMinimumContentsLengthWithIcon)
        self._combo.setMinimumContentsLength(10)
        layout.addWidget(self._combo)
        self.setSizePolicy(QtWidgets.QSizePolicy.Expanding, QtWidgets.QSizePolicy.Fixed)
        self._combo.currentIndexChanged.connect(self._on_row_changed)
        self._combo.activated.connect(self._on_activated)

    # --- the scene ---

    def setMRMLScene(self, scene: Any) -> None:  # noqa: N802
        """Show the nodes of a scene."""
        if scene is self._scene:
            return
        self._scene_watcher.stop()
        self._scene = scene
        if scene is not None:
            self._scene_watcher.watch(scene, *_SCENE_EVENTS)
            self._scene_watcher.watch_leaving(scene)
        self._update_items()

    def mrmlScene(self) -> Any:  # noqa: N802
        """Return the scene, or None."""
        return self._scene

    def _accepts(self, node: Any) -> bool:
        if node.GetHideFromEditors() and not self._flags["showHidden"]:
            return False
        for node_type in self._node_types:
            matches = node.IsA(node_type) if self._flags["showChildNodeTypes"] else node.GetClassName() == node_type
            if matches and self._has_attributes(node, node_type):
                return True
        return False

    def _has_attributes(self, node: Any, node_type: str) -> bool:
        for name, value in self._attributes.get(node_type, {}).items():
            found = node.GetAttribute(name)
            if found is None or (value is not None and found != value):
                return False
        return True

    def _candidates(self) -> list[Any]:
        """Return the nodes of the right classes, those too that are hidden or lack an attribute: it may change."""
        if self._scene is None:
            return []
        every = (self._scene.GetNthNode(index) for index in range(self._scene.GetNumberOfNodes()))
        return [node for node in every if any(node.IsA(node_type) for node_type in self._node_types)]

    def _update_items(self, leaving: Any = None) -> None:
        """Bring the rows to the scene, keeping the choice if its node is still there; `leaving` is about to go."""
        if self._updating or (self._scene is not None and self._scene.IsBatchProcessing()):
            return
        candidates = [node for node in self._candidates() if node is not leaving]
        nodes = [node for node in candidates if self._accepts(node)]
        self._updating = True
        self._node_watcher.stop()
        for node in candidates:
            self._node_watcher.watch(node, "ModifiedEvent")
        none = self._flags["noneEnabled"]
        ids = [""] * none + [node.GetID() for node in nodes]
        names = [self._none_display or "None"] * none + [node.GetName() or "" for node in nodes]
        actions = self._action_texts()
        old_ids = self._ids
        if ids != self._ids or names + actions != [self._combo.itemText(i) for i in range(self._combo.count)]:
            self._ids = ids
            self._combo.clear()
            self._combo.addItems(names + actions)
        kind = self._node_types[0] if self._node_types else "Node"
        self._combo.setPlaceholderText("Select a " + kind.removeprefix("vtkMRML").removesuffix("Node"))
        row = self._row_after_change(old_ids, ids)
        self._combo.setCurrentIndex(row)
        self._updating = False
        self._set_current_id(ids[row] if row >= 0 else "")

    def _row_after_change(self, old_ids: list[str], ids: list[str]) -> int:
        """Choose the row as Qt's combo box does: the first one of a box that was empty, the one above a removed row."""
        if self._current_id in ids:
            return ids.index(self._current_id)
        if self._current_id and self._current_id in old_ids and ids:
            return min(max(old_ids.index(self._current_id) - 1, 0), len(ids) - 1)
        return 0 if ids and not old_ids else -1

    def _action_texts(self) -> list[str]:
        kind = self._node_types[0].removeprefix("vtkMRML").removesuffix("Node") if self._node_types else "Node"
        texts = {
            "renameEnabled": f"Rename current {kind}",
            "addEnabled": f"Create new {kind}",
            "removeEnabled": f"Delete current {kind}",
        }
        return [text for flag, text in texts.items() if self._flags[flag] and self._node_types]

    # --- the choice ---

    def _on_row_changed(self, row: int) -> None:
        if not self._updating and row < len(self._ids):
            self._set_current_id(self._ids[row] if row >= 0 else "")

    def _on_activated(self, row: int) -> None:
        if row < len(self._ids):
            self.nodeActivated.emit(self.currentNode())
            return
        text = self._combo.itemText(row)
        self._select_row_of(self._current_id)
        if text.startswith("Create"):
            self.addNode()
        elif text.startswith("Delete"):
            self.removeCurrentNode()

    def _select_row_of(self, node_id: str) -> None:
        self._updating = True
        self._combo.setCurrentIndex(self._ids.index(node_id) if node_id in self._ids else -1)
        self._updating = False

    def _set_current_id(self, node_id: str) -> None:
        if node_id == self._current_id:
            return
        self._current_id = node_id
        node = self.currentNode()
        self.currentNodeChanged.emit(node)
        self._currentNodeBool.emit(node is not None)
        self.currentNodeIDChanged.emit(node_id)

    def currentNode(self) -> Any:  # noqa: N802
        """Return the chosen node, or None."""
        return self._scene.GetNodeByID(self._current_id) if self._scene is not None and self._current_id else None

    def setCurrentNode(self, node: Any) -> None:  # noqa: N802
        """Choose a node; None, or a node that is not among the rows, chooses none."""
        if node is not None and not hasattr(node, "GetID"):
            msg = f"setCurrentNode expects a node or None, got {type(node).__name__}"
            raise ValueError(msg)
        self.setCurrentNodeID(node.GetID() if node is not None else "")

    def setCurrentNodeID(self, node_id: str) -> None:  # noqa: N802
        """Choose a node by its ID."""
        node_id = node_id if node_id in self._ids else ""
        self._select_row_of(node_id)
        self._set_current_id(node_id)

    def setCurrentNodeIndex(self, index: int) -> None:  # noqa: N802
        """Choose the n-th node; a negative index chooses none."""
        nodes = [node_id for node_id in self._ids if node_id]
        self.setCurrentNodeID(nodes[index] if 0 <= index < len(nodes) else "")

    def nodeCount(self) -> int:  # noqa: N802
        """Return the number of nodes to choose from."""
        return sum(bool(node_id) for node_id in self._ids)

    def nodeFromIndex(self, index: int) -> Any:  # noqa: N802
        """Return the n-th node."""
        nodes = [node_id for node_id in self._ids if node_id]
        return self._scene.GetNodeByID(nodes[index]) if 0 <= index < len(nodes) else None

    # --- adding and removing, as the user does it ---

    def addNode(self, node_type: str = "") -> Any:  # noqa: N802
        """Create a node as "Create new ..." does: named after `baseName`, and chosen."""
        if self._scene is None or not self._node_types:
            return None
        node = self._scene.CreateNodeByClass(node_type or self._node_types[0])
        if node is None:
            return None
        node.UnRegister(None)
        base_name = self._base_name or node.GetNodeTagName()
        node.SetName(self._scene.GenerateUniqueName(base_name))
        for name, value in self._attributes.get(node_type or self._node_types[0], {}).items():
            node.SetAttribute(name, value or "")
        node = self._scene.AddNode(node)
        if self._flags["selectNodeUponCreation"]:
            self.setCurrentNode(node)
        self.nodeAddedByUser.emit(node)
        return node

    def removeCurrentNode(self) -> None:  # noqa: N802
        """Remove the chosen node from the scene."""
        node = self.currentNode()
        if node is not None:
            self.nodeAboutToBeRemoved.emit(node)
            self._scene.RemoveNode(node)

    def addAttribute(self, node_type: str, name: str, value: str | None = None) -> None:  # noqa: N802
        """Show only nodes that have an attribute (with any value, if none is given)."""
        self._attributes.setdefault(node_type, {})[name] = value
        self._update_items()

    # --- properties ---

    def setNodeTypes(self, node_types: Any) -> None:  # noqa: N802
        """Set the classes of the nodes to choose from."""
        if isinstance(node_types, str):
            msg = "nodeTypes expects a list of class names, got a string"
            raise TypeError(msg)
        self._node_types = tuple(node_types)
        self._update_items()

    def setBaseName(self, base_name: str) -> None:  # noqa: N802
        """Set the name of new nodes."""
        self._base_name = base_name

    def _set_none_display(self, text: str) -> None:
        self._none_display = text
        self._update_items()

    def _set_flag(self, name: str, value: bool) -> None:
        self._flags[name] = bool(value)
        self._update_items()

    nodeTypes = QtCore.Property("QStringList", lambda self: self._node_types, setNodeTypes)  # noqa: N815
    baseName = QtCore.Property(str, lambda self: self._base_name, setBaseName)  # noqa: N815
    noneDisplay = QtCore.Property(str, lambda self: self._none_display, _set_none_display)  # noqa: N815
    currentNodeID = QtCore.Property(str, lambda self: self._current_id, setCurrentNodeID)  # noqa: N815

    def _flag(name: str) -> Any:
        return QtCore.Property(bool, lambda self: self._flags[name], lambda self, value: self._set_flag(name, value))

    showHidden = _flag("showHidden")  # noqa: N815
    showChildNodeTypes = _flag("showChildNodeTypes")  # noqa: N815
    addEnabled = _flag("addEnabled")  # noqa: N815
    removeEnabled = _flag("removeEnabled")  # noqa: N815
    editEnabled = _flag("editEnabled")  # noqa: N815
    renameEnabled = _flag("renameEnabled")  # noqa: N815
    noneEnabled = _flag("noneEnabled")  # noqa: N815
    selectNodeUponCreation = _flag("selectNodeUponCreation")  # noqa: N815
    del _flag


def _add_setters() -> None:
    """Give each flag its `setX` method, which PythonQt also offers."""
    for flag in ("showHidden", "showChildNodeTypes", "addEnabled", "removeEnabled", "editEnabled", "renameEnabled",
                 "noneEnabled", "selectNodeUponCreation"):  # fmt: skip

        def setter(self: qMRMLNodeComboBox, value: bool, flag: str = flag) -> None:
            self._set_flag(flag, value)

        setattr(qMRMLNodeComboBox, "set" + flag[0].upper() + flag[1:], setter)


_add_setters()
