"""The command line where something around it is broken: names, streams, locales, memory, an early Ctrl-C."""

from __future__ import annotations

import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.skipif(os.name == "nt", reason="POSIX streams, limits and signals")

MIB = 1024**2
# The whole program, with a pipeline that gives its input back: torch takes seconds to load.
_INSTANT = """
import sys, types
import scorefusion
from scorefusion.__main__ import main

RECORD = {"Synthetic": True, "GeneratedBy": [{"Name": "ScoreFusion"}]}

def translate(volumes, bundle, *, on_event, **options):
    on_event({"event": "progress", "done": 1, "total": 1, "stage": "sampling", "eta_s": 0.0})
    first = next(iter(volumes.values()))
    return types.SimpleNamespace(volume=first, uncertainty=None, provenance=RECORD, quality={})

scorefusion.pipeline = sys.modules["scorefusion.pipeline"] = types.ModuleType("scorefusion.pipeline")
scorefusion.pipeline.translate = translate
main()
"""
Command = Callable[..., subprocess.CompletedProcess[bytes]]
Translate = Callable[..., Any]


@pytest.fixture
def translate(run: Callable[..., Any], model: str, calls: list[dict[str, Any]]) -> Translate:
    """`scorefusion translate` in this process, with an instant pipeline."""
    return lambda *arguments: run("translate", *arguments, "--model", model)


@pytest.fixture
def command(model: str, repository: Path, tmp_path: Path) -> Command:
    """A line of a shell, in which SCOREFUSION is the program, with its real pipeline or with an instant one."""
    (tmp_path / "instant.py").write_text(_INSTANT)

    def run(
        line: str, *arguments: Any, instant: bool = True, address_space: int | None = None, **environment: str
    ) -> subprocess.CompletedProcess[bytes]:
        def before() -> None:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            if address_space is not None:
                resource.setrlimit(resource.RLIMIT_AS, (address_space, address_space))

        program = f"'{sys.executable}' {'instant.py' if instant else '-m scorefusion'}"
        return subprocess.run(
            ["bash", "-c", f"set -o pipefail; {line.replace('SCOREFUSION', program)}", "-",
             *(os.fsencode(a) if isinstance(a, (str, Path)) else str(a) for a in arguments)],
            capture_output=True,
            check=False,
            timeout=120,
            cwd=tmp_path,
            preexec_fn=before,
            env={**os.environ, "PYTHONPATH": str(repository / "ScoreFusion"), "OMP_NUM_THREADS": "1", **environment},
        )  # fmt: skip

    return run


def assert_refused(result: Any, *words: str) -> None:
    """Exit code 2 and one paragraph, without a traceback."""
    assert result.exit_code == 2, (result.output, result.exception)
    message = result.stderr[result.stderr.index("Error: ") :].strip()
    assert "\n" not in message
    for word in words:
        assert word in message, message


def assert_said(done: subprocess.CompletedProcess[bytes], code: int, *words: str) -> None:
    """The exit code, and on standard error one sentence that is no traceback."""
    text = done.stderr.decode(errors="replace")
    assert done.returncode == code, text
    assert "Traceback" not in text
    assert "Exception ignored" not in text
    for word in words:
        assert word in text


