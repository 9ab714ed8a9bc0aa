"""A segmentation network from a MONAI bundle: a volume in, one mask a class out. No code of the bundle runs.

What is used of it, as plain values: the network that `network_def` names, its weights (tensors only), the window of its
inferer, the names of its output channels, and those of its intensity transforms that are named in `INTENSITIES`. What
is not: its other transforms, Python expressions, references, TorchScript. Volumes keep their voxels and have their axes
in RAS+ order; a bundle that wants another order is refused, another spacing is noted.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from scorefusion.documents import read_json, read_yaml
from scorefusion.errors import BundleError, Cancelled, ScoreFusionError
from scorefusion.evaluation.downstream.labels import masks_of, standard_name
from scorefusion.imaging.intensity import fit_intensity_scale
from scorefusion.run.devices import inference_settings, pick_device, pick_precision

OVERLAP = 0.25  # neighbouring windows share this part of their width, blended by a Gaussian

#: Transforms of `preprocessing` that are taken over, and those that are done here anyway, or change nothing.
INTENSITIES = ("NormalizeIntensity", "ScaleIntensity", "ScaleIntensityRange", "ScaleIntensityRangePercentiles")
_DONE_ANYWAY = ("LoadImage", "EnsureChannelFirst", "AddChannel", "EnsureType", "ToTensor", "Orientation", "CastToType")
_CONFIGS, _WEIGHTS = ("inference.json", "inference.yaml", "inference.yml"), ("model.safetensors", "model.pt")
NETS = "monai.networks.nets"


def robust_range(data: Tensor) -> Tensor:
    """Scanner units to [-1, 1] as everywhere in ScoreFusion, by the volume's own robust range. `(1, I, J, K)`."""
    scaled: Tensor = fit_intensity_scale(data.numpy()).normalise(data)
    return scaled


@dataclass(frozen=True, eq=False)
class Segmenter:
    """A network with all that turns a volume into masks."""

    network: nn.Module  # (B, 1, *window) to logits (B, C, *window)
    classes: tuple[str, ...]  # in the order of the output channels; the background has none
    window: tuple[int, ...]  # of the sliding window, voxels
    exclusive: bool = True  # channel 0 is the background; else each channel is a class, present where its logit is > 0
    prepare: Callable[[Tensor], Tensor] = robust_range  # scanner units to the network's input, (1, I, J, K) float32
    contrast: str | None = None  # what it was trained on, if known
    training_subjects: tuple[str, ...] = ()  # people whose Dice would flatter it
    notes: dict[str, str] = field(default_factory=dict)  # for the caption
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    precision: torch.dtype = torch.float32

    def segment(self, data: Tensor) -> dict[str, Tensor]:
        """Bool `(I, J, K)` for each class, on the CPU, of `(I, J, K)` finite scanner units with axes in RAS+ order."""
        from monai.inferers import SlidingWindowInferer

        def predict(windows: Tensor) -> Tensor:
            with torch.autocast(self.device.type, self.precision, enabled=self.precision is not torch.float32):
                logits: Tensor = self.network(windows)
            return logits.float()

        prepared = self.prepare(data[None]).float()
        inferer = SlidingWindowInferer(self.window, 1, OVERLAP, "gaussian", cval=float(prepared.min()))
        with inference_settings():
            logits: Any = inferer(prepared[None].to(self.device), predict)
        if self.exclusive:
            return masks_of(logits[0].cpu().argmax(dim=0), self.classes)
        return {name: channel > 0 for name, channel in zip(self.classes, logits[0].cpu(), strict=True)}


