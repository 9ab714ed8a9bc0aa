"""The plane networks: each looks along its planes at its conditions, slice by slice, and gives a prediction volume."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from scorefusion.errors import RequestError
from scorefusion.fusion.base import own_base_shift, rebase, rebase_prediction
from scorefusion.fusion.features import FeatureSink
from scorefusion.fusion.inputs import InputLayout, ModelInputs
from scorefusion.fusion.members import Member
from scorefusion.fusion.planes import Plane, stack_slices
from scorefusion.fusion.windows import WINDOW_SLICES, find_window, spread
from scorefusion.networks.precision import lowered_precision
from scorefusion.networks.unet import UNet


class PlaneEnsemble(nn.Module):
    """Plane networks and the members that use them; gives one prediction volume a member.

    Args:
        networks: 2D U-Nets; several members may share one.
        members: who looks along which plane at which conditions.
        layout: what the networks are shown.
    """

    DEFAULT_SLICE_PIXELS = 2**20

    def __init__(self, networks: Sequence[UNet], members: Sequence[Member], layout: InputLayout) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)
        self.members = tuple(members)
        self.layout = layout
        self.slice_pixels = self.DEFAULT_SLICE_PIXELS  # pixels in one network call: bounds memory, never the result
        self.autocast: torch.dtype | None = None  # None = float32 throughout
        self.on_work: Callable[[int], None] | None = None  # told the voxels just done; may raise Cancelled
        for number, member in enumerate(members):
            expected = layout.plane_channels(len(member.conditions))
            given = networks[member.network].config.in_channels
            if given != expected:
                msg = f"member {number} needs {expected} input channels; its network {member.network} has {given}"
                raise ValueError(msg)

    @property
    def size_multiple(self) -> int:
        """Sizes that this divides need no padding for any network."""
        return max((self.network(member).size_multiple for member in self.members), default=1)

    @property
    def plane_networks(self) -> list[UNet]:
        """The 2D networks, in the order that members number them."""
        return [network for network in self.networks if isinstance(network, UNet)]

    def network(self, member: Member) -> UNet:
        """The network that a member looks through."""
        return self.plane_networks[member.network]

    def active(self, inputs: ModelInputs, planes: Sequence[Plane] = tuple(Plane)) -> list[int]:
        """Members that look along `planes` and have what they need: all their conditions, or, where the networks are
        told of absence, one of them.

        Raises:
            RequestError: there are none.
        """
        available = set(inputs.available)
        enough = any if self.layout.presence_context else all
        mine = [n for n, member in enumerate(self.members) if member.plane in planes]
        chosen = [n for n in mine if enough(index in available for index in self.members[n].conditions)]
        if not chosen:
            along = "" if len(planes) == len(Plane) else f" of the plane {' or '.join(p.value for p in planes)}"
            msg = f"none of the model's plane networks{along} can work with the conditions given; give more of them"
            raise RequestError(msg)
        return chosen

    def predict(
        self,
        x_t: Tensor,
        inputs: ModelInputs,
        alpha_bar: Tensor,
        members: Sequence[int] | None = None,
        gathered: FeatureSink | None = None,
    ) -> Tensor:
        """Ask the members, slice by slice.

        Args:
            x_t: `(B, 1, I, J, K)` noisy residual.
            inputs: what is known.
            alpha_bar: `(B,)` level of `x_t`.
            members: which to ask; None = all active ones.
            gathered: is handed the decoders' features for a fusion network; sizes must divide by its strides.

        Returns:
            `(B, len(members), I, J, K)` predictions for the common base, float32.
        """
        members = self.active(inputs) if members is None else members
        return torch.cat([self._predict_member(n, x_t, inputs, alpha_bar, gathered) for n in members], dim=1)

    def _predict_member(
        self,
        number: int,
        x_t: Tensor,
        inputs: ModelInputs,
        alpha_bar: Tensor,
        gathered: FeatureSink | None,
    ) -> Tensor:
        member = self.members[number]
        network = self.network(member)
        batch, plane = x_t.shape[0], member.plane
        shift = own_base_shift(inputs, member, self.layout.residual_gain)
        seen = x_t if shift is None else rebase(x_t, shift, alpha_bar)

        num_slices = x_t.shape[2 + plane.axis]
        rows, columns = (x_t.shape[2 + axis] for axis in plane.in_plane_axes)
        stride = gathered.max_stride if gathered is not None else 1
        region = inputs.region if self.layout.prediction == "clean" else None  # a clean residual of zero is the base
        count = self.slices_at_once(batch, rows, columns, stride)
        if region is not None:
            count = min(count, max(1, WINDOW_SLICES // stride) * stride)
        pieces = []
        for start in range(0, num_slices, count):
            stop = min(start + count, num_slices)
            window = find_window(region, plane, start, stop, (rows, columns), network.size_multiple)
            if window is None:
                slices = x_t.new_zeros(batch * (stop - start), 1, rows, columns, dtype=torch.float32)
            else:
                slab = self.layout.slab(seen, inputs, member.conditions, plane, start, stop)[..., window[0], window[1]]
                level = alpha_bar.repeat_interleave(stop - start, dim=0)
                context = self.layout.plane_vector(inputs, plane, stop - start)
                with self.precision(slab):
                    inner, features = network(
                        slab.contiguous(memory_format=torch.channels_last),
                        level,
                        context,
                        return_features=gathered is not None,
                    )
                    if gathered is not None:
                        scales = network.feature_scales
                        whole = [spread(f, window, (rows, columns), s) for f, s in zip(features, scales, strict=True)]
                        gathered.add(number, plane, start, whole, batch)
                slices = spread(inner.float(), window, (rows, columns))
            pieces.append(stack_slices(slices, plane, batch))
            self.report(batch * (stop - start) * rows * columns)
        prediction = torch.cat(pieces, dim=2 + plane.axis)
        if shift is None:
            return prediction
        return rebase_prediction(prediction, shift, alpha_bar, self.layout.prediction)

    def slices_at_once(self, batch: int, rows: int, columns: int, stride: int = 1) -> int:
        """Slices of `rows` x `columns` pixels in one network call, a multiple of `stride`."""
        return max(1, self.slice_pixels // (batch * rows * columns * stride)) * stride

    def report(self, voxels: int) -> None:
        """Tell the listener, if there is one, that so many voxels went through a network."""
        if self.on_work is not None:
            self.on_work(voxels)

    def precision(self, like: Tensor) -> contextlib.AbstractContextManager[object]:
        """The networks' number format on the device of `like`."""
        return lowered_precision(like, self.autocast)
