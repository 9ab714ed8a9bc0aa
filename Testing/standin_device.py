"""A stand-in for a GPU on machines without one: it computes on the CPU and behaves as an accelerator does.

torch's own seam for accelerators from elsewhere (PrivateUse1, by its Python route) gives a true `torch.device`, so that
factories, `Module.to`, autograd (in one thread), optimisers and random states take the very paths that they take for
CUDA. A tensor of the device is a `DeviceTensor` around a CPU tensor, and every operator on it comes by
`DeviceTensor.__torch_dispatch__`, which refuses what a GPU refuses and counts what makes the host wait for a GPU:

* a device tensor and a CPU tensor of one or more axes in one operation are refused, `numpy()` too, and a CPU generator;
* reading a value (`item`, `float`, `bool`, `tolist`), what depends on values (`nonzero`, indexing with a mask), a copy
  to the CPU, and a copy from it that is not `non_blocking` count as synchronisations, as CUDA's
  `set_sync_debug_mode` has them.

The meta device knows no values, so nothing that reads one would run there; a mode that only tags CPU tensors leaves
`x.device` a wish, which `Module.to`, optimisers and `torch.load` do not heed.
Not seen here: kernels that differ from the CPU's, autocast, races, memory.
"""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from lightning_fabric import Fabric
from lightning_fabric.accelerators.accelerator import Accelerator
from lightning_fabric.strategies.single_device import SingleDeviceStrategy
from torch import library as operators
from torch.utils import backend_registration
from torch.utils._pytree import tree_map

NAME = "standin"
aten = torch.ops.aten
DATA_DEPENDENT = {
    aten._local_scalar_dense.default,
    aten.nonzero.default,
    aten.masked_select.default,
    aten.equal.default,
    aten._unique2.default,
    aten.unique_dim.default,
    aten.bincount.default,
    aten.repeat_interleave.Tensor,
    aten.is_nonzero.default,
    aten.linalg_solve_ex.default,
}
INDEXING = {aten.index.Tensor, aten.index_put_.default, aten.index_put.default, aten._index_put_impl_.default}


@dataclass
class StandIn:
    """What the device has noticed, and its faults.

    Attributes:
        synchronisations: where the host waited: operator and the line of ours that asked for it.
        operators: names of all that was computed, such as `aten.convolution`.
        lacks: operators that this device does not know.
        miscomputes: operators whose results are off by one.
        has_float64: Apple's GPUs have none.
    """

    synchronisations: list[str] = field(default_factory=list)
    operators: set[str] = field(default_factory=set)
    lacks: set[str] = field(default_factory=set)
    miscomputes: set[str] = field(default_factory=set)
    has_float64: bool = True
    present: bool = False

    def note(self, operator: str) -> None:
        """The host waits."""
        stack = [frame for frame in traceback.extract_stack() if "/scorefusion/" in frame.filename]
        where = f"{stack[-1].filename.split('/scorefusion/')[-1]}:{stack[-1].lineno}" if stack else "a test"
        self.synchronisations.append(f"{operator} at {where}")


STATE = StandIn()


