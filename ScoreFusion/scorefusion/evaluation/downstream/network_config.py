"""The network of a MONAI bundle, built from its configuration without running code from it.

MONAI configurations may hold Python expressions (`$...`) and name any callable. Here only plain values and references
to plain values (`@key`) are followed, and the network must be one of `monai.networks.nets`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from scorefusion.errors import BundleError

_FILES = ("inference.json", "inference.yaml", "inference.yml")
_NETS = "monai.networks.nets"
_DEEPEST = 32  # references that lead round in a circle end here


def read_config(folder: Path) -> dict[str, Any]:
    """`configs/inference.json` or `.yaml` as it is written, nothing resolved."""
    from monai.bundle import ConfigParser

    path = next((folder / "configs" / name for name in _FILES if (folder / "configs" / name).is_file()), None)
    if path is None:
        msg = f"{folder} is no MONAI bundle that can be used: it has none of configs/{', configs/'.join(_FILES)}"
        raise BundleError(msg)
    try:
        config = ConfigParser.load_config_file(str(path))
    except Exception as error:  # of the JSON or YAML reader, whichever MONAI uses
        msg = f"{path} cannot be read ({error}); mend it, or choose another bundle"
        raise BundleError(msg) from error
    if not isinstance(config, dict):
        msg = f"{path} must be an object with 'network_def', got {type(config).__name__}"
        raise BundleError(msg)
    return config


def plain(config: Mapping[str, Any], value: Any, where: str, depth: int = 0) -> Any:
    """A part of a configuration with its references followed.

    Raises:
        BundleError: there is a Python expression or a macro in it, or a reference that leads nowhere.
    """
    if depth > _DEEPEST:
        msg = f"{where}: its references lead round in a circle"
        raise BundleError(msg)
    if isinstance(value, Mapping):
        return {str(key): plain(config, item, f"{where}::{key}", depth + 1) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(config, item, f"{where}::{number}", depth + 1) for number, item in enumerate(value)]
    if isinstance(value, str) and value.startswith("@"):
        return plain(config, _look_up(config, value, where), value[1:], depth + 1)
    if isinstance(value, str) and (value.startswith(("$", "%")) or "@" in value):
        msg = (
            f"{where} is {value!r}, which would run code from the bundle or read another file; "
            "write the value itself there"
        )
        raise BundleError(msg)
    return value


def build_network(config: Mapping[str, Any], folder: Path) -> nn.Module:
    """The network that `network_def` describes, with random weights."""
    from monai.bundle import ConfigParser

    if "network_def" not in config:
        msg = (
            f"{folder}: the configuration has no 'network_def', so its network cannot be built; or give models/model.ts"
        )
        raise BundleError(msg)
    definition = plain(config, config["network_def"], "network_def")
    definition["_target_"] = _network_class(definition, folder)
    _refuse_more_components({key: value for key, value in definition.items() if key != "_target_"}, folder)
    parser = ConfigParser({"network_def": definition})
    try:
        network = parser.get_parsed_content("network_def")
    except Exception as error:
        cause = error.__cause__ or error
        msg = f"{folder}: MONAI cannot build {definition['_target_']} from 'network_def' ({cause})"
        raise BundleError(msg) from error
    if not isinstance(network, nn.Module):
        msg = f"{folder}: 'network_def' gives no network (is it disabled?)"
        raise BundleError(msg)
    return network


def _network_class(definition: Any, folder: Path) -> str:
    """The full name of the class asked for, which must be one of MONAI's networks."""
    import monai.networks.nets as nets

    target = definition.get("_target_") if isinstance(definition, dict) else None
    package, _, name = str(target).rpartition(".")
    found = getattr(nets, name, None)
    is_network = isinstance(found, type) and issubclass(found, nn.Module)
    if not is_network or not (package == "" or f"{package}.".startswith(f"{_NETS}.")):
        msg = f"{folder}: the network is {target!r}; only the networks of {_NETS} are built, such as 'UNet'"
        raise BundleError(msg)
    return f"{_NETS}.{name}"


def _refuse_more_components(value: Any, folder: Path) -> None:
    if isinstance(value, dict):
        if "_target_" in value:
            msg = f"{folder}: 'network_def' asks for {value['_target_']!r} inside it; only plain values can stand there"
            raise BundleError(msg)
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            _refuse_more_components(item, folder)


def _look_up(config: Mapping[str, Any], reference: str, where: str) -> Any:
    """What `@key`, `@key::inner` or `@key#inner` names."""
    found: Any = config
    for key in reference[1:].replace("#", "::").split("::"):
        try:
            found = found[int(key) if isinstance(found, list) else key]
        except (KeyError, IndexError, TypeError, ValueError) as error:
            msg = f"{where}: the reference {reference!r} leads nowhere in the configuration"
            raise BundleError(msg) from error
    return found
