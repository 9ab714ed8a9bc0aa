"""A segmentation network from a MONAI bundle: a volume in, one mask a class out. No code of the bundle runs.

What is used of it: the network that `network_def` names, its weights (tensors only), the window of its inferer, the
names of its output channels, and those of its intensity transforms that are named in `INTENSITIES`. What is not: its
other transforms, Python expressions, TorchScript. Volumes keep their voxels and have their axes in RAS+ order; a bundle
that wants another order is refused, another spacing is noted.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from scorefusion.errors import BundleError
from scorefusion.evaluation.downstream.labels import masks_of, standard_name
from scorefusion.imaging.intensity import fit_intensity_scale
from scorefusion.run.devices import inference_settings, pick_device, pick_precision

OVERLAP = 0.25  # neighbouring windows share this part of their width, blended by a Gaussian

#: Transforms of `preprocessing` that are taken over, and those that are done here anyway, or change nothing.
INTENSITIES = ("NormalizeIntensity", "ScaleIntensity", "ScaleIntensityRange", "ScaleIntensityRangePercentiles")
_DONE_ANYWAY = ("LoadImage", "EnsureChannelFirst", "AddChannel", "EnsureType", "ToTensor", "Orientation", "CastToType")

_CONFIGS = ("inference.json", "inference.yaml", "inference.yml")
_WEIGHTS = ("model.safetensors", "model.pt")
_NETS = "monai.networks.nets"
_DEEPEST = 32  # references that lead round in a circle end here


def robust_range(data: Tensor) -> Tensor:
    """Scanner units to [-1, 1] as everywhere in ScoreFusion, by the volume's own robust range. `(1, I, J, K)`."""
    scaled: Tensor = fit_intensity_scale(data.numpy()).normalise(data)
    return scaled


@dataclass(frozen=True, eq=False)
class Segmenter:
    """A network with all that turns a volume into masks."""

    network: nn.Module  # (B, 1, *window) to logits (B, C, *window)
    classes: tuple[str, ...]  # in the order of the output channels; the background has none
    window: tuple[int, int, int]  # of the sliding window, voxels
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


def load_segmenter(folder: str | Path, *, device: str = "auto", precision: str = "auto") -> Segmenter:
    """A bundle's network, ready to segment.

    Raises:
        BundleError: the bundle is incomplete, or not one that segments a single 3D volume; the message says why.
    """
    folder, chosen = Path(folder), pick_device(device)
    if not folder.is_dir():
        msg = f"there is no folder {folder}; give what `scorefusion downstream train` wrote, or a MONAI bundle"
        raise BundleError(msg)
    config, metadata = _read(folder, _CONFIGS), _read(folder, ("metadata.json",))
    if not config:
        msg = f"{folder} is no MONAI bundle that can be used: it has none of configs/{', configs/'.join(_CONFIGS)}"
        raise BundleError(msg)
    weights = _weights(folder)
    network = build_network(config, folder)
    _fill(network, weights)
    network.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]  # faster on a CPU
    network.requires_grad_(False).to(chosen).eval()
    window = _window(config, folder)
    prepare, preparation = _preparation(config, folder)
    classes, exclusive = _classes(metadata, _channels(network, window, folder, chosen), folder)
    training: Any = metadata.get("training")
    if not (isinstance(training, Mapping) and "scorefusion" in str(training.get("code"))):
        training = {}  # only a segmenter that was trained here says in words to rely on whom it saw
    name = f"{metadata.get('name', folder.name)} {metadata.get('version', '')}, {weights.name}"
    hashed = hashlib.sha256(weights.read_bytes()).hexdigest()[:12]
    notes = {"segmenter": f"{name} {hashed}", "classes": ", ".join(classes), "preparation": preparation}
    people, number_format = tuple(training.get("subjects", ())), pick_precision(precision, chosen)
    return Segmenter(
        network, classes, window, exclusive, prepare, training.get("contrast"), people, notes, chosen, number_format
    )


# -- the configuration: MONAI's may hold Python expressions (`$...`) and name any callable -----------------------------


def _read(folder: Path, names: tuple[str, ...]) -> dict[str, Any]:
    """The first of these files in `configs` as it is written, nothing resolved; empty if there is none."""
    from monai.bundle import ConfigParser

    path = next((folder / "configs" / name for name in names if (folder / "configs" / name).is_file()), None)
    if path is None:
        return {}
    try:
        text = path.read_text(encoding="utf-8")
        content = json.loads(text) if path.suffix == ".json" else ConfigParser.load_config_file(str(path))
    except Exception as error:  # of the JSON or YAML reader, whichever MONAI uses
        msg = f"{path} cannot be read ({error}); mend it, or choose another bundle"
        raise BundleError(msg) from error
    if not isinstance(content, dict):
        msg = f"{path} must be an object, got {type(content).__name__}"
        raise BundleError(msg)
    return content


