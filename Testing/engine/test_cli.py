"""The command line as users and programs meet it: messages, exit codes, events, files, and a quick end when asked."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import signal
import struct
import subprocess
import sys
import textwrap
import time
from functools import partial
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from tiny_models import tiny_ensemble, write_tiny_bundle
from typer.testing import CliRunner

from scorefusion.bundle.folder import Bundle
from scorefusion.bundle.install import import_bundle
from scorefusion.cli import app as cli
from scorefusion.errors import Cancelled, GeometryError
from scorefusion.fusion.rules import PlaneAverage
from scorefusion.imaging.files import read_volume, sidecar_path

torch = pytest.importorskip("torch")

from scorefusion import pipeline  # noqa: E402


@pytest.fixture(autouse=True)
def _own_home(own_home: Path) -> None:
    """Every test here has a home of its own."""


def run(*arguments: Any) -> Any:
    return CliRunner().invoke(cli.app, [str(argument) for argument in arguments])


def events(result: Any) -> list[dict[str, Any]]:
    return [json.loads(line) for line in result.stdout.splitlines()]


class TestTranslate:
    def test_writes_the_volume_and_its_provenance(self, scan: Path, model: str, calls: list, tmp_path: Path) -> None:
        result = run("translate", scan, "-o", tmp_path / "out.nii.gz", "--model", model)
        assert result.exit_code == 0, result.output
        assert np.array_equal(read_volume(tmp_path / "out.nii.gz").data, read_volume(scan).data)
        sidecar = json.loads((tmp_path / "out.json").read_text())
        assert sidecar["GeneratedBy"] == [{"Name": "ScoreFusion"}]
        assert sidecar["Quality"] == {"score": 1.0}
        assert "out.nii.gz" in result.stdout

    def test_every_option_reaches_the_pipeline(self, scan: Path, model: str, calls: list, tmp_path: Path) -> None:
        given = (
            "--spacing 0.8,0.9,1.2 --thickness 5 --axis k --preset balanced --steps 7 --samples 3 --seed 11 "
            "--device cpu --precision float32 --tile 64 --rule average --keep-slices"
        ).split()
        unsure = tmp_path / "unsure.nrrd"
        result = run("translate", scan, "-o", tmp_path / "o.mha", "--model", model, "--uncertainty", unsure, *given)
        assert result.exit_code == 0, result.output
        expected = {
            "spacing": (0.8, 0.9, 1.2), "thickness": 5.0, "axis": "k", "preset": "balanced", "steps": 7, "samples": 3,
            "seed": 11, "device": "cpu", "precision": "float32", "tile": 64, "rule": "average", "uncertainty": True,
            "even_slices": False,
        }  # fmt: skip
        assert {key: calls[0][key] for key in expected} == expected
        assert calls[0]["bundle"].id == model
        assert read_volume(unsure).data.max() > 0

    def test_slices_as_fine_as_the_voxels_within_them_can_be_asked_for(
        self, calls: list[dict[str, Any]], scan: Path, model: str, tmp_path: Path
    ) -> None:
        result = run("translate", scan, "-o", tmp_path / "o.nii", "--model", model, "--spacing", "in-plane")
        assert result.exit_code == 0, result.output
        assert calls[0]["spacing"] == "in-plane"
        assert calls[0]["even_slices"] is True

    def test_a_whole_run_with_a_tiny_model(self, scan: Path, model: str, tmp_path: Path) -> None:
        out, unsure = tmp_path / "out.nii.gz", tmp_path / "unsure.nii.gz"
        result = run(
            "translate", scan, "-o", out, "--uncertainty", unsure, "--model", model, "--json", "--device", "cpu"
        )
        assert result.exit_code == 0, result.output
        kinds = [event["event"] for event in events(result)]
        assert kinds[-1] == "result"
        assert "progress" in kinds
        sharp = read_volume(out)
        assert sharp.spacing == pytest.approx((1.0, 1.1, 1.0), rel=0.05)
        assert read_volume(unsure).spatial_shape == sharp.spatial_shape
        assert json.loads((tmp_path / "out.json").read_text())["GeneratedBy"][0]["Name"] == "ScoreFusion"

    def test_one_frame_of_a_4d_file(self, scan: Path, model: str, calls: list, tmp_path: Path) -> None:
        image = nibabel.load(scan)
        frames = np.stack([image.get_fdata() * (n + 1) for n in range(3)], axis=-1)
        nibabel.save(nibabel.Nifti1Image(frames, image.affine), tmp_path / "4d.nii")
        result = run("translate", tmp_path / "4d.nii", "-o", tmp_path / "o.nii", "--model", model, "--frame", 2)
        assert result.exit_code == 0, result.output
        assert np.allclose(calls[0]["volumes"]["image"].data, 3 * read_volume(scan).data, rtol=1e-4, atol=1e-2)

    def test_json_lines_and_nothing_else_on_standard_output(
        self, scan: Path, model: str, calls: list, tmp_path: Path
    ) -> None:
        out = tmp_path / "out.nii.gz"
        result = run("translate", scan, "-o", out, "--model", model, "--json")
        told = events(result)
        assert [event["event"] for event in told] == ["progress", "warning", "result"]
        assert told[-1]["output"] == str(out)
        assert told[-1]["provenance"] == str(tmp_path / "out.json")
        assert told[-1]["uncertainty"] is None
        assert told[-1]["quality"] == {"score": 1.0}
        assert told[-1]["seconds"] >= 0

    def test_warnings_are_shown_even_when_quiet(self, scan: Path, model: str, calls: list, tmp_path: Path) -> None:
        result = run("translate", scan, "-o", tmp_path / "out.nii.gz", "--model", model, "--quiet")
        assert (result.stdout, result.stderr) == ("", "Warning: In [tiles].\n")

    @pytest.mark.parametrize(
        ("name", "sidecar"),
        [("a.nii.gz", "a.json"), ("a.b.NII.GZ", "a.b.json"), ("a.nrrd", "a.json"), ("sub-1_T1w.mha", "sub-1_T1w.json")],
    )
    def test_the_sidecar_has_the_outputs_name(self, name: str, sidecar: str) -> None:
        assert sidecar_path(Path("x") / name) == Path("x") / sidecar

    def test_a_bug_is_called_a_bug(
        self, scan: Path, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(pipeline, "translate", lambda *_, **__: 1 / 0)
        result = run("translate", scan, "-o", tmp_path / "out.nii.gz", "--model", model, "--json")
        assert result.exit_code == 1
        assert "bug" in events(result)[-1]["message"]
        assert "ZeroDivisionError" in result.stderr
        assert "Traceback" in result.stderr

    def test_a_cancelled_run_ends_with_130_and_no_file(
        self, scan: Path, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def cancel(*_: Any, **__: Any) -> None:
            raise Cancelled

        monkeypatch.setattr(pipeline, "translate", cancel)
        result = run("translate", scan, "-o", tmp_path / "out.nii.gz", "--model", model, "--json")
        assert result.exit_code == 130
        assert events(result)[-1]["kind"] == "Cancelled"
        assert not (tmp_path / "out.nii.gz").exists()


class TestAllOrNothing:
    def test_a_failure_while_saving_leaves_nothing(
        self, scan: Path, model: str, calls: list, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(*_: Any) -> None:
            msg = "disk full"
            raise GeometryError(msg)

        monkeypatch.setattr("scorefusion.cli.translate.write_json", full)
        folder = tmp_path / "results"
        folder.mkdir()
        result = run("translate", scan, "-o", folder / "out.nii.gz", "--model", model)
        assert result.exit_code == 2
        assert list(folder.iterdir()) == []

    def test_what_was_there_before_survives_a_failure(
        self, scan: Path, model: str, calls: list, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("scorefusion.cli.translate.write_json", lambda *_: None)  # so it cannot be put in place
        out = tmp_path / "out.nii.gz"
        out.write_bytes(b"precious")
        result = run("translate", scan, "-o", out, "--model", model)
        assert result.exit_code == 2
        assert "could not be written" in result.stderr
        assert out.read_bytes() == b"precious"
        assert not [path for path in tmp_path.iterdir() if path.name.startswith(".scorefusion")]

    def test_a_folder_in_the_way_is_never_touched(self, scan: Path, model: str, calls: list, tmp_path: Path) -> None:
        (tmp_path / "out.json" / "inside").mkdir(parents=True)
        result = run("translate", scan, "-o", tmp_path / "out.nii.gz", "--model", model)
        assert result.exit_code == 2
        assert "is a folder" in result.stderr
        assert calls == []
        assert (tmp_path / "out.json" / "inside").is_dir()

    def test_an_older_result_is_replaced(self, scan: Path, model: str, calls: list, tmp_path: Path) -> None:
        for _ in range(2):
            assert run("translate", scan, "-o", tmp_path / "out.nii.gz", "--model", model).exit_code == 0
        assert not [path for path in tmp_path.iterdir() if path.name.startswith(".scorefusion")]


def _image(data: np.ndarray) -> Any:
    return nibabel.Nifti1Image(data, np.diag([1.0, 1.1, 2.5, 1.0]))


def _bad_file(kind: str, folder: Path) -> Path:
    rng = np.random.default_rng(0)
    good = rng.random((12, 16, 20)).astype(np.float32)
    path = folder / f"{kind}.nii.gz"
    if kind == "missing":
        return path
    if kind == "truncated":
        nibabel.save(_image(good), path)
        path.write_bytes(path.read_bytes()[:5000])
        return path
    if kind in ("zero spacing", "singular affine"):
        # nibabel would mend such headers on writing, so the bytes are changed afterwards.
        content = bytearray(_image(good).to_bytes())
        if kind == "zero spacing":
            struct.pack_into("<hh", content, 252, 1, 0)  # qform counts, sform does not
            struct.pack_into("<f", content, 76 + 4 * 2, 0.0)  # pixdim[2]
        else:
            struct.pack_into("<4f", content, 296, 0.0, 0.0, 0.0, 0.0)  # srow_y
            struct.pack_into("<hh", content, 252, 0, 1)
        path.write_bytes(gzip.compress(bytes(content)))
        return path
    if kind == "NaN":
        good[3, 4, 5] = np.nan
        image = _image(good)
    elif kind == "constant":
        image = _image(np.full_like(good, 7.0))
    elif kind == "2D":
        image = _image(good[:, :, 0])
    elif kind == "4D":
        image = _image(np.stack([good, good], axis=-1))
    elif kind == "RGB":
        rgb = np.zeros(good.shape, dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
        rgb["R"] = (255 * good).astype(np.uint8)
        image = _image(rgb)
    elif kind == "text":
        path.write_text("not a volume")
        return path
    nibabel.save(image, path)
    return path


KINDS = ["missing", "truncated", "text", "2D", "4D", "RGB", "constant", "NaN", "zero spacing", "singular affine"]


class TestBadInput:
    """Exit code 2, one paragraph that names the file or the setting, no traceback, no output file."""

    def assert_refused(self, result: Any, folder: Path, *expected: str) -> None:
        assert result.exit_code == 2, result.output
        # What was found out on the way may stand before it.
        message = result.stderr[result.stderr.index("Error: ") :].strip()
        assert "\n" not in message
        assert "Traceback" not in message
        assert 30 < len(message) < 700
        for words in expected:
            assert words in message
        assert not (folder / "out.nii.gz").exists()
        assert not (folder / "out.json").exists()

    @pytest.mark.parametrize("kind", KINDS)
    def test_bad_volumes(self, kind: str, model: str, tmp_path: Path) -> None:
        path = _bad_file(kind, tmp_path)
        result = run("translate", path, "-o", tmp_path / "out.nii.gz", "--model", model)
        self.assert_refused(result, tmp_path, path.name)

    @pytest.mark.parametrize("kind", ["missing", "truncated", "NaN"])
    def test_the_same_words_reach_a_program(self, kind: str, model: str, tmp_path: Path) -> None:
        path = _bad_file(kind, tmp_path)
        result = run("translate", path, "-o", tmp_path / "out.nii.gz", "--model", model, "--json")
        assert result.exit_code == 2
        assert [event["event"] for event in events(result)] == ["error"]
        assert events(result)[0]["kind"] == "VolumeError"
        assert path.name in events(result)[0]["message"]

    def test_missing_output_folder_is_told_before_the_work(
        self, scan: Path, model: str, calls: list, tmp_path: Path
    ) -> None:
        result = run("translate", scan, "-o", tmp_path / "nowhere" / "out.nii.gz", "--model", model)
        self.assert_refused(result, tmp_path, "nowhere")
        assert calls == []

    def test_output_of_unknown_format(self, scan: Path, model: str, calls: list, tmp_path: Path) -> None:
        self.assert_refused(run("translate", scan, "-o", tmp_path / "out.png", "--model", model), tmp_path, "out.png")

    def test_output_over_an_input(self, scan: Path, model: str, tmp_path: Path) -> None:
        before = scan.read_bytes()
        result = run("translate", scan, "-o", tmp_path / "." / "scan.nii.gz", "--model", model)
        self.assert_refused(result, tmp_path, "is an input")
        assert scan.read_bytes() == before

    def test_two_outputs_in_one_file(self, scan: Path, model: str, tmp_path: Path) -> None:
        out = tmp_path / "out.nii.gz"
        result = run("translate", scan, "-o", out, "--uncertainty", out, "--model", model)
        self.assert_refused(result, tmp_path, "written twice")

    def test_unknown_model_brings_the_nearest(self, scan: Path, model: str, tmp_path: Path) -> None:
        result = run("translate", scan, "-o", tmp_path / "out.nii.gz", "--model", "tinysr")
        self.assert_refused(result, tmp_path, "Did you mean 'tiny-sr'?")

    def test_model_with_wrong_hash(self, scan: Path, tiny_bundle: Bundle, tmp_path: Path) -> None:
        file = tiny_bundle.folder / "models" / "plane.safetensors"
        file.write_bytes(file.read_bytes()[:-1] + b"\x7f")
        result = run("translate", scan, "-o", tmp_path / "out.nii.gz", "--model", tiny_bundle.folder)
        self.assert_refused(result, tmp_path, "SHA-256")

    def test_model_with_missing_file(self, scan: Path, tiny_bundle: Bundle, tmp_path: Path) -> None:
        (tiny_bundle.folder / "models" / "fusion.safetensors").unlink()
        result = run("translate", scan, "-o", tmp_path / "out.nii.gz", "--model", tiny_bundle.folder)
        self.assert_refused(result, tmp_path, "models/fusion.safetensors is missing")

    @pytest.mark.parametrize("text", ["0", "-1", "1,2", "a", "1,2,3,4", "inf", ""])
    def test_nonsense_spacing(self, scan: Path, model: str, tmp_path: Path, text: str) -> None:
        result = run("translate", scan, "-o", tmp_path / "out.nii.gz", "--model", model, f"--spacing={text}")
        self.assert_refused(result, tmp_path, "--spacing")

    @pytest.mark.parametrize("text", ["t2", "=x.nii", "t2="])
    def test_malformed_input_option(self, scan: Path, model: str, tmp_path: Path, text: str) -> None:
        result = run("translate", scan, "-o", tmp_path / "out.nii.gz", "--model", model, "--input", text)
        self.assert_refused(result, tmp_path, "NAME=FILE")

    @pytest.mark.parametrize("name", ["t2", "image"])
    def test_input_the_model_does_not_have(self, scan: Path, model: str, tmp_path: Path, name: str) -> None:
        result = run("translate", scan, "-o", tmp_path / "out.nii.gz", "--model", model, "--input", f"{name}={scan}")
        self.assert_refused(result, tmp_path, repr(name))

    def test_unknown_device(self, scan: Path, model: str, tmp_path: Path) -> None:
        result = run("translate", scan, "-o", tmp_path / "out.nii.gz", "--model", model, "--device", "gpu")
        self.assert_refused(result, tmp_path, "Use auto, cpu")

    def test_wrong_usage_reaches_a_program_too(
        self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with pytest.raises(SystemExit) as ending:
            cli.main(["translate", "scan.nii.gz", "--json"])
        assert ending.value.code == 2
        assert json.loads(capsys.readouterr().out)["kind"] == "UsageError"


class TestModels:
    def test_list(self, model: str) -> None:
        assert "tiny-sr 1.2.0 (imported" in run("models", "list").stdout

    def test_list_says_what_may_be_missing(self, tmp_path: Path) -> None:
        rule = PlaneAverage(tiny_ensemble(groups=((0,), (1,))))
        import_bundle(write_tiny_bundle(tmp_path / "tiny-two", rule, ["t1", "t2"], "translation").folder)
        assert "t1 + t2 (optional) ->" in run("models", "list").stdout

    def test_list_for_programs(self, model: str) -> None:
        listed = json.loads(run("models", "list", "--json").stdout)["models"]
        assert [entry["id"] for entry in listed] == ["tiny-sr"]
        assert {"name", "task", "conditions", "target", "presets", "domain", "licence", "hash", "bytes"} <= set(
            listed[0]
        )

    def test_list_without_models_tells_how_to_get_one(self) -> None:
        assert "models import" in run("models", "list").stdout

    def test_show_prints_the_card(self, model: str) -> None:
        assert "# Tiny model" in run("models", "show", model).stdout
        shown = json.loads(run("models", "show", model, "--json").stdout)
        assert shown["card"].startswith("# Tiny model")
        assert shown["metadata"]["version"] == "1.2.0"

    def test_verify(self, model: str, models_home: Path) -> None:
        assert run("models", "verify").exit_code == 0
        file = models_home / "models" / "tiny-sr" / "models" / "plane.safetensors"
        file.write_bytes(file.read_bytes()[:-1] + b"\x7f")
        for arguments in (["verify"], ["verify", "tiny-sr"]):
            result = run("models", *arguments)
            assert result.exit_code == 2
            assert "SHA-256" in result.stdout
        row = json.loads(run("models", "verify", "--json").stdout)["models"][0]
        assert (row["id"], row["ok"]) == ("tiny-sr", False)

    def test_verify_tells_of_missing_files_too(self, model: str, models_home: Path) -> None:
        (models_home / "models" / "tiny-sr" / "models" / "plane.safetensors").unlink()
        result = run("models", "verify", "tiny-sr")
        assert result.exit_code == 2
        assert "missing" in result.stdout + result.stderr

    def test_import_and_remove(self, tiny_bundle: Bundle, tmp_path: Path) -> None:
        packed = shutil.make_archive(str(tmp_path / "model"), "zip", tiny_bundle.folder)
        assert "Imported tiny-sr" in run("models", "import", packed).stdout
        again = run("models", "import", packed, "--json")
        assert (again.exit_code, events(again)[0]["kind"]) == (2, "BundleError")
        assert json.loads(run("models", "import", packed, "--force", "--json").stdout)["imported"]["id"] == "tiny-sr"
        assert run("models", "remove", "tiny-sr").exit_code == 0
        assert run("models", "remove", "tiny-sr").exit_code == 2


class TestDoctor:
    def test_plain_words(self, model: str) -> None:
        result = run("doctor")
        assert result.exit_code == 0
        assert "torch" in result.stdout
        assert "tiny-sr" in result.stdout
        assert "one step" in result.stdout

    def test_for_programs(self) -> None:
        report = json.loads(run("doctor", "--json").stdout)
        assert not report["ok"]  # no model is installed
        assert "models import" in report["problems"][0]["do"]


class TestStart:
    @pytest.mark.parametrize(
        "arguments",
        [["--help"], ["--version"], ["translate", "--help"], ["models", "list"], ["models", "list", "--json"]],
    )
    def test_needs_no_torch_and_no_volume_library(self, arguments: list[str], model: str, repository: Path) -> None:
        code = (
            "import sys, scorefusion.cli.app as cli\n"
            "try: cli.main(sys.argv[1:])\n"
            "except SystemExit: pass\n"
            "heavy = {'torch', 'numpy', 'nibabel', 'SimpleITK', 'scipy'} & set(sys.modules)\n"
            "print('HEAVY', sorted(heavy), file=sys.stderr)"
        )
        environment = {**os.environ, "PYTHONPATH": str(repository / "ScoreFusion")}
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True, env=environment
        )
        assert done.stderr.strip().endswith("HEAVY []")
        assert done.stdout

    def test_help_shows_examples(self) -> None:
        assert "scorefusion translate t1.nii.gz -o t1_sharp.nii.gz" in run("translate", "--help").stdout

    @pytest.mark.parametrize("command", ["evaluate", "train"])
    def test_reserved_commands_never_show_a_traceback(self, command: str, repository: Path) -> None:
        done = subprocess.run(
            [sys.executable, "-m", "scorefusion", command, "--help"],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "PYTHONPATH": str(repository / "ScoreFusion")},
        )
        assert done.returncode in (0, 2)
        assert "Traceback" not in done.stderr


# A worker that is stopped from outside. It says "sampling" when it is at work, then does what its last argument says.
_WORKER = """
    import hashlib, sys, time
    import scorefusion.imaging.files as files
    from scorefusion.cli import app as cli
    import types

    how = sys.argv.pop()

    def translate(volumes, bundle, *, on_event, cancelled, **options):
        on_event({"event": "progress", "done": 0, "total": 1, "stage": "sampling", "eta_s": None})
        while how == "polite":
            time.sleep(0.01)
            if cancelled():
                from scorefusion.errors import Cancelled
                raise Cancelled
        if how == "deaf":  # one long call that Python cannot interrupt, as a convolution is
            hashlib.pbkdf2_hmac("sha256", b"x", b"y", 60_000_000)
        first = next(iter(volumes.values()))
        return types.SimpleNamespace(volume=first, uncertainty=None, provenance={}, quality={})

    if how == "saving":
        write = files.write_volume
        def write_volume(result, path):
            path.write_bytes(b"half a file")
            print('{"event": "log", "message": "saving"}', flush=True)
            time.sleep(60)
        files.write_volume = write_volume

    sys.modules["scorefusion.pipeline"] = fake = types.ModuleType("scorefusion.pipeline")
    fake.translate = translate
    import scorefusion
    scorefusion.pipeline = fake
    cli.main(sys.argv[1:])
"""


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
class TestStopping:
    """Within two seconds, wherever the work is, and nothing is left behind."""

    @pytest.fixture
    def start(self, scan: Path, model: str, tmp_path: Path, repository: Path) -> Any:
        processes: list[subprocess.Popen[str]] = []
        folder = tmp_path / "results"
        folder.mkdir()

        def start(how: str, *options: str, ready: str = "sampling") -> subprocess.Popen[str]:
            script = tmp_path / "worker.py"
            script.write_text(textwrap.dedent(_WORKER))
            command = [
                sys.executable,
                script,
                "translate",
                scan,
                "-o",
                folder / "out.nii.gz",
                "--model",
                model,
                "--json",
            ]
            process = subprocess.Popen(
                [*map(str, command), *options, how],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                env={**os.environ, "PYTHONPATH": str(repository / "ScoreFusion")},
                # A suite that runs in the background hands down an ignored Ctrl-C; a user's terminal does not.
                preexec_fn=None if os.name == "nt" else partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
            )
            processes.append(process)
            assert process.stdout is not None
            for line in process.stdout:
                if ready in line:
                    break
            return process

        yield start
        for process in processes:
            process.kill()
            process.wait()
            for stream in (process.stdin, process.stdout, process.stderr):
                if stream is not None:
                    stream.close()

    def assert_ended_clean(self, process: subprocess.Popen[str], begin: float, tmp_path: Path) -> None:
        assert process.wait(timeout=20) == 130, process.stderr and process.stderr.read()
        assert time.monotonic() - begin < 2.5  # two seconds, and some for a busy machine
        assert list((tmp_path / "results").iterdir()) == []

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    @pytest.mark.parametrize(("how", "ready"), [("polite", "sampling"), ("deaf", "sampling"), ("saving", "saving")])
    def test_signals(self, start: Any, tmp_path: Path, number: int, how: str, ready: str) -> None:
        process = start(how, ready=ready)
        begin = time.monotonic()
        process.send_signal(number)
        self.assert_ended_clean(process, begin, tmp_path)

    @pytest.mark.parametrize(("how", "ready"), [("polite", "sampling"), ("deaf", "sampling"), ("saving", "saving")])
    def test_closed_standard_input(self, start: Any, tmp_path: Path, how: str, ready: str) -> None:
        process = start(how, "--stop-on-stdin-close", ready=ready)
        begin = time.monotonic()
        process.stdin.close()
        self.assert_ended_clean(process, begin, tmp_path)

    def test_a_second_signal_changes_nothing(self, start: Any, tmp_path: Path) -> None:
        process = start("saving", ready="saving")
        begin = time.monotonic()
        for _ in range(3):
            process.send_signal(signal.SIGTERM)
            time.sleep(0.02)
        self.assert_ended_clean(process, begin, tmp_path)

    def test_standard_input_is_left_alone_unless_asked(self, start: Any, tmp_path: Path) -> None:
        process = start("done")
        process.stdin.close()
        assert process.wait(timeout=20) == 0
        assert sorted(path.name for path in (tmp_path / "results").iterdir()) == ["out.json", "out.nii.gz"]

    def test_handlers_are_put_back(self) -> None:
        from scorefusion.cli.stop import Stop

        before = signal.getsignal(signal.SIGTERM)
        with Stop():
            assert signal.getsignal(signal.SIGTERM) != before
        assert signal.getsignal(signal.SIGTERM) == before
        assert signal.set_wakeup_fd(-1) == -1
