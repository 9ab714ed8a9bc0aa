"""The command line. Starts without torch: help and the list of models come at once.

Exit codes: 0 done; 2 something the user can put right; 130 cancelled; 1 a bug.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Annotated

import typer

from scorefusion.cli import doctor, models, translate
from scorefusion.cli.console import EXIT_USER_ERROR, listening, prepare_streams, silence
from scorefusion.cli.stop import EXIT_CANCELLED
from scorefusion.errors import Cancelled, RequestError, StreamError
from scorefusion.progress import JsonLines
from scorefusion.run.memory import check_address_space, is_out_of_memory
from scorefusion.version import __version__

app = typer.Typer(
    name="scorefusion",
    help="Super-resolution and contrast translation of brain MRI. Results are synthetic: not for diagnosis.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
app.command(epilog=translate.EPILOG)(translate.translate)
app.add_typer(models.app, name="models")
app.command()(doctor.doctor)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit. With ``--json``, wrong usage is told as an error event, too."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    prepare_streams()
    code = _run(arguments)
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, AttributeError):
            silence(stream)
    if code == EXIT_CANCELLED:
        os._exit(EXIT_CANCELLED)  # all is tidied up: leave at once, without waiting for the libraries' thread pools
    sys.exit(code)


def _run(arguments: list[str]) -> int:
    try:
        return app(arguments, prog_name="scorefusion", standalone_mode=False) or 0
    except typer.Abort:
        return EXIT_CANCELLED
    except BrokenPipeError:  # the reader of a help text has left
        return 0
    except SystemExit:  # rich says the same in this way
        return 0
    except OSError as error:
        with suppress(OSError):
            typer.echo(f"Error: Standard output could not be written: {error.strerror}.", err=True)
        return EXIT_USER_ERROR
    except Exception as error:
        if not hasattr(error, "format_message"):  # the base class of usage errors has no public name in typer
            raise
        with suppress(OSError):
            error.show()  # type: ignore[attr-defined]
        if "--json" in arguments:
            with suppress(Cancelled, StreamError):
                JsonLines()({"event": "error", "kind": "UsageError", "message": error.format_message()})
        return EXIT_USER_ERROR


def _delegate(module: str, extra: str, name: str, context: typer.Context) -> None:
    """Hand the rest of the command line to a part of ScoreFusion that is imported only now."""
    from importlib import import_module

    arguments = list(context.args)
    with listening("--json" in arguments):
        check_address_space()
        try:
            sub_app = import_module(module).app
        except ImportError as error:
            if is_out_of_memory(error):
                raise
            msg = f"'scorefusion {name}' lacks libraries ({error}). Get them: pip install 'scorefusion[{extra}]'"
            raise RequestError(msg) from error
    code = typer.main.get_command(sub_app)(arguments, prog_name=f"scorefusion {name}", standalone_mode=False)
    if code:
        raise typer.Exit(code)


#: Suites with options of their own: the word after `evaluate`, and where its command is.
_SUITES = {"guided": "scorefusion.evaluation.guided.cli"}
_PASS_ON = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}


@app.command("data", context_settings=_PASS_ON, add_help_option=False)
def _data(context: typer.Context) -> None:
    """Find scans, split them by person, register their contrasts, and check the result."""
    _delegate("scorefusion.datasets.cli", "train", "data", context)


@app.command("evaluate", context_settings=_PASS_ON, add_help_option=False)
def _evaluate(context: typer.Context) -> None:
    """Measure a model on your own scans, beside classical baselines."""
    suite = _SUITES.get(context.args[0]) if context.args else None
    if suite is None:
        _delegate("scorefusion.evaluation.cli", "demo", "evaluate", context)
    else:
        _delegate(suite, "demo", f"evaluate {context.args.pop(0)}", context)


@app.command("downstream", context_settings=_PASS_ON, add_help_option=False)
def _downstream(context: typer.Context) -> None:
    """Measure what a model does to a segmentation."""
    _delegate("scorefusion.evaluation.downstream.cli", "train", "downstream", context)


@app.command("train", context_settings=_PASS_ON, add_help_option=False)
def _train(context: typer.Context) -> None:
    """Train a model on your own data."""
    _delegate("scorefusion.training.cli", "train", "train", context)


@app.command("synthesise", context_settings=_PASS_ON, add_help_option=False)
def _synthesise(context: typer.Context) -> None:
    """Make synthetic scans, several contrasts of one head, from label maps."""
    _delegate("scorefusion.synthesis.cli", "train", "synthesise", context)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"scorefusion {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass
