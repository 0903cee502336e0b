"""The command line: one typer app, one file per command, errors become exit codes."""

from __future__ import annotations

import os
import sys
from importlib import import_module

from scalekit import errors, registry

# The order in which `scalekit --help` lists the commands: the order of a study.
_ORDER = [
    "init",
    "data",
    "sweep",
    "status",
    "logs",
    "cancel",
    "wait",
    "train",
    "export",
    "collect",
    "fit",
    "predict",
    "forecast",
    "verify",
    "plot",
    "analyze",
    "simulate",
    "size",
    "validate",
    "schema",
    "doctor",
]


def _wants_one_command(argv: list[str]) -> str | None:
    """Return the command that `argv` names, so that only its file is imported."""
    for word in argv:
        if word in registry.names("commands"):
            return word
        if not word.startswith("-"):
            return None
    return None


def build_app(only: str | None = None):  # typer is imported late
    """Build the typer app with every command, or with one."""
    import typer

    app = typer.Typer(
        name="scalekit",
        help="Scaling-law sweeps: plan, train, fit, forecast, with every number traceable.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )

    @app.callback(invoke_without_command=True)
    def root(
        version: bool = typer.Option(False, "--version", help="print the version and exit"),
    ) -> None:
        if version:
            from scalekit import __version__

            print(__version__)
            raise typer.Exit

    known = registry.names("commands")
    listed = [name for name in _ORDER if name in known]
    listed += [name for name in known if name not in listed]
    for name in [only] if only else listed:
        command = import_module(f"scalekit.commands.{name}").COMMAND
        if isinstance(command, typer.Typer):
            app.add_typer(command, name=name)
        else:
            app.command(name.replace("_", "-"))(command)
    return app


def main(argv: list[str] | None = None) -> None:
    """Run the command line and exit with a code of `errors`."""
    sys.exit(run(sys.argv[1:] if argv is None else argv))


def run(argv: list[str]) -> int:
    """Run one command and return its exit code; a user's mistake never shows a traceback."""
    import typer

    app = build_app(_wants_one_command(argv))
    try:
        code = app(args=argv, prog_name="scalekit", standalone_mode=False)
    except errors.ScalekitError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except typer.Exit as stop:
        return int(stop.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        print("interrupted", file=sys.stderr)
        return errors.INTERRUPTED
    except BrokenPipeError:
        # `scalekit ... | head` closed the pipe; Python would complain again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return errors.OK
    except Exception as error:
        # typer vendors click, so its usage errors are known by their shape, not by their class.
        if hasattr(error, "format_message") and hasattr(error, "exit_code"):
            message = error.format_message()  # type: ignore[attr-defined]
            if message:  # there is none where the help was shown instead
                print(f"error: {message}\nsee scalekit --help", file=sys.stderr)
            return errors.USAGE
        raise
    return code if isinstance(code, int) else errors.OK
