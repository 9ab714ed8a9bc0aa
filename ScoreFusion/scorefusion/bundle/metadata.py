"""What ``configs/metadata.json`` must hold. All problems are found in one go: key, value and expectation."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from scorefusion.bundle import bounds
from scorefusion.bundle.bounds import FORMAT_VERSION, Choice, Entries, Maybe, OrNull, Rule, Several, Table, one_of
from scorefusion.bundle.names import is_safe_path, same_name
from scorefusion.errors import BundleError

_MISSING = object()
_SHOWN_PROBLEMS = 6


def validate_metadata(metadata: Any, where: str) -> None:
    """Raise `BundleError` unless the metadata describes a bundle that this version can run.

    Args:
        metadata: the parsed JSON.
        where: the bundle's name or path, for the message.

    Unknown keys are left alone: MONAI has its own, and later versions may add some. Only in what goes to a network, the
    schedule or the sampler as it is, nothing unknown can stand.
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
            f"Bundle {where!r} has format version {short(found_format)}; this ScoreFusion reads up to "
            f"{FORMAT_VERSION}. Update ScoreFusion, or get an older version of the model."
        )
        raise BundleError(msg)

    checker = Checker()
    checker.check_all(metadata, "", bounds.METADATA)
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


class Checker:
    """Collects problems as ``key is value (expected ...)``."""

    def __init__(self) -> None:
        self.problems: list[str] = []

    def check(self, mapping: dict[str, Any], prefix: str, key: str, rule: Rule) -> Any:
        """The value of a key if the rule accepts it, else None and a problem on the list."""
        value = mapping.get(key, _MISSING)
        if value is _MISSING:
            if not isinstance(rule, Maybe):
                self.problems.append(f"{prefix}{key} is missing (expected {rule})")
            return None
        if not rule.accepts(value):
            self.expect(f"{prefix}{key}", value, str(rule))
            return None
        return value

    def check_all(self, mapping: dict[str, Any], prefix: str, table: Table, closed: bool = False) -> dict[str, Any]:
        """The acceptable values by key; `closed` = no other keys may be there."""
        if closed:
            for key in sorted(set(mapping) - set(table)):
                where = prefix.rstrip(".")
                self.problems.append(f"{where} cannot be used with {short(key)} (expected some of {', '.join(table)})")
        found = {key: self.check(mapping, prefix, key, rule) for key, rule in table.items()}
        return {key: value for key, value in found.items() if value is not None}

    def expect(self, key: str, value: Any, expected: str) -> None:
        """A problem on the list."""
        self.problems.append(f"{key} is {short(value)} (expected {expected})")


def _check_section(checker: Checker, section: dict[str, Any]) -> None:
    top = "scorefusion."
    good = checker.check_all(section, top, bounds.SECTION)
    conditions = _check_conditions(checker, good.get("conditions", []))
    if good.get("base") == "mapped_condition":
        _check_maps(checker, section, len(conditions))
    if "target" in good:
        _check_target(checker, good["target"], conditions)
    checker.check_all(good.get("inputs", {}), f"{top}inputs.", bounds.INPUTS, closed=True)
    checker.check_all(good.get("domain", {}), f"{top}domain.", bounds.DOMAIN)
    files = _check_files(checker, good.get("files", {}))
    levels = check_schedule(checker, good.get("schedule", {}), f"{top}schedule.") if "schedule" in good else None
    check_presets(checker, good.get("presets", {}), f"{top}presets.", levels)
    if "presets" in good and "fast" not in good["presets"]:
        checker.problems.append(f"{top}presets.fast is missing (expected the preset used by default)")
    uncertainty = bounds.DEFAULT_UNCERTAINTY | good.get("uncertainty", {})
    check_plan(checker, uncertainty, f"{top}uncertainty.", bounds.UNCERTAINTY, levels)
    networks = good.get("networks")
    if networks is None:
        return
    if networks.get("volume") is None:
        _check_planes(checker, section, networks, conditions, files)
    else:
        _check_volume(checker, section, networks, files)


def _check_conditions(checker: Checker, conditions: list[dict[str, Any]]) -> list[str]:
    """Names of the conditions, in order."""
    names: list[str] = []
    for index, condition in enumerate(conditions):
        prefix = f"scorefusion.conditions[{index}]."
        name = checker.check_all(condition, prefix, bounds.CONDITION).get("name")
        if name in names:
            checker.expect(f"{prefix}name", name, "a name of its own")
        if index == 0 and condition.get("optional"):
            checker.problems.append(f"{prefix}optional is true (expected false: the first condition is the base)")
        if name is not None:
            names.append(name)
    return names