class TestNamesOfOutputs:
    @pytest.mark.parametrize("option", ["-o", "--uncertainty"])
    @pytest.mark.parametrize(
        ("name", "words"),
        [
            ("", "is a folder"),
            (".", "is a folder"),
            ("/", "is a folder"),
            ("..", "is a folder"),
            ("~no-such-user/out.nii.gz", "home folder"),
            ("~no-such-user/", "home folder"),
            ("loop.nii.gz", "symbolic links"),
            ("loop.nii.gz/out.nii.gz", "does not exist"),
            ("fifo.nii.gz", "no ordinary file"),
            ("device.nii.gz", "no ordinary file"),
            ("/dev/full", "suffix"),
            ("/dev/null/out.nii.gz", "does not exist"),
            ("scan.nii.gz/out.nii.gz", "does not exist"),
            (300 * "n" + ".nii.gz", "too long"),
            (300 * "n" + "/out.nii.gz", "too long"),
            (1500 * "nn/" + "out.nii.gz", "too long"),
            (os.fsdecode(b"\xff.nrrd"), "not UTF-8"),
            (os.fsdecode(b"\xff.mha"), "not UTF-8"),
        ],
    )
    def test_what_cannot_be_written_is_told_before_the_work(
        self, name: str, words: str, option: str, scan: Path, translate: Translate, calls: list, tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:  # fmt: skip
        monkeypatch.chdir(tmp_path)
        (tmp_path / "loop.nii.gz").symlink_to("loop.nii.gz")
        (tmp_path / "device.nii.gz").symlink_to("/dev/full")
        os.mkfifo(tmp_path / "fifo.nii.gz")
        before = sorted(tmp_path.rglob("*"))
        further = ["-o", "out.nrrd"] if option == "--uncertainty" else []
        assert_refused(translate(scan, option, name, *further), words)
        assert calls == []
        assert sorted(tmp_path.rglob("*")) == before

    @pytest.mark.parametrize("name", [os.fsdecode(b"\xff\xfe"), "\N{GREEK SMALL LETTER OMEGA}", 243 * "n", "a b'c\"d"])
    def test_odd_names_that_can_be_written(
        self, name: str, scan: Path, model: str, command: Command, tmp_path: Path
    ) -> None:
        """Through the whole program, since a name is printed, told as JSON and written into the record."""
        output = f"{name}.nii.gz"
        for more in ("", "--json"):
            line = f'SCOREFUSION translate "$1" -o "$2" --model "$3" --device cpu {more}'
            done = command(line, scan, output, model, PYTHONIOENCODING="ascii" if more else "utf-8")
            assert_said(done, 0)
        told = [json.loads(line) for line in done.stdout.splitlines()]
        assert told[-1]["output"] == output
        assert (tmp_path / output).is_file()
        record = json.loads((tmp_path / f"{name}.json").read_text(encoding="utf-8"))
        assert record["Outputs"]["Image"]["Name"] == output

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
    def test_a_folder_without_the_right_to_write(self, scan: Path, translate: Translate, tmp_path: Path) -> None:
        (tmp_path / "closed").mkdir(mode=0o500)
        assert_refused(translate(scan, "-o", tmp_path / "closed" / "out.nii.gz"), "no right")


class TestNumbers:
    """Each option has its bounds, so no number is too long for what lies behind it."""

    @pytest.mark.parametrize("option", ["steps", "samples", "seed", "tile", "frame", "thickness", "spacing"])
    @pytest.mark.parametrize(
        "number", ["9" * 30, "-" + "9" * 30, "9" * 5000, "1e400", "nan", "-inf", "0x10", "1e-30", ""]
    )
    def test_a_number_out_of_bounds_is_one_sentence_about_its_option(
        self, option: str, number: str, scan: Path, translate: Translate, calls: list, tmp_path: Path
    ) -> None:
        result = translate(scan, "-o", tmp_path / "out.nii.gz", f"--{option}={number}")
        assert result.exit_code == 2, (result.output, result.exception)
        assert f"--{option}" in result.stderr
        assert calls == []


class TestRules:
    @pytest.mark.parametrize(
        "rule", ["average:axial+axial", "average:", "average:axial+", "average:axial+x", "axial+axial", "", "fusion:x"]
    )
    def test_a_rule_that_names_no_set_of_planes_is_refused(
        self, rule: str, scan: Path, model: str, run: Callable[..., Any], tmp_path: Path
    ) -> None:
        output = tmp_path / "out.nii.gz"
        result = run("translate", scan, "-o", output, "--model", model, "--device", "cpu", "--rule", rule)
        assert_refused(result, f"'{rule}'")
        assert not output.exists()


class TestStandardOutput:
    LINES = ["--version", "--help", "models list", "models list --json"]

    @pytest.mark.parametrize("line", LINES)
    def test_a_reader_that_leaves_is_no_error(self, line: str, command: Command) -> None:
        done = command(f"SCOREFUSION {line} | true")
        assert_said(done, done.returncode)
        assert done.stderr == b""
        assert done.returncode in ((0, 130) if "--json" in line else (0,))

    @pytest.mark.parametrize("line", LINES)
    def test_a_full_disk_is_one_sentence(self, line: str, command: Command) -> None:
        done = command(f"SCOREFUSION {line} >/dev/full")
        assert_said(done, 2, "Standard output could not be written: No space left on device")
        assert len(done.stderr.splitlines()) == 1

    @pytest.mark.parametrize("line", LINES)
    @pytest.mark.parametrize("closed", [">&-", "2>&- <&-", "2>/dev/full"])
    def test_closed_streams_are_no_crash(self, line: str, closed: str, command: Command) -> None:
        done = command(f"SCOREFUSION {line} {closed}")
        assert_said(done, 130 if "--json" in line and ">&- " in f" {closed} ".replace("2>&-", "") else 0)

    @pytest.mark.parametrize(
        ("streams", "code"),
        [("| true", 0), (">/dev/full", 2), ("2>/dev/full", 0), (">&- 2>&- <&-", 0)],
    )
    def test_a_result_is_written_all_the_same(
        self, streams: str, code: int, scan: Path, model: str, command: Command, tmp_path: Path
    ) -> None:
        from scorefusion.imaging.files import read_volume

        line = f'SCOREFUSION translate "$1" -o out.nii.gz --model "$2" --device cpu {streams}'
        assert_said(command(line, scan, model), code)
        assert read_volume(tmp_path / "out.nii.gz").data.max() > 0
        assert json.loads((tmp_path / "out.json").read_text())["Synthetic"] is True

    @pytest.mark.parametrize(("streams", "code"), [("| true", 130), (">&-", 130), (">/dev/full", 2)])
    def test_events_that_nobody_reads_end_the_work(
        self, streams: str, code: int, scan: Path, model: str, command: Command, tmp_path: Path
    ) -> None:
        line = f'SCOREFUSION translate "$1" -o out.nii.gz --model "$2" --device cpu --json {streams}'
        assert_said(command(line, scan, model), code)
        assert not list(tmp_path.glob("out*"))
        assert not list(tmp_path.glob(".scorefusion*"))

    def test_closed_streams_are_not_taken_for_files(self, command: Command, scan: Path, model: str) -> None:
        """Or a library's words on standard output would end up in a volume."""
        line = 'SCOREFUSION translate "$1" -o out.nii.gz --model "$2" --device cpu --json --stop-on-stdin-close <&-'
        assert_said(command(line, scan, model), 130)  # nobody is there; not: the scan is read as standard input

    @pytest.mark.parametrize(
        "locale", [{"LC_ALL": "C"}, {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
                   {"PYTHONIOENCODING": "ascii"}, {"PYTHONIOENCODING": "ascii:strict"}]
    )  # fmt: skip
    @pytest.mark.parametrize("more", ["", "--json"])
    def test_any_locale_will_do(
        self, locale: dict[str, str], more: str, scan: Path, model: str, command: Command, tmp_path: Path
    ) -> None:
        name = "R\N{LATIN SMALL LETTER O WITH DIAERESIS}ntgen \N{GREEK SMALL LETTER OMEGA}"
        given = tmp_path / f"{name}.nii.gz"
        scan.rename(given)
        line = f'SCOREFUSION translate "$1" -o "$2" --model "$3" --device cpu {more}'
        assert_said(command(line, given, f"{name} out.nii.gz", model, **locale), 0)
        assert (tmp_path / f"{name} out.nii.gz").is_file()


class TestAddressSpace:
    @pytest.mark.parametrize("size", [150, 400, 500, 700, 1100])
    def test_too_little_is_one_sentence(
        self, size: int, scan: Path, model: str, command: Command, tmp_path: Path
    ) -> None:
        line = 'SCOREFUSION translate "$1" -o out.nii.gz --model "$2" --device cpu'
        done = command(line, scan, model, address_space=size * MIB, instant=False)
        assert_said(done, 2, "address space", "ulimit -v")
        assert len(done.stderr.splitlines()) == 1
        assert not list(tmp_path.glob("out*"))

    @pytest.mark.parametrize("line", ["doctor --json", "evaluate --help", "train --list"])
    def test_every_command_that_needs_more_says_so(self, line: str, command: Command) -> None:
        done = command(f"SCOREFUSION {line}", address_space=300 * MIB, instant=False)
        assert done.returncode == 2
        assert b"ulimit -v" in (done.stdout if "--json" in line else done.stderr)
        assert b"Traceback" not in done.stderr

    @pytest.mark.parametrize("line", ["--version", "--help", "models list", "translate --help"])
    def test_what_needs_no_library_works_in_little(self, line: str, command: Command) -> None:
        assert_said(command(f"SCOREFUSION {line}", address_space=150 * MIB, instant=False), 0)

    @pytest.mark.parametrize("size", [1300, 1600])
    def test_enough_to_start_is_a_result_or_a_sentence(
        self, size: int, scan: Path, model: str, command: Command, tmp_path: Path
    ) -> None:
        line = 'SCOREFUSION translate "$1" -o out.nii.gz --model "$2" --device cpu'
        done = command(line, scan, model, address_space=size * MIB, instant=False)
        assert_said(done, done.returncode)
        assert done.returncode in (0, 2)
        assert (tmp_path / "out.nii.gz").exists() == (done.returncode == 0)


class TestStoppedEarly:
    """Ctrl-C while Python and the libraries are still being loaded."""

    @pytest.fixture
    def start(self, scan: Path, model: str, repository: Path, tmp_path: Path) -> Callable[..., subprocess.Popen[bytes]]:
        def start(*more: str) -> subprocess.Popen[bytes]:
            command = [sys.executable, "-m", "scorefusion", "translate", scan, "-o", tmp_path / "out.nii.gz"]
            return subprocess.Popen(
                [*map(str, command), "--model", model, "--device", "cpu", *more],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env={**os.environ, "PYTHONPATH": str(repository / "ScoreFusion")},
                preexec_fn=partial(signal.signal, signal.SIGINT, signal.default_int_handler),
            )

        return start

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_no_traceback_wherever_the_start_is(
        self, number: signal.Signals, start: Callable[..., subprocess.Popen[bytes]], tmp_path: Path
    ) -> None:
        waits = random.Random(0)
        for _ in range(5):
            process = start()
            time.sleep(0.03 + waits.random())  # Python itself takes 0.03 s, before anything of ours is run
            process.send_signal(number)
            begin = time.monotonic()
            _, told = process.communicate(timeout=20)
            assert time.monotonic() - begin < 2.5
            if process.returncode != 0:  # it may have been done by then
                assert process.returncode in (130, -number), told
                assert not list(tmp_path.glob("out*"))
            assert b"Traceback" not in told
            for path in tmp_path.glob("out*"):
                path.unlink()

    @pytest.mark.parametrize("module", ["scorefusion.cli.app", "scorefusion.cli.console", "typer", "rich.console"])
    def test_in_the_midst_of_an_import(self, module: str, repository: Path, tmp_path: Path) -> None:
        """The signal comes at the very moment when this module is looked for."""
        code = (
            "import os, signal, sys\n"
            "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
            "class Interrupt:\n"
            "    def find_spec(self, name, *_):\n"
            f"        if name == {module!r}:\n"
            "            os.kill(os.getpid(), signal.SIGINT)\n"
            "from scorefusion.__main__ import main\n"
            "sys.meta_path.insert(0, Interrupt())\n"
            "sys.argv = ['scorefusion', 'models', 'list']\n"
            "main()\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            check=False,
            env={**os.environ, "PYTHONPATH": str(repository / "ScoreFusion")},
        )
        assert (done.returncode, done.stderr) == (130, b"")
