"""What ``configs/metadata.json`` must hold. All problems are found in one go: key, value and expectation."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import PurePosixPath
from typing import Any

from scorefusion.errors import BundleError

FORMAT_VERSION = 1
"""Of the ``scorefusion`` section. Raised only when an older ScoreFusion would misread a newer bundle."""

TASKS = ("super_resolution", "translation")
BASES = ("back_projection", "cubic", "linear", "nearest", "condition", "mapped_condition")
PROFILES = ("box", "gaussian")
PLANES = ("sagittal", "coronal", "axial")
SCHEDULES = ("cosine", "linear")
PREDICTIONS = ("noise", "v", "clean")
VOLUME_KINDS = ("diffusion", "regression")
SOLVERS = ("ddim", "ddpm", "dpmpp")

_MISSING = object()
_SHOWN_PROBLEMS = 6


def validate_metadata(metadata: Any, where: str) -> None:
    """Raise `BundleError` unless the metadata describes a bundle that this version can run.

    Args:
        metadata: the parsed JSON.
        where: the bundle's name or path, for the message.

    Unknown keys are left alone: MONAI has its own, and later versions may add some.
    """
    section = metadata.get("scorefusion") if isinstance(metadata, dict) else None
    if not isinstance(section, dict):
        msg = (
            f"Bundle {where!r} has no 'scorefusion' section in configs/metadata.json, so it is no ScoreFusion model. "
            "Other MONAI bundles cannot be used here."
        )
        raise BundleError(msg)
    found_format = section.get("format_version")
    if isinstance(found_format, int) and found_format > FORMAT_VERSION:
        msg = (
            f"Bundle {where!r} has format version {found_format}; this ScoreFusion reads up to {FORMAT_VERSION}. "
            "Update ScoreFusion, or get an older version of the model."
        )
        raise BundleError(msg)

    checker = _Checker()
    checker.check(metadata, "", "version", _is_text, 'text such as "1.0.0"')
    checker.check(metadata, "", "description", _is_text, "a sentence")
    _check_section(checker, section)
    if checker.problems:
        shown = checker.problems[:_SHOWN_PROBLEMS]
        hidden = len(checker.problems) - len(shown)
        more = f"; and {hidden} more" if hidden else ""
        msg = f"Bundle {where!r} cannot be used, its configs/metadata.json is wrong: {'; '.join(shown)}{more}."
        raise BundleError(msg)


def network_files(section: dict[str, Any]) -> list[str]:
    """Weight files that the networks of a valid section need, without repeats."""
    networks = section["networks"]
    entries = [*(networks.get("planes") or []), networks.get("fusion"), networks.get("volume")]
    return list(dict.fromkeys(entry["file"] for entry in entries if entry))


def is_safe_path(path: Any) -> bool:
    """Whether a path from outside stays inside the bundle: relative, forward slashes, no ``..``, no drive letter."""
    if not isinstance(path, str) or not path or "\\" in path or ":" in path or "\0" in path:
        return False
    return not path.startswith("/") and ".." not in PurePosixPath(path).parts


def is_bundle_id(value: Any) -> bool:
    """Whether a value can name a bundle and its folder: lower-case letters, digits, dots, dashes, underscores."""
    return isinstance(value, str) and re.fullmatch(r"[a-z0-9][a-z0-9._-]{0,63}", value) is not None


class _Checker:
    """Collects problems as ``key: found; expected ...``."""

    def __init__(self) -> None:
        self.problems: list[str] = []

    def check(
        self,
        mapping: dict[str, Any],
        prefix: str,
        key: str,
        accepts: Callable[[Any], bool],
        expected: str,
        optional: bool = False,
    ) -> Any:
        """The value of a key if it is acceptable, else None and a problem on the list."""
        value = mapping.get(key, _MISSING)
        if value is _MISSING:
            if not optional:
                self.problems.append(f"{prefix}{key} is missing (expected {expected})")
            return None
        if not accepts(value):
            self.problems.append(f"{prefix}{key} is {_short(value)} (expected {expected})")
            return None
        return value


def _check_section(checker: _Checker, section: dict[str, Any]) -> None:
    check = checker.check
    top = "scorefusion."
    check(section, top, "format_version", lambda v: v == FORMAT_VERSION, str(FORMAT_VERSION))
    check(section, top, "id", is_bundle_id, "lower-case letters, digits, dots and dashes", optional=True)
    check(section, top, "task", _is_one_of(TASKS), _one_of(TASKS))
    check(section, top, "spacing_mm", _are_numbers(3, positive=True), "three positive lengths in mm")
    check(section, top, "base", _is_one_of(BASES), _one_of(BASES))
    check(section, top, "base_rounds", _is_count(0), "a whole number from 0", optional=True)
    check(section, top, "residual_gain", lambda v: _is_number(v) and v > 0, "a positive number")
    check(section, top, "inputs", _is_mapping, "a mapping of what the networks are shown")
    check(section, top, "slice_profile", _is_one_of(PROFILES), _one_of(PROFILES), optional=True)
    check(section, top, "uncertainty", _is_mapping, "a mapping of sampling settings", optional=True)
    check(section, top, "domain", _is_mapping, "a mapping")
    check(section, top, "licence", _is_text, "the licence's name")

    conditions = _check_conditions(checker, section)
    if section.get("base") == "mapped_condition":
        each = len(conditions)
        check(section, top, "base_curves", _are_curves(each), f"{each} lists (one a condition) of at least two numbers")
        joint = f"n to the power of {each} numbers (as many conditions), n at least 2"
        check(section, top, "base_joint", _is_joint_map(each), joint, optional=True)
    _check_target(checker, section, conditions)
    files = _check_files(checker, section)
    steps = _check_schedule(checker, section)
    _check_presets(checker, section, steps)
    networks = check(section, top, "networks", _is_mapping, "a mapping with planes (and fusion), or with volume")
    if networks is None:
        return
    if networks.get("volume") is None:
        _check_planes(checker, section, networks, conditions, files)
    else:
        _check_volume(checker, section, networks, files)


def _check_conditions(checker: _Checker, section: dict[str, Any]) -> list[str]:
    """Names of the conditions, in order."""
    expected = "a list of conditions, the first one not optional"
    conditions = checker.check(section, "scorefusion.", "conditions", _are_mappings, expected)
    names: list[str] = []
    for index, condition in enumerate(conditions or []):
        prefix = f"scorefusion.conditions[{index}]."
        name = checker.check(condition, prefix, "name", lambda v: _is_text(v) and v not in names, "a name of its own")
        checker.check(condition, prefix, "contrasts", _are_texts, 'contrasts such as ["t1"]')
        checker.check(condition, prefix, "median", _is_level, _LEVEL, optional=True)
        checker.check(condition, prefix, "optional", lambda v: isinstance(v, bool), "true or false", optional=True)
        if index == 0 and condition.get("optional"):
            checker.problems.append(f"{prefix}optional is true (expected false: the first condition is the base)")
        if name is not None:
            names.append(name)
    return names


def _check_target(checker: _Checker, section: dict[str, Any], conditions: list[str]) -> None:
    target = checker.check(section, "scorefusion.", "target", _is_mapping, "a mapping")
    if target is None:
        return
    prefix = "scorefusion.target."
    checker.check(target, prefix, "name", _is_text, "a name")
    checker.check(
        target, prefix, "same_contrast_as", lambda v: v is None or v in conditions, f"null or {_one_of(conditions)}"
    )
    checker.check(target, prefix, "median", _is_level, _LEVEL, optional=True)
    checker.check(target, prefix, "units", _is_text, 'text such as "input units"')
    checker.check(
        target, prefix, "range", lambda v: v is None or _are_numbers(2)(v), "two numbers or null", optional=True
    )


def _check_files(checker: _Checker, section: dict[str, Any]) -> set[str]:
    """Paths listed with their hashes."""
    files = checker.check(section, "scorefusion.", "files", _is_mapping, "weight files with sha256 and bytes")
    for path, facts in (files or {}).items():
        prefix = f"scorefusion.files[{_short(path)}]"
        if not is_safe_path(path):
            checker.problems.append(
                f"{prefix} points outside the bundle (expected a path such as models/x.safetensors)"
            )
        elif not path.endswith(".safetensors"):
            checker.problems.append(f"{prefix} is not a safetensors file (other weight files may carry code)")
        if not isinstance(facts, dict):
            checker.problems.append(f"{prefix} is {_short(facts)} (expected sha256 and bytes)")
            continue
        checker.check(facts, f"{prefix}.", "sha256", _is_sha256, "64 hexadecimal digits")
        checker.check(facts, f"{prefix}.", "bytes", _is_count(0), "the size in bytes")
    return set(files or {})


def _check_planes(
    checker: _Checker, section: dict[str, Any], networks: dict[str, Any], conditions: list[str], files: set[str]
) -> None:
    """Plane networks, with or without a network that fuses them."""
    check = checker.check
    top, prefix = "scorefusion.", "scorefusion.networks."
    check(section, top, "slab_radius", _is_count(0), "a whole number from 0")
    planes = check(section, top, "planes", _is_subset_of(PLANES), f"a list of {_one_of(PLANES)}") or []
    expected = "a list of plane networks, or networks.volume instead"
    entries = check(networks, prefix, "planes", _are_mappings, expected) or []
    fusion = check(
        networks, prefix, "fusion", lambda v: v is None or _is_mapping(v), "a network or null", optional=True
    )
    covered: set[str] = set()
    for index, entry in enumerate(entries):
        at = f"{prefix}planes[{index}]."
        _check_network(checker, entry, at, files)
        check(entry, at, "conditions", _is_subset_of(conditions), f"a list of {_one_of(conditions)}")
        covered.update(check(entry, at, "planes", _is_subset_of(planes), f"a list of {_one_of(planes)}") or [])
    if entries and set(planes) - covered:
        left = _one_of(sorted(set(planes) - covered))
        checker.problems.append(
            f"{prefix}planes has no network for {left} (expected one for each of scorefusion.planes)"
        )
    if fusion:
        _check_network(checker, fusion, f"{prefix}fusion.", files)
    if not checker.problems:
        _check_optional(checker, section)


def _check_optional(checker: _Checker, section: dict[str, Any]) -> None:
    """Without the optional conditions, some plane network must still have what it needs."""
    required = [condition["name"] for condition in section["conditions"] if not condition.get("optional")]
    # Networks that are told of absence work with any of their conditions, others need all.
    enough = any if section["inputs"].get("presence_context") else all
    if not any(enough(name in required for name in entry["conditions"]) for entry in section["networks"]["planes"]):
        checker.problems.append(
            f"scorefusion.networks.planes has no network that works with {_one_of(required)} alone (expected one: the "
            "other conditions are optional)"
        )


def _check_volume(checker: _Checker, section: dict[str, Any], networks: dict[str, Any], files: set[str]) -> None:
    """A 3D network alone."""
    prefix = "scorefusion.networks."
    volume = checker.check(networks, prefix, "volume", _is_mapping, "a network or null")
    if volume is not None:
        _check_network(checker, volume, f"{prefix}volume.", files)
        kind = checker.check(volume, f"{prefix}volume.", "kind", _is_one_of(VOLUME_KINDS), _one_of(VOLUME_KINDS))
        if kind == "regression":
            _check_regression(checker, section)
    for key in ("planes", "fusion"):
        if networks.get(key):
            checker.problems.append(
                f"{prefix}{key} stands beside {prefix}volume (expected one of them: volume is alone)"
            )


def _check_network(checker: _Checker, entry: dict[str, Any], prefix: str, files: set[str]) -> None:
    checker.check(entry, prefix, "file", lambda v: v in files, "one of scorefusion.files")
    checker.check(entry, prefix, "config", _is_mapping, "the network's configuration")


def _check_regression(checker: _Checker, section: dict[str, Any]) -> None:
    """A regression network sees no noise: it has one answer, the clean residual."""
    schedule, presets = section.get("schedule"), section.get("presets")
    if isinstance(schedule, dict) and schedule.get("prediction") in ("noise", "v"):
        checker.problems.append(
            f"scorefusion.schedule.prediction is {schedule['prediction']!r} (expected 'clean': networks.volume is a "
            "regression)"
        )
    for name, preset in presets.items() if isinstance(presets, dict) else ():
        for key in ("steps", "samples"):
            value = preset.get(key, 1) if isinstance(preset, dict) else 1
            if value != 1:
                checker.problems.append(
                    f"scorefusion.presets.{name}.{key} is {_short(value)} (expected 1: networks.volume is a "
                    "regression, which answers once)"
                )


def _check_schedule(checker: _Checker, section: dict[str, Any]) -> int | None:
    """The number of training timesteps."""
    schedule = checker.check(section, "scorefusion.", "schedule", _is_mapping, "a mapping")
    if schedule is None:
        return None
    prefix = "scorefusion.schedule."
    checker.check(schedule, prefix, "kind", _is_one_of(SCHEDULES), _one_of(SCHEDULES))
    checker.check(schedule, prefix, "prediction", _is_one_of(PREDICTIONS), _one_of(PREDICTIONS))
    steps: int | None = checker.check(schedule, prefix, "num_train_timesteps", _is_count(1), "a whole number from 1")
    return steps


def _check_presets(checker: _Checker, section: dict[str, Any], train_steps: int | None) -> None:
    presets = checker.check(section, "scorefusion.", "presets", _is_mapping, "a mapping with at least 'fast'")
    if presets is None:
        return
    if "fast" not in presets:
        checker.problems.append("scorefusion.presets.fast is missing (expected the preset used by default)")
    for name, preset in presets.items():
        prefix = f"scorefusion.presets.{name}"
        if not isinstance(preset, dict):
            checker.problems.append(f"{prefix} is {_short(preset)} (expected steps, solver, start, samples)")
            continue
        prefix += "."
        checker.check(preset, prefix, "steps", _is_count(1), "a whole number from 1")
        checker.check(preset, prefix, "samples", _is_count(1), "a whole number from 1", optional=True)
        checker.check(preset, prefix, "solver", _is_one_of(SOLVERS), _one_of(SOLVERS))
        start = checker.check(preset, prefix, "start", _is_count(0), "a timestep", optional=True)
        if start is not None and train_steps is not None and start >= train_steps:
            checker.problems.append(f"{prefix}start is {start} (expected a timestep below {train_steps})")


# What values may be.


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(_is_text(item) for item in value)


def _is_mapping(value: Any) -> bool:
    return isinstance(value, dict)


def _are_mappings(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(item, dict) for item in value)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < float("inf")


def _is_count(least: int) -> Callable[[Any], bool]:
    return lambda v: isinstance(v, int) and not isinstance(v, bool) and v >= least


def _are_numbers(count: int, positive: bool = False) -> Callable[[Any], bool]:
    return lambda value: (
        isinstance(value, list)
        and len(value) == count
        and all(_is_number(item) and (item > 0 or not positive) for item in value)
    )


_LEVEL = "null or a level between -1 and 1"


def _is_level(value: Any) -> bool:
    return value is None or (_is_number(value) and -1 < value < 1)


def _are_curves(count: int) -> Callable[[Any], bool]:
    return lambda value: (
        isinstance(value, list)
        and len(value) == count
        and all(isinstance(curve, list) and len(curve) > 1 and _are_numbers(len(curve))(curve) for curve in value)
    )


def _is_joint_map(conditions: int) -> Callable[[Any], bool]:
    return lambda value: (
        isinstance(value, list)
        and conditions > 1
        and any(knots**conditions == len(value) for knots in range(2, len(value)))
        and _are_numbers(len(value))(value)
    )


def _is_sha256(value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch(r"[0-9a-f]{64}", value) is not None


def _is_one_of(choices: Sequence[str]) -> Callable[[Any], bool]:
    return lambda v: isinstance(v, str) and v in choices


def _is_subset_of(choices: Iterable[str]) -> Callable[[Any], bool]:
    allowed = set(choices)
    return lambda v: _are_texts(v) and len(set(v)) == len(v) and set(v) <= allowed


def _one_of(choices: Iterable[str]) -> str:
    return ", ".join(repr(choice) for choice in choices) or "nothing"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
