"""4D volumes: frames of a sequence in, a sequence of results out, browsed together."""

from __future__ import annotations

from typing import Any

import slicer


def browser_of(node: Any) -> Any | None:
    """Return the sequence browser that drives a volume node, None for a single volume."""
    scene = node.GetScene() if node is not None else None
    if scene is None:
        return None
    browsers = scene.GetNodesByClass("vtkMRMLSequenceBrowserNode")
    browsers.UnRegister(None)  # the collection is ours
    for index in range(browsers.GetNumberOfItems()):
        browser = browsers.GetItemAsObject(index)
        if browser.GetSequenceNode(node) is not None:
            return browser
    return None


def frame_count(node: Any) -> int:
    """Return the number of frames behind a volume node, 1 for a single volume."""
    browser = browser_of(node)
    return browser.GetSequenceNode(node).GetNumberOfDataNodes() if browser is not None else 1


def frame_nodes(node: Any) -> list[Any]:
    """Return the volume node of each frame. They live in the sequence, not in the scene, and have no transform."""
    browser = browser_of(node)
    if browser is None:
        return [node]
    sequence = browser.GetSequenceNode(node)
    return [sequence.GetNthDataNode(index) for index in range(sequence.GetNumberOfDataNodes())]


class SequenceOfResults:
    """Collects results frame by frame into a sequence that runs in step with the input's.

    Args:
        input_node: The volume node that the input's browser drives.
        name: Name of the sequence, and of the volume that shows its current frame.
    """

    def __init__(self, input_node: Any, name: str) -> None:
        browser = browser_of(input_node)
        assert browser is not None, "all frames are asked for only where there are frames"
        self._browser = browser
        self._input_sequence = self._browser.GetSequenceNode(input_node)
        scene = input_node.GetScene()
        self.node = scene.AddNewNodeByClass("vtkMRMLSequenceNode", scene.GenerateUniqueName(name))
        self.node.SetIndexName(self._input_sequence.GetIndexName())
        self.node.SetIndexUnit(self._input_sequence.GetIndexUnit())
        self.node.SetIndexType(self._input_sequence.GetIndexType())

    def add(self, frame: int, volume: Any) -> None:
        """Copy a result into the sequence as frame number `frame`."""
        self.node.SetDataNodeAtValue(volume, self._input_sequence.GetNthIndexValue(frame))

    def browse(self, proxy: Any) -> None:
        """Let the input's browser drive `proxy` too."""
        self._browser.AddSynchronizedSequenceNode(self.node)
        self._browser.AddProxyNode(proxy, self.node, False)


def is_available() -> bool:
    """True if this Slicer has sequences (all current ones do)."""
    return hasattr(slicer, "vtkMRMLSequenceBrowserNode")