def load_segmenter(folder: Path, *, device: str = "auto", precision: str = "auto") -> Segmenter:
    """A bundle's network, ready to segment.

    Raises:
        BundleError: the bundle is incomplete, or not one that segments a single 3D volume; the message says why.
    """
    where = pick_device(device)
    with _told(f"the segmenter {folder} cannot be used"):
        _check(folder.is_dir(), "there is no folder; give what `scorefusion downstream train` wrote, or a MONAI bundle")
        paths = [folder / "configs" / name for name in _CONFIGS if (folder / "configs" / name).is_file()]
        _check(paths, f"it is no MONAI bundle: it has none of configs/{', configs/'.join(_CONFIGS)}")
        config = read_json(paths[0], foreign=True) if paths[0].suffix == ".json" else read_yaml(paths[0])
        about = folder / "configs" / "metadata.json"
        metadata = read_json(about, foreign=True) if about.is_file() else {}
        network = build_network(config).requires_grad_(False)
        weights = _fill(network, folder / "models")
        network.to(where, memory_format=torch.channels_last_3d).eval()  # type: ignore[call-overload]  # faster on a CPU
        window, (prepare, preparation) = _window(config), _preparation(config)
        classes, exclusive = _classes(network, window, where, metadata)
        training: Any = metadata.get("training") or {}
        if "scorefusion" not in str(training.get("code")):
            training = {}  # only a segmenter that was trained here says in words to rely on whom it saw
    hashed = hashlib.sha256(weights.read_bytes()).hexdigest()[:12]
    name = f"{metadata.get('name', folder.name)} {metadata.get('version', '')}, {weights.name} {hashed}"
    notes = {"segmenter": name, "classes": ", ".join(classes), "preparation": preparation}
    known = (training.get("contrast"), tuple(training.get("subjects", ())))
    return Segmenter(
        network, classes, window, exclusive, prepare, *known, notes, where, pick_precision(precision, where)
    )


def _check(holds: object, otherwise: str) -> None:
    if not holds:
        raise BundleError(otherwise)


@contextmanager
def _told(what: str) -> Iterator[None]:
    """Whatever a foreign bundle makes a library raise becomes one sentence for the user."""
    try:
        yield
    except Cancelled:
        raise
    except Exception as error:
        own = isinstance(error, ScoreFusionError)
        cause = str(error) if own else f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        msg = f"{what}: {cause}"
        raise BundleError(msg) from error


# -- the configuration: MONAI's may hold Python expressions (`$...`) and name any callable -----------------------------


def check_plain(value: Any, where: str) -> None:
    """Refuse what MONAI would run (`$...`), read from another file (`%...`) or look up elsewhere (`@...`), and objects
    inside an object."""
    for key, item in value.items() if isinstance(value, dict) else enumerate(value if isinstance(value, list) else ()):
        _check(key != "_target_", f"{where} asks for another '_target_' inside it; only plain values can stand there")
        check_plain(item, f"{where}::{key}")
    special = isinstance(value, str) and (value.startswith(("$", "%")) or "@" in value)
    _check(not special, f"{where} is {value!r}, which stands for something else; write the value itself there")


def build_network(config: Mapping[str, Any]) -> nn.Module:
    """The network that `network_def` names among MONAI's, with random weights; its arguments are plain values.

    Raises:
        BundleError: another target, or arguments that are not plain values or not this network's.
    """
    import monai.networks.nets as nets

    has = isinstance(config.get("network_def"), dict)
    _check(has, "the configuration has no 'network_def', so its network cannot be built")
    arguments = dict(config["network_def"])
    target = str(arguments.pop("_target_", None))
    check_plain(arguments, "network_def")
    package, _, name = target.rpartition(".")
    kind = getattr(nets, name, None)
    of_monai = isinstance(kind, type) and issubclass(kind, nn.Module) and f"{package or NETS}.".startswith(f"{NETS}.")
    _check(of_monai, f"the network is {target!r}; only the networks of {NETS} are built, such as 'UNet'")
    with _told(f"MONAI cannot build {NETS}.{name} from 'network_def'"):
        return kind(**arguments)  # type: ignore[misc]