def plain(config: Mapping[str, Any], value: Any, where: str, depth: int = 0) -> Any:
    """A part of a configuration with its references to plain values (`@key`, `@key::inner`, `@key#0`) followed.

    Raises:
        BundleError: there is a Python expression or a macro in it, or a reference that leads nowhere.
    """
    msg = None
    if isinstance(value, Mapping):
        value = {str(key): plain(config, item, f"{where}::{key}", depth + 1) for key, item in value.items()}
    elif isinstance(value, (list, tuple)):
        value = [plain(config, item, f"{where}::{number}", depth + 1) for number, item in enumerate(value)]
    elif depth > _DEEPEST:
        msg = f"{where}: its references lead round in a circle"
    elif isinstance(value, str) and value.startswith("@"):
        found: Any = config
        try:
            for key in value[1:].replace("#", "::").split("::"):
                found = found[int(key) if isinstance(found, list) else key]
        except (KeyError, IndexError, TypeError, ValueError):
            msg = f"{where}: the reference {value!r} leads nowhere in the configuration"
        else:
            value = plain(config, found, value[1:], depth + 1)
    elif isinstance(value, str) and (value.startswith(("$", "%")) or "@" in value):
        msg = f"{where} is {value!r}, which would run code from the bundle or read another file; "
        msg += "write the value itself there"
    if msg is not None:
        raise BundleError(msg)
    return value


def build_network(config: Mapping[str, Any], folder: Path) -> nn.Module:
    """The network that `network_def` names among MONAI's, with random weights; its arguments are plain values."""
    import monai.networks.nets as nets

    if not isinstance(config.get("network_def"), Mapping):
        msg = f"{folder}: the configuration has no 'network_def', so its network cannot be built"
        raise BundleError(msg)
    arguments = plain(config, config["network_def"], "network_def")
    target = str(arguments.pop("_target_", None))
    package, _, name = target.rpartition(".")
    kind = getattr(nets, name, None)
    is_network = isinstance(kind, type) and issubclass(kind, nn.Module)
    if not is_network or not (package == "" or f"{package}.".startswith(f"{_NETS}.")):
        msg = f"{folder}: the network is {target!r}; only the networks of {_NETS} are built, such as 'UNet'"
        raise BundleError(msg)
    if "_target_" in str(arguments):
        msg = f"{folder}: 'network_def' asks for another '_target_' inside it; only plain values can stand there"
        raise BundleError(msg)
    try:
        return kind(**arguments)  # type: ignore[misc]
    except Exception as error:  # whatever a network does with arguments it was not made for
        msg = f"{folder}: MONAI cannot build {_NETS}.{name} from 'network_def' ({error})"
        raise BundleError(msg) from error


# -- weights: tensors only ---------------------------------------------------------------------------------------------


def _weights(folder: Path) -> Path:
    """The file of weights."""
    found = next((folder / "models" / name for name in _WEIGHTS if (folder / "models" / name).is_file()), None)
    if found is not None:
        return found
    msg = f"{folder} has neither models/{' nor models/'.join(_WEIGHTS)}; put the network's state dict there"
    if (folder / "models" / "model.ts").is_file():
        msg = (
            f"{folder}: models/model.ts is TorchScript, which can run code, so it is not opened. Save the network's "
            "`state_dict()` as models/model.pt or .safetensors, with 'network_def' in configs/inference.json"
        )
    raise BundleError(msg)


def _fill(network: nn.Module, path: Path) -> None:
    """Load weights; a file that holds anything but tensors is refused without being run."""
    from safetensors.torch import load_file

    try:
        safe = path.suffix == ".safetensors"
        state: Any = load_file(path) if safe else torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds here
        msg = f"{path} is no file of tensors only, and nothing else is read; save `network.state_dict()` there"
        raise BundleError(msg) from error
    for key in ("model", "state_dict", "network"):
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        msg = f"{path} holds no state dict; save `network.state_dict()` there"
        raise BundleError(msg)
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        first = str(error).splitlines()[1:2] or [str(error)]
        msg = f"{path} does not fit the network of 'network_def': {first[0].strip()[:200]}"
        raise BundleError(msg) from error


# -- what goes in and comes out ----------------------------------------------------------------------------------------


