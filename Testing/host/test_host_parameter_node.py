"""The parameter node wrapper, row by row of its table."""

from __future__ import annotations

import enum
import gc
import pathlib
import weakref
from typing import Annotated, Any, Optional, Union

import pytest
import qt
import slicer
from slicer.parameterNodeWrapper import (
    Choice,
    Default,
    Exclude,
    FloatRange,
    Maximum,
    Minimum,
    RangeBounds,
    Validator,
    WithinRange,
    isParameterNodeWrapper,
    parameterNodeWrapper,
    parameterPack,
)


class Color(enum.Enum):
    RED = 1
    BLUE = 2


@parameterPack
class Point:
    x: float
    y: Annotated[float, WithinRange(0, 10)] = 1.0


@parameterPack
class Segment:
    start: Point
    end: Point
    label: str = "s"


def wrap(node, **members):
    """Make a wrapper of `node` with the given hints; a value `(hint, default)` also sets the default."""
    hints = {name: member[0] if isinstance(member, tuple) else member for name, member in members.items()}
    defaults = {name: member[1] for name, member in members.items() if isinstance(member, tuple)}
    return parameterNodeWrapper(type("Parameters", (), {"__annotations__": hints, **defaults}))(node)


def stored(node) -> dict[str, str]:
    return {name: node.GetParameter(name) for name in node.GetParameterNames()}


class TestDefaults:
    def test_of_each_type(self, node) -> None:
        p = wrap(
            node,
            i=int,
            f=float,
            s=str,
            b=bool,
            n=slicer.vtkMRMLModelNode,
            items=list[int],
            pair=tuple[int, str],
            table=dict[str, int],
            color=Color,
            path=pathlib.Path,
            maybe=Optional[int],  # noqa: UP045
            either=Union[int, str],  # noqa: UP007
            modern=float | None,
        )
        assert (p.i, p.f, p.s, p.b, p.n) == (0, 0.0, "", False, None)
        assert (p.items, p.pair, p.table) == ([], (0, ""), {})
        assert (p.color, p.path, p.maybe, p.either, p.modern) == (Color.RED, pathlib.Path(), None, 0, None)

    def test_by_attribute_value_or_generator(self, node) -> None:
        p = wrap(
            node, a=(int, 3), b=Annotated[str, Default("x")], c=Annotated[list[int], Default(generator=lambda: [1])]
        )
        assert (p.a, p.b, p.c) == (3, "x", [1])
        assert p.default("a").value == 3

    def test_are_written_to_an_empty_node_and_keep_what_is_there(self, node) -> None:
        node.SetParameter("a", "7")
        p = wrap(node, a=(int, 3), b=(int, 4))
        assert (p.a, stored(node)) == (7, {"a": "7", "b": "4"})

    def test_come_back_when_the_node_is_cleared(self, node) -> None:
        p = wrap(node, a=(int, 3))
        p.a = 5
        node.UnsetParameter("a")
        assert p.a == 3

    def test_a_bad_default_is_found_at_once(self, node) -> None:
        with pytest.raises(ValueError, match="within the range"):
            wrap(node, a=(Annotated[int, WithinRange(0, 2)], 3))