def _fill(network: nn.Module, folder: Path) -> Path:
    """Load the weights; a file that holds anything but tensors is refused without being run. Returns its path."""
    from safetensors.torch import load_file

    path = next((folder / name for name in _WEIGHTS if (folder / name).is_file()), None)
    if path is None:
        script = (folder / "model.ts").is_file()
        why = "models/model.ts is TorchScript, which can run code, so it is not opened. " if script else ""
        msg = f"{why}It has neither models/{' nor models/'.join(_WEIGHTS)}; put the network's `state_dict()` there"
        raise BundleError(msg)
    with _told(f"{path.name} is no file of tensors only, and nothing else is read; save `network.state_dict()` there"):
        safe = path.suffix == ".safetensors"
        state: Any = load_file(path) if safe else torch.load(path, map_location="cpu", weights_only=True)
    with _told(f"{path.name} holds no state dict of the network of 'network_def'"):
        network.load_state_dict(state)
    return path


def _window(config: Mapping[str, Any]) -> tuple[int, ...]:
    inferer = config.get("inferer")
    size = inferer.get("roi_size", 64) if isinstance(inferer, dict) else 64
    size = [size] * 3 if isinstance(size, int) else size
    fits = isinstance(size, list) and len(size) == 3 and all(isinstance(n, int) and n > 0 for n in size)
    _check(fits, f"the inferer's roi_size is {size!r}; expected three whole numbers: only 3D segmenters can be used")
    return tuple(size)


def _preparation(config: Mapping[str, Any]) -> tuple[Callable[[Tensor], Tensor], str]:
    """How volumes are made ready, and that in words."""
    import monai.transforms as mt

    section = config.get("preprocessing")
    listed = section.get("transforms") if isinstance(section, dict) else section
    used, left_out = {}, []
    for step in listed if isinstance(listed, list) else []:
        entry = step if isinstance(step, dict) else {"_target_": step}
        target = str(entry.get("_target_")).rpartition(".")[2]
        known = INTENSITIES + _DONE_ANYWAY
        name = next((name for name in known if re.fullmatch(f"{name}(d|D|Dict)?", target)), target)
        order = entry.get("axcodes", "RAS")
        _check(order == "RAS", f"the bundle wants its volumes in {order} order; only RAS is offered")
        if name in INTENSITIES:
            arguments = {k: v for k, v in entry.items() if k not in ("_target_", "keys", "allow_missing_keys")}
            check_plain(arguments, target)
            with _told(f"MONAI cannot build the transform {name}"):
                used[name] = getattr(mt, name)(**arguments)
        elif name not in _DONE_ANYWAY:
            left_out.append(name)
    words = f"intensities as the bundle does: {', '.join(used)}" if used else "intensities to [-1, 1], robust range"
    words += f"; left out of its preprocessing: {', '.join(left_out)}" if left_out else ""
    prepare = mt.Compose([*used.values(), mt.EnsureType(track_meta=False)]) if used else robust_range
    return prepare, f"{words}; axes RAS+, voxels as they are"


def _classes(
    network: nn.Module, window: tuple[int, ...], device: torch.device, metadata: Mapping[str, Any]
) -> tuple[tuple[str, ...], bool]:
    """Names of the classes, and whether channel 0 is the background of classes that exclude each other."""
    with _told(f"the network cannot segment one volume in windows of {window}"), torch.inference_mode():
        got = tuple(network(torch.zeros(1, 1, *window, device=device)).shape)
    _check(len(got) == 5 and got[2:] == window, f"the network gives {got}; expected (1, classes, *{window})")
    channels = int(got[1])
    outputs: Any = metadata.get("network_data_format", {}).get("outputs", {})
    prediction: Any = outputs.get("pred") or next(iter(outputs.values()), {})
    named = prediction.get("channel_def") or {}
    _check(len(named) in (0, channels), f"metadata.json names {len(named)} output channels, the network has {channels}")
    names = [standard_name(str(named.get(str(number), f"class {number}"))) for number in range(channels)]
    exclusive = channels > 1 and (not named or names[0].casefold() in ("background", "bg"))
    names = names[1 if exclusive else 0 :]
    _check(len(set(names)) == len(names), f"metadata.json gives two output channels one name ({', '.join(names)})")
    return tuple(names), exclusive
