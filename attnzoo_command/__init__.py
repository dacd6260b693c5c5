"""The command `attnzoo`.

It is a package of its own because importing `attnzoo` imports torch and registers all models, which takes seconds.
Subcommands are imported when they are called. What can be said without them is in two files that `make table` writes:
`help.json` has the help of every subcommand, `models.json` the list of the models.
"""

from __future__ import annotations

import errno
import functools
import importlib
import importlib.metadata
import io
import json
import os
import sys
from pathlib import Path
from typing import Any

import click

from .keys import guess
from .steps import spoken_steps

HELP = Path(__file__).resolve().parent / "help.json"
_HELP_OPTIONS = ("-h", "--help")

# name: (where the command is defined, summary)
COMMANDS = {
    "list": ("attnzoo_command.listing:list_command", "List the models, their size and their published accuracy."),
    "configs": ("attnzoo_command.configs:configs_command", "List the packaged training configs, or print one."),
    "train": ("attnzoo_command.training:train_command", "Train a model from a config."),
    "evaluate": ("attnzoo.tools.evaluate:evaluate_command", "Evaluate a model on a data set."),
    "predict": ("attnzoo.tools.predict:predict_command", "Predict the classes, the objects or the masks of images."),
    "see": ("attnzoo.tools.see.command:see_command", "Draw what a network attends to in images."),
    "export": (
        "attnzoo.tools.export.command:export_command",
        "Export a model to a verified ONNX or PyTorch file.",
    ),
    "convert": ("attnzoo.tools.convert:convert_command", "Convert an official checkpoint to timm's layout."),
    "bench": ("attnzoo.tools.bench.command:bench_command", "Benchmark operators and models."),
    "demo": ("attnzoo.tools.demo:demo_command", "Train, export and check a model on handwritten digits."),
}


# packages whose errors are user errors: these, and the benchmarks of a clone
OURS = ("attnzoo", "attnzoo_command", "benchmarks")


class Mistake(click.ClickException):
    """Ends the command with its message on stderr and exit code 2."""

    exit_code = 2


class MultilineError(ValueError):
    """A user error whose message keeps its line breaks, such as the list of all tensors that do not match."""


class MistakesGroup(click.Group):
    """A command group that reports user errors without a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        """Runs a command.

        Raises:
            Mistake: a user error that attnzoo has found, or a package that is not installed.
            ClickException: a file cannot be read or written, or the disk is full.
        """
        for stream in (sys.stdout, sys.stderr):
            # a terminal or a pipe in ASCII shows other characters of names as escapes
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="backslashreplace")
        # read when torch is imported: operators that Apple's GPUs do not have run on the CPU
        os.environ.setdefault("PYTORCH_ENABLE_MPS_FALLBACK", "1")
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as error:
            click.echo("stopped by Ctrl-C", err=True)
            # the exit code that a shell reports for a process ended by SIGINT
            raise SystemExit(130) from error
        except (ValueError, FileNotFoundError) as error:
            # a file that is missing inside another library is reported like other errors of the system
            if isinstance(error, FileNotFoundError) and error.filename is not None:
                raise click.ClickException(_described(error)) from error
            # an error raised inside another library is a bug of attnzoo: show the traceback
            if not _raised_by_us(error):
                raise
            in_lines = isinstance(error, MultilineError)
            raise Mistake(str(error) if in_lines else " ".join(str(error).split())) from error
        except OSError as error:
            # click ends a command quietly whose reader has gone
            if error.errno == errno.EPIPE:
                raise
            raise click.ClickException(_described(error)) from error
        except ModuleNotFoundError as error:
            if (error.name or "").split(".")[0] == "attnzoo":
                raise
            extra = {"export": "export", "demo": "all", "convert": "all"}.get(str(ctx.invoked_subcommand), "train")
            raise Mistake(f'this command needs {error.name}: pip install "attnzoo[{extra}]"') from error


class LazyGroup(MistakesGroup):
    """A command group that imports a command only when it is called."""

    def invoke(self, ctx: click.Context) -> Any:
        """Runs a command, and says what it is doing where that takes seconds."""
        with spoken_steps():
            return super().invoke(ctx)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Returns the command names, in the order in which they are typically used."""
        return list(COMMANDS)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Finds the command that the arguments name; its help is printed without importing it.

        Raises:
            UsageError: there is no such command; the message has the nearest one.
        """
        if args[0] not in COMMANDS and not args[0].startswith("-"):
            ctx.fail(f"No such command {args[0]!r}{guess(args[0], COMMANDS)}.")
        page = _pages().get(" ".join(args[:-1])) if args[-1] in _HELP_OPTIONS else None
        if page is not None:
            click.echo(page)
            ctx.exit()
        return super().resolve_command(ctx, args)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Imports a command."""
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[cmd_name][0].partition(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Lists the commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary) for name, (_, summary) in COMMANDS.items()])


@functools.cache
def _pages() -> dict[str, str]:
    pages: dict[str, str] = json.loads(HELP.read_text(encoding="utf-8")) if HELP.is_file() else {}
    return pages


def _described(error: OSError) -> str:
    reason = error.strerror or str(error) or type(error).__name__
    return " ".join((f"{error.filename}: {reason}" if error.filename is not None else reason).split())


def _raised_by_us(error: BaseException) -> bool:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace is not None and str(trace.tb_frame.f_globals.get("__name__")).split(".")[0] in OURS


def _version() -> str:
    try:
        return importlib.metadata.version("attnzoo")
    except importlib.metadata.PackageNotFoundError:  # a source tree that was never installed
        return "0+unknown"


@click.group(cls=LazyGroup, context_settings={"help_option_names": list(_HELP_OPTIONS)})
@click.version_option(_version(), prog_name="attnzoo")
def main() -> None:
    """List, train, evaluate, export and convert attention-based vision backbones."""


if __name__ == "__main__":
    main()