class TestEncoding:
    def test_of_simple_types(self, node) -> None:
        p = wrap(node, i=int, f=float, s=str, b=bool, path=pathlib.Path, color=Color)
        p.i, p.f, p.s, p.b, p.path, p.color = 4, 2.5, "text", True, pathlib.Path("a") / "b", Color.BLUE
        expected = {"i": "4", "f": "2.5", "s": "text", "b": "True", "path": str(p.path), "color": "BLUE"}
        assert stored(node) == expected

    def test_of_nodes(self, node, scene) -> None:
        model = scene.AddNewNodeByClass("vtkMRMLModelNode")
        p = wrap(node, n=slicer.vtkMRMLModelNode)
        assert stored(node) == {"n": ""}
        p.n = model
        assert p.n is model
        assert (node.GetNodeReferenceID("n"), stored(node)) == (model.GetID(), {"n": ""})
        p.n = None
        assert (p.n, node.GetNodeReference("n")) == (None, None)

    def test_of_lists(self, node) -> None:
        p = wrap(node, items=list[int])
        p.items = [5, 6, 7]
        p.items.pop(0)
        assert stored(node) == {"items.len": "2", "items.0": "6", "items.1": "7"}

    def test_of_tuples_and_dicts(self, node) -> None:
        p = wrap(node, pair=tuple[int, str], table=dict[str, int])
        p.pair, p.table = (1, "a"), {"z": 1, "a": 2}
        names = {"pair.0": "1", "pair.1": "a", "table.len": "2"}
        rows = {"table.0.0": "z", "table.0.1": "1", "table.1.0": "a", "table.1.1": "2"}
        assert stored(node) == names | rows
        assert list(p.table) == ["z", "a"]

    def test_of_unions(self, node) -> None:
        p = wrap(node, u=Optional[int])  # noqa: UP045
        assert stored(node) == {"u.1": "True"}
        p.u = 4
        assert (p.u, stored(node)) == (4, {"u.0": "4"})
        p.u = None
        assert (p.u, stored(node)) == (None, {"u.1": "True"})

    def test_of_packs(self, node) -> None:
        wrap(node, s=Segment)
        names = {"s.start.x": "0", "s.start.y": "1.0", "s.end.x": "0", "s.end.y": "1.0", "s.label": "s"}
        assert stored(node) == names

    def test_of_ranges_any_and_colors(self, node) -> None:
        p = wrap(node, r=(FloatRange, FloatRange(1, 2)), v=Any, c=(qt.QColor, qt.QColor(255, 0, 0)))
        p.v = 3
        assert stored(node) == {
            "r._minimum": "1.0",
            "r._maximum": "2.0",
            "v.type.0": "builtins",
            "v.type.1": "int",
            "v.value": "3",
            "c": "#ffff0000",
        }
        p.v = "text"
        assert (p.v, p.isCached("v")) == ("text", False)

    def test_names_can_have_a_prefix(self, node) -> None:
        cls = parameterNodeWrapper(type("P", (), {"__annotations__": {"a": int}}))
        cls(node, prefix="second_").a = 2
        assert stored(node) == {"second_a": "2"}

    def test_an_unknown_enum_name_raises(self, node) -> None:
        node.SetParameter("c", "GREEN")
        with pytest.raises(ValueError, match="no member named 'GREEN'"):
            wrap(node, c=Color)


class TestValidation:
    @pytest.mark.parametrize(
        ("hint", "bad"),
        [
            (int, 1.5),
            (int, "1"),
            (float, "1"),
            (str, 1),
            (bool, 1),
            (pathlib.Path, "a"),
            (Color, "RED"),
            (list[int], (1, 2)),
            (list[int], ["a"]),
            (tuple[int, str], [1, "a"]),
            (dict[str, int], {1: 1}),
            (Point, 3),
            (int, None),
            (str, None),
            (list[int], None),
            (tuple[int, str], (1, "a", 2)),
            (Annotated[int, WithinRange(0, 5)], 6),
            (Annotated[int, Minimum(0)], -1),
            (Annotated[int, Maximum(0)], 1),
            (Annotated[str, Choice(["", "a"])], "b"),
            (Annotated[str, Exclude(["b"])], "b"),
            (Annotated[FloatRange, RangeBounds(-1, 1)], FloatRange(0, 2)),
            (list[Annotated[int, Minimum(0)]], [1, -1]),
            (slicer.vtkMRMLModelNode, "vtkMRMLModelNode1"),
        ],
    )
    def test_a_bad_value_is_refused_and_the_node_unchanged(self, node, hint, bad) -> None:
        p = wrap(node, v=hint)
        before = stored(node)
        with pytest.raises((ValueError, TypeError)):
            p.v = bad
        assert stored(node) == before

    @pytest.mark.parametrize(
        ("hint", "good"),
        [
            (float, 3),
            (Annotated[int, WithinRange(0, 5)], 5),
            (Annotated[float, Minimum(0)], 0.0),
            (Annotated[FloatRange, RangeBounds(-1, 1)], FloatRange(-1, 1)),
        ],
    )
    def test_bounds_are_inclusive(self, node, hint, good) -> None:
        p = wrap(node, v=hint)
        p.v = good
        assert p.v == good

    def test_a_node_of_another_class_is_refused(self, node, scene) -> None:
        p = wrap(node, n=slicer.vtkMRMLScalarVolumeNode)
        with pytest.raises(TypeError):
            p.n = scene.AddNewNodeByClass("vtkMRMLModelNode")
        p.n = label = scene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode")  # a derived class
        assert p.n is label

    def test_own_validators(self, node) -> None:
        class Even(Validator):
            def validate(self, value) -> None:
                if value % 2:
                    raise ValueError

        p = wrap(node, v=Annotated[int, Even()])
        with pytest.raises(ValueError):  # noqa: PT011
            p.v = 3

    def test_a_range_must_be_in_order(self) -> None:
        with pytest.raises(ValueError, match="above maximum"):
            FloatRange(2, 1)
        with pytest.raises(ValueError, match="below minimum"):
            FloatRange(0, 1).maximum = -1


