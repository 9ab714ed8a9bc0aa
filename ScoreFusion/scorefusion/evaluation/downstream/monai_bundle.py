"""Any MONAI bundle as the segmenter: `configs/inference.json` (or .yaml), `configs/metadata.json` and
`models/model.pt` or `models/model.ts`.

What is used of it: the network, its weights, the window of its inferer, the names of its output channels, and those of
its intensity transforms that are named in `INTENSITIES`. What is not: its other transforms. Volumes keep their voxels
and have their axes in RAS+ order; a bundle that wants another order is refused, another spacing is noted.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from scorefusion.errors import BundleError
from scorefusion.evaluation.downstream.labels import standard_name
from scorefusion.evaluation.downstream.network_config import build_network, plain, read_config
from scorefusion.evaluation.downstream.segmenter import Segmenter, robust_range
from scorefusion.run.devices import pick_device, pick_precision

DEFAULT_WINDOW = (64, 64, 64)

#: Transforms of `preprocessing` that are taken over.
INTENSITIES = ("NormalizeIntensity", "ScaleIntensity", "ScaleIntensityRange", "ScaleIntensityRangePercentiles")

#: Transforms that are done here anyway, or change nothing.
_DONE_ANYWAY = ("LoadImage", "EnsureChannelFirst", "AddChannel", "EnsureType", "ToTensor", "Orientation", "CastToType")

Prepare = Callable[[Tensor], Tensor]


def load_segmenter(folder: str | Path, *, device: str = "auto", precision: str = "auto") -> Segmenter:
    """A bundle's network, ready to segment.

    Raises:
        BundleError: the bundle is incomplete, or not one that segments a single 3D volume; the message says why.
    """
    folder = Path(folder)
    if not folder.is_dir():
        msg = f"there is no folder {folder}; give what `scorefusion downstream train` wrote, or a MONAI bundle"
        raise BundleError(msg)
    config, metadata = read_config(folder), _read_metadata(folder)
    chosen = pick_device(device)
    network, weights = _load_network(folder, config, chosen)
    window = _window(config, folder)
    prepare, preparation = _preparation(config, folder)
    channels = _probe(network, window, folder, chosen)
    classes, exclusive = _classes(metadata, channels, folder)
    training = _training(metadata)
    return Segmenter(
        network,
        classes,
        window,
        exclusive,
        prepare,
        training.get("contrast"),
        tuple(training.get("subjects", ())),
        {
            "segmenter": f"{metadata.get('name', folder.name)} {metadata.get('version', '')}, {weights}".strip(),
            "classes": ", ".join(classes),
            "preparation": preparation,
        },
        chosen,
        pick_precision(precision, chosen),
    )


def _read_metadata(folder: Path) -> dict[str, Any]:
    path = folder / "configs" / "metadata.json"
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        msg = f"{path} is not valid JSON ({error}); mend it, or take it away"
        raise BundleError(msg) from error
    return content if isinstance(content, dict) else {}


def _load_network(folder: Path, config: Mapping[str, Any], device: torch.device) -> tuple[nn.Module, str]:
    """The network with its weights, in evaluation mode, and where they came from."""
    weights, script = folder / "models" / "model.pt", folder / "models" / "model.ts"
    if weights.is_file():
        network = build_network(config, folder)
        _fill(network, weights)
        network.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]  # faster on a CPU
    elif script.is_file():
        try:
            network = torch.jit.load(str(script), map_location="cpu")
        except (RuntimeError, ValueError) as error:
            msg = f"{script} is no TorchScript file that this PyTorch ({torch.__version__}) can read"
            raise BundleError(msg) from error
    else:
        msg = f"{folder} has neither models/model.pt nor models/model.ts; put the bundle's weights there"
        raise BundleError(msg)
    for parameter in network.parameters():
        parameter.requires_grad_(False)
    path = weights if weights.is_file() else script
    return network.to(device).eval(), f"{path.name} {_sha256(path)[:12]}"


def _fill(network: nn.Module, path: Path) -> None:
    """Tensors only: a file that wants to run code is refused by torch."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
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


def _window(config: Mapping[str, Any], folder: Path) -> tuple[int, int, int]:
    inferer = config.get("inferer")
    if not isinstance(inferer, Mapping) or "roi_size" not in inferer:
        return DEFAULT_WINDOW
    size = plain(config, inferer["roi_size"], "inferer::roi_size")
    size = [size] * 3 if isinstance(size, int) else size
    if not (isinstance(size, list) and len(size) == 3 and all(isinstance(n, int) and n > 0 for n in size)):
        msg = f"{folder}: the inferer's roi_size is {size!r}; expected three sizes: only 3D segmenters can be used"
        raise BundleError(msg)
    return size[0], size[1], size[2]