def _check_maps(checker: Checker, section: dict[str, Any], conditions: int) -> None:
    words = f"{conditions} lists (one a condition) of 2 to 1025 numbers, -10 to 10"
    checker.check(
        section, "scorefusion.", "base_curves", Several(bounds.CURVE, max(conditions, 1), max(conditions, 1), words)
    )
    joint = checker.check(section, "scorefusion.", "base_joint", Maybe(bounds.JOINT_MAP))
    if joint is not None and (
        conditions not in (2, 3, 4) or round(len(joint) ** (1 / conditions)) ** conditions != len(joint)
    ):
        expected = f"n to the power of {conditions} numbers (as many conditions, 2 to 4), n at least 2"
        checker.expect("scorefusion.base_joint", joint, expected)


def _check_target(checker: Checker, target: dict[str, Any], conditions: list[str]) -> None:
    prefix = "scorefusion.target."
    good = checker.check_all(target, prefix, bounds.TARGET)
    checker.check(target, prefix, "same_contrast_as", OrNull(Choice(tuple(conditions))))
    if "range" in good and good["range"][0] == good["range"][1]:
        checker.expect(f"{prefix}range", good["range"], "two different numbers")


def _check_files(checker: Checker, files: dict[str, Any]) -> tuple[str, ...]:
    """Paths listed with their hashes."""
    seen: set[str] = set()
    total = 0
    for path, facts in files.items():
        prefix = f"scorefusion.files[{short(path)}]"
        if not is_safe_path(path):
            checker.problems.append(
                f"{prefix} points outside the bundle or is oddly written (expected a path such as models/x.safetensors)"
            )
        elif not path.endswith(".safetensors"):
            checker.problems.append(f"{prefix} is not a safetensors file (other weight files may carry code)")
        if same_name(path) in seen:
            checker.problems.append(f"{prefix} names a file for the second time (expected names that differ)")
        seen.add(same_name(path))
        if not isinstance(facts, dict):
            checker.expect(prefix, facts, "sha256 and bytes")
            continue
        total += checker.check_all(facts, f"{prefix}.", bounds.FILE).get("bytes", 0)
    if total > bounds.MAX_BYTES:
        checker.problems.append(f"scorefusion.files have {total} bytes (expected at most {bounds.MAX_BYTES} in all)")
    return tuple(files)


def _check_planes(
    checker: Checker, section: dict[str, Any], networks: dict[str, Any], conditions: list[str], files: tuple[str, ...]
) -> None:
    """Plane networks, with or without a network that fuses them."""
    top, prefix = "scorefusion.", "scorefusion.networks."
    planes = checker.check_all(section, top, bounds.PLANE_SECTION).get("planes", [])
    expected = f"a list of 1 to {bounds.MAX_NETWORKS} plane networks, or networks.volume instead"
    entries = checker.check(networks, prefix, "planes", Entries(bounds.MAX_NETWORKS, expected, list)) or []
    fusion = checker.check(networks, prefix, "fusion", Maybe(OrNull(Entries(100, "a network"))))
    covered: set[str] = set()
    for index, entry in enumerate(entries):
        at = f"{prefix}planes[{index}]."
        _check_network(checker, entry, at, files)
        checker.check(entry, at, "conditions", _some_of(conditions))
        covered.update(checker.check(entry, at, "planes", _some_of(planes)) or [])
    if entries and set(planes) - covered:
        left = one_of(sorted(set(planes) - covered))
        checker.problems.append(
            f"{prefix}planes has no network for {left} (expected one for each of scorefusion.planes)"
        )
    if fusion is not None:
        _check_network(checker, fusion, f"{prefix}fusion.", files)
    if not checker.problems:
        _check_optional(checker, section)


def _check_optional(checker: Checker, section: dict[str, Any]) -> None:
    """Without the optional conditions, some plane network must still have what it needs."""
    required = [condition["name"] for condition in section["conditions"] if not condition.get("optional")]
    # Networks that are told of absence work with any of their conditions, others need all.
    enough = any if section["inputs"].get("presence_context") else all
    if not any(enough(name in required for name in entry["conditions"]) for entry in section["networks"]["planes"]):
        checker.problems.append(
            f"scorefusion.networks.planes has no network that works with {one_of(required)} alone (expected one: the "
            "other conditions are optional)"
        )