class DeviceTensor(torch.Tensor):
    """A tensor of the device: `memory` is where its values are."""

    memory: torch.Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, memory: torch.Tensor) -> DeviceTensor:
        assert not isinstance(memory, DeviceTensor)
        if memory.dtype == torch.float64 and not STATE.has_float64:
            msg = f"Cannot convert a {NAME} Tensor to float64 dtype as the framework doesn't support float64"
            raise TypeError(msg)
        self = torch.Tensor._make_wrapper_subclass(
            cls,
            memory.shape,
            strides=memory.stride(),
            storage_offset=memory.storage_offset(),
            dtype=memory.dtype,
            device=torch.device(NAME, 0),
        )
        self.memory = memory.detach()
        return self

    def __reduce_ex__(self, protocol: Any) -> Any:
        """A file holds the values, as CPU tensors do; who loads it says where they go."""
        STATE.note("save")
        return self.memory.__reduce_ex__(protocol)

    def __repr__(self) -> str:
        return f"DeviceTensor({self.memory})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = str(func.overloadpacket)
        parts = func.decompose(*args, **kwargs)  # composite operators; where there are gradients autograd has done so
        if parts is not NotImplemented:
            return parts
        if func is aten.copy_.default:
            return _copy(*args, **kwargs)
        STATE.operators.add(name)
        if name in STATE.lacks:
            msg = f"The operator '{name}' is not currently implemented for the {NAME} device."
            raise NotImplementedError(msg)
        _refuse_strangers(func, args, kwargs)
        if func in DATA_DEPENDENT or (func in INDEXING and _waits(func, args)):
            STATE.note(name)
        to_cpu = func is aten._to_copy.default and _is_cpu(kwargs.get("device"))
        if to_cpu:
            STATE.note(name)
        given, named = tree_map(_inner, args), tree_map(_inner, kwargs)
        result = func(*given, **named)
        if name in STATE.miscomputes:
            result = tree_map(lambda x: x + 1 if isinstance(x, torch.Tensor) and x.is_floating_point() else x, result)
        if to_cpu:
            return result
        changed = _changed_in_place(func, args, kwargs)
        if changed is not None:
            assert changed.shape == changed.memory.shape, f"{func} changes the size of a tensor in place"
            return changed
        # A view is of its base's kind, an inference tensor or not; anything else is of the kind that is made now.
        view = any(returned.alias_info is not None for returned in func._schema.returns)
        inference = args[0].is_inference() if view else torch.is_inference_mode_enabled()
        with torch.inference_mode(inference):
            return tree_map(lambda x: DeviceTensor(x) if isinstance(x, torch.Tensor) else x, result)


class DeviceGenerator(torch.Generator):
    """Random numbers of the device; `torch.Generator("standin")` itself needs C++."""

    @property
    def device(self) -> torch.device:
        return torch.device(NAME, 0)


class _GeneratorOf(type):
    """`torch.Generator` for this device and all others."""

    def __call__(cls, device: Any = "cpu") -> torch.Generator:
        return DeviceGenerator() if torch.device(device).type == NAME else torch._C.Generator(device)

    def __instancecheck__(cls, instance: object) -> bool:
        return isinstance(instance, torch._C.Generator)


class _AnyGenerator(metaclass=_GeneratorOf):
    pass


def _copy(target: torch.Tensor, source: torch.Tensor, non_blocking: bool = False) -> torch.Tensor:
    """`copy_`, the one operation that two devices may meet in."""
    ours = isinstance(target, DeviceTensor), isinstance(source, DeviceTensor)
    if (ours == (True, False) and not non_blocking) or ours == (False, True):
        STATE.note("copy to the device" if ours[0] else "copy from the device")
    inner = _inner(source)
    (target.memory if isinstance(target, DeviceTensor) else target).copy_(inner)
    return target


def _refuse_strangers(func: Any, args: Any, kwargs: Any) -> None:
    """Tensors of the CPU, but for numbers."""
    strangers = []

    def look(x: Any) -> None:
        if isinstance(x, torch.Tensor) and not isinstance(x, DeviceTensor) and x.dim() > 0:
            strangers.append(x)

    # A GPU takes indices from the CPU, and waits for them (see `_waits`).
    checked = (args[0], *args[2:]) if func in INDEXING else args
    tree_map(look, (checked, kwargs))
    if strangers:
        msg = (
            f"Expected all tensors to be on the same device, but found at least two devices, {NAME}:0 and cpu! ({func})"
        )
        raise RuntimeError(msg)


def _waits(func: Any, args: Any) -> bool:
    """Whether indexing makes the host wait: for a mask's number of voxels, or for indices that lie on the CPU."""
    indices = [index for index in args[1] if index is not None]
    if any(not isinstance(index, DeviceTensor) for index in indices):
        return True
    masks = any(index.dtype in (torch.bool, torch.uint8) for index in indices)
    filled = func is not aten.index.Tensor and args[2].numel() == 1  # `masked_fill` in disguise
    return masks and not filled