def _preparation(config: Mapping[str, Any], folder: Path) -> tuple[Prepare, str]:
    """How volumes are made ready, and that in words."""
    section = config.get("preprocessing")
    listed = section.get("transforms", []) if isinstance(section, Mapping) else section or []
    steps, names, left_out = [], [], []
    for number, entry in enumerate(listed if isinstance(listed, list) else []):
        name = _plain_name(entry)
        if name == "Orientation":
            _check_orientation(entry, folder)
        if name in INTENSITIES:
            steps.append(_transform(name, plain(config, entry, f"preprocessing::{number}"), folder))
            names.append(name)
        elif name not in _DONE_ANYWAY:
            left_out.append(name)
    words = f"intensities as the bundle does: {', '.join(names)}" if names else "intensities to [-1, 1], robust range"
    if left_out:
        words += f"; left out of its preprocessing: {', '.join(left_out)}"

    def prepare(data: Tensor) -> Tensor:
        from monai.utils import convert_to_tensor

        for step in steps:
            data = convert_to_tensor(step(data), track_meta=False)
        return data

    return (prepare if steps else robust_range), f"{words}; axes RAS+, voxels as they are"


def _plain_name(entry: Any) -> str:
    """`"monai.transforms.NormalizeIntensityd"` and `"NormalizeIntensityDict"` are `"NormalizeIntensity"`."""
    target = str(entry.get("_target_")) if isinstance(entry, Mapping) else str(entry)
    name = target.rpartition(".")[2]
    known = (*INTENSITIES, *_DONE_ANYWAY)
    return next((plain for plain in known if name in {plain, f"{plain}d", f"{plain}D", f"{plain}Dict"}), name)


def _check_orientation(entry: Mapping[str, Any], folder: Path) -> None:
    wanted = entry.get("axcodes", "RAS")
    if wanted != "RAS":
        msg = f"{folder}: the bundle wants its volumes in {wanted} order; only RAS is offered"
        raise BundleError(msg)


def _transform(name: str, entry: dict[str, Any], folder: Path) -> Callable[[Tensor], Any]:
    """The transform for tensors that does what the dictionary transform would do."""
    import monai.transforms as transforms

    arguments = {key: value for key, value in entry.items() if key not in ("_target_", "keys", "allow_missing_keys")}
    try:
        made: Callable[[Tensor], Any] = getattr(transforms, name)(**arguments)
    except Exception as error:
        msg = f"{folder}: MONAI cannot build the transform {name} with {arguments} ({error})"
        raise BundleError(msg) from error
    return made


def _probe(network: nn.Module, window: tuple[int, int, int], folder: Path, device: torch.device) -> int:
    """Run the network once on an empty window; returns its number of output channels."""
    try:
        with torch.inference_mode():
            logits = network(torch.zeros(1, 1, *window, device=device))
    except Exception as error:  # whatever a foreign network does with an input it was not made for
        cause = str(error).strip().splitlines() or [type(error).__name__]
        msg = f"{folder}: the network cannot segment one volume in windows of {window} ({cause[0][:200]})"
        raise BundleError(msg) from error
    if not isinstance(logits, Tensor) or logits.dim() != 5 or tuple(logits.shape[2:]) != window:
        got = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        msg = f"{folder}: the network gives {got} for a window of {window}; expected (1, classes, {window})"
        raise BundleError(msg)
    return int(logits.shape[1])


def _classes(metadata: Mapping[str, Any], channels: int, folder: Path) -> tuple[tuple[str, ...], bool]:
    """Names of the classes, and whether channel 0 is the background of classes that exclude each other."""
    named = _output(metadata).get("channel_def") or {}
    if not named:
        count = max(1, channels - 1)
        return tuple(f"class {number + 1}" for number in range(count)), channels > 1
    names = [str(named.get(str(number), f"class {number}")) for number in range(channels)]
    if len(named) != channels:
        msg = f"{folder}: metadata.json names {len(named)} output channels, the network has {channels}"
        raise BundleError(msg)
    exclusive = channels > 1 and names[0].casefold() in ("background", "bg")
    names = [standard_name(name) for name in names[1 if exclusive else 0 :]]
    if len(set(names)) != len(names):
        msg = f"{folder}: metadata.json gives two output channels one name ({', '.join(names)})"
        raise BundleError(msg)
    return tuple(names), exclusive


def _output(metadata: Mapping[str, Any]) -> Mapping[str, Any]:
    outputs = (metadata.get("network_data_format") or {}).get("outputs") or {}
    found: Mapping[str, Any] = outputs.get("pred") or next(iter(outputs.values()), {})
    return found


def _training(metadata: Mapping[str, Any]) -> Mapping[str, Any]:
    """Contrast and people of the training: only a segmenter that was trained here says so in words to rely on."""
    training = metadata.get("training")
    return training if isinstance(training, Mapping) and "scorefusion" in str(training.get("code")) else {}


def _sha256(path: Path) -> str:
    import hashlib

    return hashlib.sha256(path.read_bytes()).hexdigest()