def _window(config: Mapping[str, Any], folder: Path) -> tuple[int, int, int]:
    inferer = config.get("inferer")
    asked = inferer.get("roi_size", 64) if isinstance(inferer, Mapping) else 64
    size = plain(config, asked, "inferer::roi_size")
    size = [size] * 3 if isinstance(size, int) else size
    if not (isinstance(size, list) and len(size) == 3 and all(isinstance(n, int) and n > 0 for n in size)):
        msg = f"{folder}: the inferer's roi_size is {size!r}; expected three sizes: only 3D segmenters can be used"
        raise BundleError(msg)
    return size[0], size[1], size[2]


def _preparation(config: Mapping[str, Any], folder: Path) -> tuple[Callable[[Tensor], Tensor], str]:
    """How volumes are made ready, and that in words."""
    import monai.transforms as transforms
    from monai.utils import convert_to_tensor

    section = config.get("preprocessing")
    listed = section.get("transforms", []) if isinstance(section, Mapping) else section or []
    steps: dict[str, Callable[[Tensor], Any]] = {}
    left_out = []
    for number, entry in enumerate(listed if isinstance(listed, list) else []):
        name = _plain_name(entry)
        if name == "Orientation" and entry.get("axcodes", "RAS") != "RAS":
            msg = f"{folder}: the bundle wants its volumes in {entry['axcodes']} order; only RAS is offered"
            raise BundleError(msg)
        if name in INTENSITIES:
            values = plain(config, entry, f"preprocessing::{number}")
            arguments = {k: v for k, v in values.items() if k not in ("_target_", "keys", "allow_missing_keys")}
            try:
                steps[name] = getattr(transforms, name)(**arguments)
            except Exception as error:
                msg = f"{folder}: MONAI cannot build the transform {name} with {arguments} ({error})"
                raise BundleError(msg) from error
        elif name not in _DONE_ANYWAY:
            left_out.append(name)
    words = f"intensities as the bundle does: {', '.join(steps)}" if steps else "intensities to [-1, 1], robust range"
    words += f"; left out of its preprocessing: {', '.join(left_out)}" if left_out else ""

    def prepare(data: Tensor) -> Tensor:
        for step in steps.values():
            data = convert_to_tensor(step(data), track_meta=False)
        return data

    return (prepare if steps else robust_range), f"{words}; axes RAS+, voxels as they are"


def _plain_name(entry: Any) -> str:
    """`"monai.transforms.NormalizeIntensityd"` and `"NormalizeIntensityDict"` are `"NormalizeIntensity"`."""
    name = str(entry.get("_target_") if isinstance(entry, Mapping) else entry).rpartition(".")[2]
    known = (*INTENSITIES, *_DONE_ANYWAY)
    return next((plain for plain in known if name in {plain, f"{plain}d", f"{plain}D", f"{plain}Dict"}), name)


def _channels(network: nn.Module, window: tuple[int, int, int], folder: Path, device: torch.device) -> int:
    """Run the network once on an empty window; returns its number of output channels."""
    try:
        with torch.inference_mode():
            logits = network(torch.zeros(1, 1, *window, device=device))
    except Exception as error:  # whatever a foreign network does with an input it was not made for
        cause = str(error).strip().splitlines() or [type(error).__name__]
        msg = f"{folder}: the network cannot segment one volume in windows of {window} ({cause[0][:200]})"
        raise BundleError(msg) from error
    got = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
    if not isinstance(logits, Tensor) or logits.dim() != 5 or tuple(logits.shape[2:]) != window:
        msg = f"{folder}: the network gives {got} for a window of {window}; expected (1, classes, {window})"
        raise BundleError(msg)
    return int(logits.shape[1])


def _classes(metadata: Mapping[str, Any], channels: int, folder: Path) -> tuple[tuple[str, ...], bool]:
    """Names of the classes, and whether channel 0 is the background of classes that exclude each other."""
    outputs: Any = (metadata.get("network_data_format") or {}).get("outputs") or {}
    prediction: Any = outputs.get("pred") or next(iter(outputs.values()), {})
    named = prediction.get("channel_def") or {}
    if not named:
        return tuple(f"class {number + 1}" for number in range(max(1, channels - 1))), channels > 1
    if len(named) != channels:
        msg = f"{folder}: metadata.json names {len(named)} output channels, the network has {channels}"
        raise BundleError(msg)
    names = [str(named.get(str(number), f"class {number}")) for number in range(channels)]
    exclusive = channels > 1 and names[0].casefold() in ("background", "bg")
    names = [standard_name(name) for name in names[1 if exclusive else 0 :]]
    if len(set(names)) != len(names):
        msg = f"{folder}: metadata.json gives two output channels one name ({', '.join(names)})"
        raise BundleError(msg)
    return tuple(names), exclusive