def _changed_in_place(func: Any, args: Any, kwargs: Any) -> Any:
    """The argument that an operator has written to, which it gives back."""
    for position, argument in enumerate(func._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            found = kwargs.get(argument.name, args[position] if position < len(args) else None)
            if isinstance(found, DeviceTensor):
                return found
    return None


def _inner(x: Any) -> Any:
    if isinstance(x, DeviceTensor):
        return x.memory
    return torch.device("cpu") if isinstance(x, torch.device) and x.type == NAME else x


def _is_cpu(device: Any) -> bool:
    return device is not None and torch.device(device).type == "cpu"


def _factory(function: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """A tensor made on the device, from the same function of the CPU."""

    def make(*args: Any, **kwargs: Any) -> torch.Tensor:
        kwargs = {key: value for key, value in kwargs.items() if key not in ("device", "pin_memory", "layout")}
        return DeviceTensor(function(*args, **{key: value for key, value in kwargs.items() if value is not None}))

    return make


def _with_generator_of(function: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """A function that draws, which refuses another device's generator."""

    def draw(*args: Any, **kwargs: Any) -> torch.Tensor:
        generator, device = kwargs.get("generator"), torch.device(kwargs.get("device") or "cpu")
        if generator is not None and generator.device.type != device.type:
            msg = f"Expected a '{device.type}' device type for generator but found '{generator.device.type}'"
            raise RuntimeError(msg)
        return function(*args, **kwargs)

    return draw


class _Module(backend_registration._DummyBackendModule):
    """What torch asks `torch.standin`."""

    def is_available(self) -> bool:
        return STATE.present

    def device_count(self) -> int:
        return int(STATE.present)

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16, torch.float16]  # torch insists, also where autocast is off

    def device(self, device: Any) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()

    def synchronize(self, device: Any = None) -> None:
        STATE.note("synchronize")


class _Hook(backend_registration._DummyPrivateUse1Hook):
    def is_available(self) -> bool:
        return STATE.present


class StandInAccelerator(Accelerator):
    """The device for Lightning Fabric."""

    def setup_device(self, device: torch.device) -> None:
        assert device.type == NAME

    def teardown(self) -> None:
        pass

    @staticmethod
    def parse_devices(devices: Any) -> int:
        return int(devices)

    @staticmethod
    def get_parallel_devices(devices: Any) -> list[torch.device]:
        return [torch.device(NAME, 0)]

    @staticmethod
    def auto_device_count() -> int:
        return 1

    @staticmethod
    def is_available() -> bool:
        return STATE.present

    @staticmethod
    def name() -> str:
        return NAME


def standin_fabric() -> Fabric:
    """One process on the device."""
    accelerator = StandInAccelerator()
    strategy = SingleDeviceStrategy(torch.device(NAME, 0), accelerator)
    return Fabric(strategy=strategy, devices=1, precision="32-true")


_LIBRARY: list[operators.Library] = []


def _register() -> None:
    """Once in a process; there is no way back, but `STATE.present` is False outside of a test that asks for it."""
    if _LIBRARY:
        return
    setup = getattr(backend_registration, "_setup_privateuseone_for_python_backend", None)
    if setup is None:
        pytest.skip("this torch has no Python route to a device of one's own")
    setup(NAME, _Module(), _Hook())
    library = operators.Library("aten", "IMPL")
    made = {
        "empty.memory_format": torch.empty,
        "empty_strided": torch.empty_strided,
        "arange": torch.arange,
        "arange.start": torch.arange,
        "arange.start_step": torch.arange,
        "linspace": torch.linspace,
        "eye.m": torch.eye,
        "eye": torch.eye,
    }
    for name, function in made.items():
        library.impl(name, _factory(function), "PrivateUse1")
    library.impl("_copy_from", lambda source, target, non_blocking=False: _copy(target, source, non_blocking),
                 "PrivateUse1")  # fmt: skip
    autocast = operators.Library("_", "IMPL")
    autocast.fallback(operators.fallthrough_kernel, "AutocastPrivateUse1")
    _LIBRARY.extend((library, autocast))


@contextlib.contextmanager
def standin_device() -> Iterator[StandIn]:
    """The device is there, sound, and has noticed nothing yet."""
    _register()
    vars(STATE).update(vars(StandIn(present=True)))
    # torch counts the threads for devices at the first backward pass of a process, which may have been before.
    with pytest.MonkeyPatch.context() as patch, torch.autograd.set_multithreading_enabled(False):
        patch.setattr(torch, "Generator", _AnyGenerator)
        for name in ("randn", "rand", "randint", "randperm"):
            patch.setattr(torch, name, _with_generator_of(getattr(torch, name)))
        try:
            yield STATE
        finally:
            STATE.present = False
