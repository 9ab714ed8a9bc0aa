"""Correctness and speed of the engine on one device. Run through gpu.sh; see `--help`.

Three parts, each a table: numeric checks (device against CPU), the device's own convolution rate, and the time of one
network evaluation and of whole volumes, as seconds, as TFLOP/s, and as a share of that rate. Networks have random
weights: speed does not depend on them. Only torch, numpy and safetensors are imported.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, TextIO

import torch
from torch import Tensor, nn

from scorefusion.diffusion.noise import NoiseField
from scorefusion.diffusion.schedule import NoiseSchedule
from scorefusion.errors import RequestError
from scorefusion.fusion.ensemble import PlaneEnsemble
from scorefusion.fusion.features import FeatureAlignment
from scorefusion.fusion.inputs import InputLayout, ModelInputs
from scorefusion.fusion.members import Member
from scorefusion.fusion.planes import Plane
from scorefusion.fusion.rules import ScoreFusion
from scorefusion.imaging.acquisition import Acquisition
from scorefusion.networks.sizes import fusion_config, plane_config
from scorefusion.networks.unet import UNet, count_parameters
from scorefusion.run.devices import inference_settings, is_out_of_memory, pick_device, pick_precision
from scorefusion.run.request import SamplingPlan
from scorefusion.run.restore import restore

ROOT = Path(__file__).resolve().parents[2]
DEVICE_VARIABLE = "SCOREFUSION_TEST_DEVICE"  # read by the tests that can run on any device
PAPER_SHAPE = (192, 192, 152)
FACTOR = 4  # isotropic super-resolution, as in the paper
CHECK_SHAPE = (16, 24, 20)  # for the comparison with the CPU: three sizes, two of them in need of padding
LIMITS = {  # largest difference from float32 on the CPU, relative to the result's standard deviation
    torch.float32: 1e-3,
    torch.bfloat16: 5e-2,
    torch.float16: 5e-2,
}


@dataclass(frozen=True)
class Check:
    """One numeric check."""

    name: str
    value: float
    limit: float

    @property
    def passed(self) -> bool:
        return self.value <= self.limit  # False for NaN


@dataclass(frozen=True)
class Rate:
    """One convolution, timed alone."""

    name: str
    tflops: float  # TFLOP/s


@dataclass(frozen=True)
class Timing:
    """One stage of the work. A multiply-add counts as two operations; only convolutions are counted (over 99 %)."""

    stage: str
    seconds: float  # median
    fastest: float
    slowest: float
    tflop: float
    peak_gib: float | None  # of device memory; None where it is not known

    @property
    def tflops(self) -> float:
        return self.tflop / self.seconds


def main() -> int:
    options = parse_options()
    try:
        device = pick_device(options.device)
        precision = pick_precision(options.precision, device)
    except RequestError as error:
        say(f"error: {error}", sys.stderr)
        return 2
    machine = describe_machine(device)
    say(f"# ScoreFusion on {machine['device']}\n")
    say(", ".join(f"{name} {value}" for name, value in machine.items() if name != "device" and value) + "\n")

    tests = None if options.no_tests else run_tests(device)
    with inference_settings(tf32=False):
        torch.backends.cudnn.benchmark = options.cudnn_benchmark
        rule = build_rule(options.config)
        progress("numeric checks")
        checks = numeric_checks(rule, device, precision)
        show_checks(checks, tests)
        progress("convolution rate")
        rates = convolution_rates(device, precision)
        rate = max(row.tflops for row in rates)
        show_rates(rates, precision)
        progress("timings")
        rule.tile = None if options.tile is None else (options.tile,) * 3
        rule.ensemble.slice_pixels = options.slice_pixels or rule.ensemble.slice_pixels
        rule.ensemble.autocast = None if precision == torch.float32 else precision
        condition = load_condition(options.data, options.shape)
        try:
            timings = time_stages(rule, condition, device, options.steps, options.repeats)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            say(
                f"error: {by(condition.shape[2:])} voxels do not fit. Try --slice-pixels 262144, or, "
                "where the network has no group normalisation, --tile 96.",
                sys.stderr,
            )
            return 1
        show_timings(timings, rate, options, condition, precision)

    passed = all(check.passed for check in checks) and (tests is None or tests["exit_status"] == 0)
    report = {
        "event": "benchmark",
        "machine": machine,
        "config": options.config,
        "spatial_shape": list(condition.shape[2:]),
        "precision": str(precision).removeprefix("torch."),
        "tile": options.tile,
        "slice_pixels": rule.ensemble.slice_pixels,
        "cudnn_benchmark": options.cudnn_benchmark,
        "parameters": {name: count_parameters(part) for name, part in parts_of(rule).items()},
        "passed": passed,
        "tests": tests,
        "checks": [asdict(check) | {"passed": check.passed} for check in checks],
        "rate_tflops": rate,
        "rates": [asdict(row) for row in rates],
        "timings": [asdict(row) | {"tflops": row.tflops, "share_of_rate": row.tflops / rate} for row in timings],
    }
    line = json.dumps(report)
    if options.json:
        options.json.write_text(line + "\n")
    say(line)
    return 0 if passed else 1


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", default="cuda", help="cuda, cuda:1, mps or cpu (default cuda; never replaced)")
    parser.add_argument("--precision", default="auto", help="auto (bfloat16 on GPUs), float32, bfloat16, float16")
    parser.add_argument("--config", choices=["paper", "compact"], default="paper", help="size of the networks")
    parser.add_argument("--shape", type=int, nargs=3, default=PAPER_SHAPE, metavar=("I", "J", "K"), help="voxels")
    parser.add_argument(
        "--data", type=Path, help="safetensors file with 'condition' (I, J, K) in [-1, 1], instead of a phantom"
    )
    parser.add_argument("--steps", type=int, nargs="+", default=[1, 10, 50], help="steps of the volumes to time")
    parser.add_argument("--repeats", type=int, default=3, help="timed evaluations, after one that is not timed")
    parser.add_argument("--tile", type=int, help="voxels a side of the fusion network's tiles (default: no tiles)")
    parser.add_argument("--slice-pixels", type=int, help="pixels in one call of a plane network")
    parser.add_argument("--cudnn-benchmark", action="store_true", help="let cuDNN search an algorithm for each shape")
    parser.add_argument("--no-tests", action="store_true", help="do not run the engine's tests with pytest")
    parser.add_argument("--json", type=Path, help="write the JSON line to this file as well")
    return parser.parse_args()


# What is measured


def build_rule(config: str) -> ScoreFusion:
    """Score-Fusion with feature injection: three plane networks (paper), or one for all planes (compact)."""
    shared = config == "compact"
    inputs = InputLayout(plane_context=shared, acquisition_context=shared)
    members = [Member(0 if shared else number, plane) for number, plane in enumerate(Plane)]
    planes = plane_config(config, inputs.plane_channels(1), inputs.plane_context_size)
    volume = fusion_config(config, inputs.volume_channels(1, len(members)), len(members), inputs.volume_context_size)
    networks = [UNet(planes) for _ in range(1 if shared else len(members))]
    network = UNet(volume)
    ensemble = PlaneEnsemble(networks, members, inputs)
    rule = ScoreFusion(ensemble, network, FeatureAlignment(networks, members, network)).eval()
    randomise(rule, torch.Generator().manual_seed(0))
    return rule


def randomise(module: nn.Module, generator: torch.Generator) -> None:
    """Seeded weights everywhere: fresh heads are zero, and a network that returns zero is right on every device."""
    for name, parameter in module.named_parameters():
        if parameter.dim() > 1 or name.endswith("bias"):  # all but the normalisations' scales, which stay 1
            spread = parameter[0].numel() ** -0.5 if parameter.dim() > 1 else 0.1
            parameter.data.copy_(spread * torch.randn(parameter.shape, generator=generator))


def parts_of(rule: ScoreFusion) -> dict[str, nn.Module]:
    parts = {"plane networks": rule.ensemble.networks, "fusion network": rule.network}
    return parts | ({"alignment": rule.alignment} if rule.alignment is not None else {})


def load_condition(path: Path | None, shape: tuple[int, int, int]) -> Tensor:
    """`(1, 1, I, J, K)` in [-1, 1]: the file's volume, or a smooth phantom in an ellipsoid of foreground."""
    if path is not None:
        from safetensors.torch import load_file

        return load_file(path)["condition"].float()[None, None]
    coarse = torch.randn(1, 1, *(max(2, size // 8) for size in shape), generator=torch.Generator().manual_seed(1))
    texture = nn.functional.interpolate(coarse, size=tuple(shape), mode="trilinear").clamp(-2, 2) / 4
    axes = torch.meshgrid(*(torch.linspace(-1.1, 1.1, size) for size in shape), indexing="ij")
    inside = torch.stack(axes).square().sum(dim=0) < 1
    return torch.where(inside, texture, torch.tensor(-1.0))


def restore_volume(rule: ScoreFusion, condition: Tensor, steps: int) -> tuple[Tensor, float]:
    """Super-resolution of one volume by the engine: the image, and its largest deviation from the measurement."""
    i, j, k = condition.shape[2:]
    spatial = (i, j, k)
    acquisition = Acquisition.isotropic(spatial, FACTOR)
    measured = acquisition.forward(condition)
    schedule, plan, noise = (
        NoiseSchedule.cosine(prediction="clean"),
        SamplingPlan(steps, "dpmpp"),
        NoiseField(spatial, 2),
    )
    image = restore(rule, schedule, ModelInputs(condition), plan, noise, acquisition, measured).mean
    return image, (acquisition.forward(image) - measured).abs().max().item()


# Numeric checks


def numeric_checks(rule: ScoreFusion, device: torch.device, precision: torch.dtype) -> list[Check]:
    """The same evaluation and the same volume, on the CPU in float32 and on the device in each precision."""
    condition = load_condition(None, CHECK_SHAPE)
    x_t = torch.randn(condition.shape, generator=torch.Generator().manual_seed(3))

    def evaluate(where: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor, float]:
        rule.to(where)
        rule.ensemble.autocast = None if dtype == torch.float32 else dtype
        level = torch.full((1,), 0.5, device=where)
        once = rule(x_t.to(where), ModelInputs(condition.to(where)), level)
        volume, deviation = restore_volume(rule, condition.to(where), steps=4)
        return once.cpu(), volume.cpu(), deviation

    once, volume, _ = evaluate(torch.device("cpu"), torch.float32)
    checks = []
    for dtype in dict.fromkeys([torch.float32, precision]):
        name, limit = str(dtype).removeprefix("torch."), LIMITS[dtype]
        once_there, volume_there, deviation = evaluate(device, dtype)
        checks += [
            Check(f"one evaluation, {name}", relative_difference(once_there, once), limit),
            Check(f"one volume in 4 steps, {name}", relative_difference(volume_there, volume), limit),
            Check(f"deviation from the measurement, {name}", deviation, 1e-4),
        ]
    return checks


def relative_difference(result: Tensor, expected: Tensor) -> float:
    """Root mean square difference over the expected standard deviation."""
    return ((result - expected).square().mean().sqrt() / expected.std()).item()


def device_tests() -> list[Path]:
    """Test files that can run on any device."""
    files = sorted((ROOT / "Testing/engine").glob("test_*.py"))
    return [file for file in files if DEVICE_VARIABLE in file.read_text(encoding="utf-8")]


def run_tests(device: torch.device) -> dict[str, object] | None:
    """The engine's tests on this device; None without pytest."""
    if importlib.util.find_spec("pytest") is None:
        progress("pytest is not installed: only the built-in checks run")
        return None
    files = device_tests()
    progress(f"tests on {device}: {', '.join(file.stem for file in files)}")
    # The project's own options ask for plugins that a GPU machine may lack.
    command = [sys.executable, "-m", "pytest", "-q", "-o", "addopts=", "-m", "not slow", "-p", "no:cacheprovider"]
    run = subprocess.run(
        [*command, *map(str, files)],
        cwd=ROOT,
        env=os.environ | {DEVICE_VARIABLE: str(device)},
        capture_output=True,
        text=True,
        check=False,
    )
    lines = run.stdout.strip().splitlines() or run.stderr.strip().splitlines() or ["no output"]
    if run.returncode != 0:
        say("\n".join(lines[-60:]), sys.stderr)
    counts = [line.strip("= ") for line in lines if re.search(r"\d+ (passed|failed|skipped|errors?)\b.* in ", line)]
    summary = counts[-1] if counts else f"pytest ended with status {run.returncode}"
    return {"exit_status": run.returncode, "summary": summary, "files": [file.name for file in files]}


# Timings


def convolution_rates(device: torch.device, precision: torch.dtype) -> list[Rate]:
    """What this device reaches in large 3x3 and 3x3x3 convolutions with nothing around them."""
    large = device.type != "cpu"
    shapes = (  # batch, channels, spatial
        [(32, 512, (96, 96)), (64, 256, (128, 128)), (1, 256, (64, 64, 64)), (1, 128, (96, 96, 96))]
        if large
        else [(2, 64, (64, 64)), (1, 32, (24, 24, 24))]
    )
    rates = []
    found = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = True  # the best algorithm, whatever the networks get
    try:
        for batch, channels, spatial in shapes:
            dims = len(spatial)
            convolve = nn.functional.conv2d if dims == 2 else nn.functional.conv3d
            layout = torch.channels_last if dims == 2 else torch.channels_last_3d
            for memory_format in (torch.contiguous_format, layout):
                x = torch.randn(batch, channels, *spatial, device=device).to(precision)
                weight = torch.randn(channels, channels, *[3] * dims, device=device).to(precision)
                x, weight = x.to(memory_format=memory_format), weight.to(memory_format=memory_format)
                seconds = time_repeatedly(partial(convolve, x, weight, padding=1), device)
                tflop = 2 * x.numel() * weight[0].numel() / 1e12
                size = " x ".join(map(str, (batch, channels, *spatial)))
                ordering = "channels first" if memory_format == torch.contiguous_format else "channels last"
                rates.append(Rate(f"{dims}D, {size}, {ordering}", tflop / seconds))
    finally:
        torch.backends.cudnn.benchmark = found
    return rates


def time_repeatedly(work: Callable[[], object], device: torch.device) -> float:
    """Seconds of one call, from enough calls in a row that launching and waiting do not count."""
    for _ in range(3):
        work()
    calls, enough = 1, 0.05 if device.type == "cpu" else 0.5
    while True:
        synchronise(device)
        begin = time.perf_counter()
        for _ in range(calls):
            work()
        synchronise(device)
        elapsed = time.perf_counter() - begin
        if elapsed > enough:
            return elapsed / calls
        calls *= 2


def time_stages(
    rule: ScoreFusion, condition: Tensor, device: torch.device, all_steps: list[int], repeats: int
) -> list[Timing]:
    """One evaluation, its two halves, and whole volumes."""
    rule.to(device)
    condition = condition.to(device)
    inputs, level = ModelInputs(condition), torch.full((1,), 0.5, device=device)
    x_t = torch.randn(condition.shape, generator=torch.Generator().manual_seed(3)).to(device)

    with count_operations(rule) as tflop:  # also the warm-up
        rule(x_t, inputs, level)
    plane_seconds: list[float] = []
    seconds: list[float] = []
    reset_peak(device)
    with time_planes(rule, device, plane_seconds):
        for _ in range(repeats):
            seconds.append(time_once(lambda: rule(x_t, inputs, level), device))
    peak = peak_memory(device)
    rest = [total - planes for total, planes in zip(seconds, plane_seconds, strict=True)]
    evaluation = sum(tflop.values())
    timings = [
        summarise("plane networks", plane_seconds, tflop["planes"], None),
        summarise("fusion network", rest, tflop["fusion"], None),
        summarise("one evaluation", seconds, evaluation, peak),
    ]
    for steps in all_steps:
        name = f"one volume, {steps} step{'s' if steps > 1 else ''}"
        progress(name)
        reset_peak(device)
        elapsed = time_once(partial(restore_volume, rule, condition, steps), device)
        timings.append(summarise(name, [elapsed], steps * evaluation, peak_memory(device)))
    return timings


def summarise(stage: str, seconds: list[float], tflop: float, peak_gib: float | None) -> Timing:
    return Timing(stage, statistics.median(seconds), min(seconds), max(seconds), tflop, peak_gib)


def time_once(work: Callable[[], object], device: torch.device) -> float:
    synchronise(device)
    begin = time.perf_counter()
    work()
    synchronise(device)
    return time.perf_counter() - begin


@contextmanager
def time_planes(rule: ScoreFusion, device: torch.device, seconds: list[float]) -> Iterator[None]:
    """Appends the time that each evaluation spends in its plane networks."""
    predict = rule.ensemble.predict

    def timed(*arguments: Any, **options: Any) -> Any:
        results: list[Any] = []
        seconds.append(time_once(lambda: results.append(predict(*arguments, **options)), device))
        return results[0]

    rule.ensemble.predict = timed  # type: ignore[method-assign]
    try:
        yield
    finally:
        del rule.ensemble.predict


@contextmanager
def count_operations(rule: ScoreFusion) -> Iterator[dict[str, float]]:
    """TFLOP of the convolutions of all evaluations inside, of the plane side (with alignment) and of the fusion."""
    tflop = {"planes": 0.0, "fusion": 0.0}

    def counter(side: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def count(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            weight = layer.weight
            assert isinstance(weight, Tensor)
            tflop[side] += 2 * output.numel() * weight[0].numel() / 1e12

        return count

    hooks = [
        layer.register_forward_hook(counter("fusion" if part is rule.network else "planes"))
        for part in parts_of(rule).values()
        for layer in part.modules()
        if isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Conv3d)
    ]
    try:
        yield tflop
    finally:
        for hook in hooks:
            hook.remove()


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def reset_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak_memory(device: torch.device) -> float | None:
    """GiB held by tensors at the worst moment, weights included."""
    return torch.cuda.max_memory_allocated(device) / 2**30 if device.type == "cuda" else None


# Words


def describe_machine(device: torch.device) -> dict[str, object]:
    cuda = device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name(device) if cuda else f"{device.type} ({processor()})",
        "memory": f"{torch.cuda.get_device_properties(device).total_memory / 2**30:.0f} GiB" if cuda else None,
        "torch": torch.__version__,
        "CUDA": torch.version.cuda if cuda else None,
        "cuDNN": torch.backends.cudnn.version() if cuda else None,
        "Python": platform.python_version(),
        "threads": torch.get_num_threads(),
        "commit": commit(),
        "date": time.strftime("%Y-%m-%d"),
    }


def processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):  # not Linux, or not x86
        return platform.processor() or platform.machine()


def commit() -> str | None:
    """Short hash, with a plus sign if files were changed; None outside a checkout or without git."""
    try:
        command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty=+", "--exclude=*"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def show_checks(checks: list[Check], tests: dict[str, object] | None) -> None:
    say("## Numeric checks\n")
    say(f"Engine tests on this device: {tests['summary'] if tests else 'not run'}\n")
    say(f"Difference from float32 on the CPU, volume of {by(CHECK_SHAPE)} voxels, root mean square over the standard")
    say("deviation; deviation from the measurement: largest absolute value, intensity range [-1, 1].\n")
    say("| check | value | limit | |\n|---|---|---|---|")
    for check in checks:
        say(f"| {check.name} | {check.value:.1e} | {check.limit:.0e} | {'passed' if check.passed else '**FAILED**'} |")
    say("")


def show_rates(rates: list[Rate], precision: torch.dtype) -> None:
    say("## Convolution rate of the device\n")
    say("| convolution, batch x channels x size | TFLOP/s |\n|---|---|")
    for row in rates:
        say(f"| {row.name} | {row.tflops:.3g} |")
    best = max(row.tflops for row in rates)
    say(f"\nBest, {str(precision).removeprefix('torch.')}: **{best:.3g} TFLOP/s**; shares below refer to it.\n")


def show_timings(
    timings: list[Timing], rate: float, options: argparse.Namespace, condition: Tensor, precision: torch.dtype
) -> None:
    name = str(precision).removeprefix("torch.")
    say("## Time\n")
    say(f"Score-Fusion, `{options.config}` networks, {by(condition.shape[2:])} voxels, {name}, batch 1.")
    say(f"Median (range) of {options.repeats} evaluations; each volume once, projection included, files not.\n")
    say("| stage | seconds | TFLOP | TFLOP/s | share of rate | peak memory, GiB |\n|---|---|---|---|---|---|")
    for row in timings:
        spread = f" ({row.fastest:.3g} to {row.slowest:.3g})" if row.slowest > row.fastest else ""
        peak = "-" if row.peak_gib is None else f"{row.peak_gib:.1f}"
        share = f"{row.tflops / rate:.0%}"
        say(f"| {row.stage} | {row.seconds:.3g}{spread} | {row.tflop:.3g} | {row.tflops:.3g} | {share} | {peak} |")
    say("")


def by(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape))


def say(line: str, stream: TextIO | None = None) -> None:
    """Results on standard output; everything else on standard error."""
    target = stream or sys.stdout
    target.write(line + "\n")
    target.flush()


def progress(message: str) -> None:
    say(f"... {message}", sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