def _check_volume(checker: Checker, section: dict[str, Any], networks: dict[str, Any], files: tuple[str, ...]) -> None:
    """A 3D network alone."""
    prefix = "scorefusion.networks."
    volume = checker.check(networks, prefix, "volume", Entries(100, "a network or null"))
    if volume is not None:
        _check_network(checker, volume, f"{prefix}volume.", files)
        if checker.check(volume, f"{prefix}volume.", "kind", Choice(bounds.VOLUME_KINDS)) == "regression":
            _check_regression(checker, section)
    for key in ("planes", "fusion"):
        if networks.get(key):
            checker.problems.append(
                f"{prefix}{key} stands beside {prefix}volume (expected one of them: volume is alone)"
            )


def _check_network(checker: Checker, entry: dict[str, Any], prefix: str, files: tuple[str, ...]) -> None:
    file = entry.get("file")
    if "file" not in entry:
        checker.problems.append(f"{prefix}file is missing (expected one of scorefusion.files)")
    elif file not in files:
        checker.expect(f"{prefix}file", file, "one of scorefusion.files")
    config = checker.check(entry, prefix, "config", Entries(100, "the network's configuration"))
    if config is not None:
        check_network(checker, config, f"{prefix}config.", bounds.NETWORK)


def check_network(checker: Checker, config: dict[str, Any], prefix: str, table: Table) -> None:
    """A network's sizes."""
    good = checker.check_all(config, prefix, table, closed=True)
    channels, heads = good.get("channels"), good.get("head_width", 32)
    if channels and channels[0] % 2:
        checker.expect(f"{prefix}channels", channels, "an even first width, for sines and cosines of the noise level")
    if channels and good.get("attention") and channels[-1] % heads:
        checker.expect(f"{prefix}head_width", heads, f"a divisor of the last width, {channels[-1]}")


def _check_regression(checker: Checker, section: dict[str, Any]) -> None:
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
                checker.expect(
                    f"scorefusion.presets.{name}.{key}",
                    value,
                    "1: networks.volume is a regression, which answers once",
                )


def check_schedule(checker: Checker, schedule: dict[str, Any], prefix: str) -> int | None:
    """The number of noise levels, if it is right."""
    good = checker.check_all(schedule, prefix, bounds.SCHEDULE, closed=True)
    betas = [schedule.get(key) for key in ("beta_start", "beta_end")]
    if good.get("kind") == "cosine" and any(beta is not None for beta in betas):
        checker.expect(f"{prefix}beta_start and beta_end", betas, "none of them: a cosine has none")
    if good.get("kind") == "linear":
        first, last = good.get("beta_start"), good.get("beta_end")
        if first is None or last is None or first > last:
            checker.expect(f"{prefix}beta_start and beta_end", betas, "both, the smaller one first: it is linear")
    levels: int | None = good.get("num_train_timesteps")
    return levels


def check_presets(checker: Checker, presets: dict[str, Any], prefix: str, levels: int | None) -> None:
    """Named ways to sample."""
    for name, preset in presets.items():
        at = f"{prefix}{short(name)[1:-1]}"
        if not bounds.Text(32).accepts(name):
            checker.problems.append(f"{at} is no name for a preset (expected at most 32 characters)")
        if not isinstance(preset, dict):
            checker.expect(at, preset, "steps, solver, start, samples")
            continue
        check_plan(checker, preset, f"{at}.", bounds.PRESET, levels)


def check_plan(checker: Checker, plan: dict[str, Any], prefix: str, table: Table, levels: int | None) -> None:
    """One way to sample; keys unknown in a preset are left, since they are for people."""
    good = checker.check_all(plan, prefix, table, closed=table is bounds.UNCERTAINTY)
    if good.get("eta") and good.get("solver", "ddim") != "ddim":
        checker.expect(f"{prefix}eta", good["eta"], "0: only 'ddim' draws a share of fresh noise")
    if levels is None:
        return
    start = good.get("start", levels - 1)
    if start >= levels:
        checker.expect(f"{prefix}start", start, f"a timestep below {levels}")
    elif good.get("steps", 1) > start + 1:
        checker.expect(f"{prefix}steps", good["steps"], f"at most {start + 1}, the noise levels from its start")


def _some_of(options: Iterable[str]) -> Rule:
    listed = list(options)
    words = f"a list of {one_of(listed)}"
    return Several(Choice(tuple(listed)), 1, max(len(listed), 1), words, distinct=True)


def short(value: Any, longest: int = 60) -> str:
    """A value for a message, cut where it is long."""
    try:
        text = repr(value)
    except ValueError:  # Python writes no whole number of thousands of digits
        return "a whole number of thousands of digits"
    return text if len(text) <= longest else f"{text[: longest - 3]}..."