class TestDecoration:
    def test_an_unknown_type_is_refused(self) -> None:
        with pytest.raises(Exception, match="Unable to create serializer"):
            parameterNodeWrapper(type("P", (), {"__annotations__": {"a": object}}))

    @pytest.mark.parametrize("name", ["setValue", "allParameters", "AddObserver", "default", "Modified"])
    def test_reserved_names_are_refused(self, name) -> None:
        with pytest.raises(ValueError, match="reserved name"):
            parameterNodeWrapper(type("P", (), {"__annotations__": {name: int}}))

    def test_an_unused_annotation_warns(self, caplog) -> None:
        parameterNodeWrapper(type("P", (), {"__annotations__": {"a": Annotated[int, "what is this"]}}))
        assert "Unused annotations" in caplog.text

    def test_with_and_without_parentheses(self, node) -> None:
        @parameterNodeWrapper()
        class Called:
            a: int

        assert isParameterNodeWrapper(Called)
        assert Called(node).a == 0


class TestReading:
    def test_direct_writes_to_the_node_are_seen(self, node) -> None:
        p = wrap(node, a=int)
        node.SetParameter("a", "9")
        assert p.a == 9

    def test_a_loaded_list_writes_itself(self, node) -> None:
        p = wrap(node, items=list[list[int]])
        items = p.items
        items.append([1])
        items[0].append(2)
        items += [[3]]
        assert node.GetParameter("items.0.1") == "2"
        assert p.items == [[1, 2], [3]]

    def test_a_list_refuses_plus_and_times(self, node) -> None:
        p = wrap(node, items=list[int])
        with pytest.raises(NotImplementedError):
            _ = p.items + [1]  # noqa: RUF005
        with pytest.raises(NotImplementedError):
            _ = 2 * p.items

    def test_a_refused_element_disappears_again(self, node) -> None:
        p = wrap(node, items=list[int])
        items = p.items
        with pytest.raises(TypeError):
            items.append("a")
        assert (items, p.items) == ([], [])

    def test_a_loaded_pack_writes_itself(self, node) -> None:
        p = wrap(node, s=Segment)
        p.s.start.y = 4
        assert node.GetParameter("s.start.y") == "4"
        with pytest.raises(ValueError, match="within the range"):
            p.s.end.y = 11
        p.s = Segment(Point(1, 2), end=Point(3, 4))
        assert p.s == Segment(Point(1, 2), Point(3, 4), "s")

    def test_dotted_names(self, node) -> None:
        p = wrap(node, s=Segment, a=int)
        p.setValue("s.start.x", 2.0)
        p.setValue("a", 1)
        assert (p.getValue("s.start.x"), p.getValue("a"), p.dataType("s.label")) == (2.0, 1, str)
        with pytest.raises(ValueError, match="Cannot find"):
            p.getValue("s.middle")
        with pytest.raises(ValueError, match="Cannot find"):
            p.setValue("b", 1)

    def test_events(self, node) -> None:
        p, seen = wrap(node, a=int, b=int), []
        tag = p.AddObserver("ModifiedEvent", lambda caller, event: seen.append(p.a))
        p.a = 1
        with slicer.util.NodeModify(p):
            p.a = 2
            p.b = 3
        assert seen == [1, 2]  # the observer sees the new value, and one event for both changes
        p.RemoveObserver(tag)
        p.Modified()
        assert len(seen) == 2

    def test_the_node_does_not_keep_the_wrapper_alive(self, node) -> None:
        p = wrap(node, a=int)
        gone = weakref.ref(p)
        del p
        gc.collect()
        assert gone() is None
        node.Modified()
