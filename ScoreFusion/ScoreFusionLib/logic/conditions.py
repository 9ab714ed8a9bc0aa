"""Which volume stands for which condition: node references of the parameter node, so that they are saved in the scene.

The conditions come with the model, so they cannot be attributes of the wrapped parameter node. A reference survives
what an id in a text parameter does not: importing a scene into another one renames ids.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

_ROLE = "Condition."


def condition_node(parameter_node: Any, name: str) -> Any | None:
    """Return the volume chosen for a condition."""
    return parameter_node.GetNodeReference(_ROLE + name)


def set_condition_node(parameter_node: Any, name: str, node: Any | None) -> None:
    """Choose the volume for a condition, None takes it back."""
    if condition_node(parameter_node, name) is not node:
        parameter_node.SetNodeReferenceID(_ROLE + name, node.GetID() if node is not None else None)
        parameter_node.Modified()


def chosen_nodes(parameter_node: Any, names: Iterable[str]) -> dict[str, Any]:
    """Return condition name to volume, in the order of `names`, those without a volume left out."""
    found = {name: condition_node(parameter_node, name) for name in names}
    return {name: node for name, node in found.items() if node is not None}


def suggest_node(scene: Any, contrasts: Iterable[str], taken: Iterable[Any]) -> Any | None:
    """Return a volume of the scene that fits a condition: one whose name tells the contrast, else the first.

    Results of ours are passed over, or a second Apply would start from the first one's result.
    """
    from ScoreFusionLib.logic.node_import import ATTRIBUTE_PREFIX
    from ScoreFusionLib.logic.understanding import describing_text, guess_contrast

    used = {node.GetID() for node in taken}
    count = scene.GetNumberOfNodesByClass("vtkMRMLScalarVolumeNode")
    nodes = [scene.GetNthNodeByClass(index, "vtkMRMLScalarVolumeNode") for index in range(count)]
    free = [
        node
        for node in nodes
        if node.GetID() not in used
        and node.GetClassName() == "vtkMRMLScalarVolumeNode"  # no label maps, no vector volumes
        and node.GetImageData() is not None
        and node.GetAttribute(ATTRIBUTE_PREFIX + "Synthetic") is None
    ]
    wanted = set(contrasts)
    fitting = [node for node in free if guess_contrast(describing_text(node)) in wanted]
    return next(iter(fitting + free), None)
