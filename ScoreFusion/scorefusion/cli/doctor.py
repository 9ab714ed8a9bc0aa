"""``scorefusion doctor``: what works here, how fast, and what to do about the rest."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from scorefusion.cli.console import listening, say
from scorefusion.progress import JsonLines
from scorefusion.run.memory import check_address_space
from scorefusion.wording import readable


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")] = False,
) -> None:
    """Check the installation: libraries, devices, memory, models, and how long a scan will take."""
    with listening(as_json):
        check_address_space()
        from scorefusion.run.installation import doctor as examine

        report = examine()
        if as_json:
            JsonLines()(report)
            return
        for line in _lines(report):
            say(line)


def _lines(report: dict[str, Any]) -> list[str]:
    lines = [f"ScoreFusion {report['scorefusion']}, Python {report['python']}, {report['platform']}", "", "Libraries"]
    for name, facts in report["packages"].items():
        missing = "missing" if facts["required"] else "not installed (optional)"
        lines.append(f"  {name:<12} {facts['version'] or missing:<26} {facts['for']}")
    lines += ["", "Devices"]
    for device in report["devices"]:
        mark = "*" if device["chosen"] else " "
        memory = f"{readable(device['memory_free'])} of {readable(device['memory_total'])} free"
        speed = f", {device['conv_gflops']:.0f} GFLOP/s" if device["conv_gflops"] else ""
        lines.append(f"{mark} {device['name']:<12} {device['description']}; {memory}{speed}")
    lines.append("  (* is used unless you ask for another one)")
    lines += ["", "Models"]
    for model in report["models"]:
        lines.append(f"  {model['id']} {model.get('version', '')}".rstrip())
        for name, preset in model["presets"].items():
            lines.append(f"    {name:<10} {_expectation(preset)}".rstrip())
    lines += [f"  searched: {folder['path']}" for folder in report["model_folders"]]
    lines.append("")
    if report["ok"]:
        return [*lines, "Everything that is needed is there."]
    lines.append("To do")
    for problem in report["problems"]:
        lines += [f"  - {problem['what']}", f"    {problem['do']}"]
    return lines


def _expectation(preset: dict[str, Any]) -> str:
    seconds = preset["seconds"]
    if seconds is None:
        return str(preset["note"])
    time = f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
    return f"about {time} for a whole head. {preset['note']}"
