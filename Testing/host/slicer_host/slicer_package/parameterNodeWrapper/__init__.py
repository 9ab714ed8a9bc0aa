"""Typed access to a `vtkMRMLScriptedModuleNode`, and its binding to widgets.

Re-written from the description of Slicer's package of this name, with the same names for what modules import.
"""

from .annotations import (  # noqa: F401
    Choice,
    Decimals,
    Default,
    Exclude,
    IsInstance,
    Maximum,
    Minimum,
    NotNone,
    RangeBounds,
    SingleStep,
    Validator,
    WithinRange,
    splitAnnotations,
    unannotatedType,
)
from .connectors import GuiConnector, parameterNodeGuiConnector  # noqa: F401
from .packs import FloatRange, isParameterPack, parameterPack  # noqa: F401
from .serializers import Serializer, createSerializer, parameterNodeSerializer  # noqa: F401
from .wrapper import SlicerParameterNamePropertyName, isParameterNodeWrapper, parameterNodeWrapper  # noqa: F401
