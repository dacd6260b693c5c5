"""The command `attnzoo`: its subcommands are imported when they are called, for torch takes seconds."""

from __future__ import annotations

import importlib
from typing import Any

import click

import attnzoo

# name: where the command is, what it does
COMMANDS = {
    "list": ("attnzoo.tools.listing:list_command", "Show the models, their size and their published accuracy."),
    "train": ("attnzoo.tools.train:train_command", "Train a model from a config."),
    "evaluate": ("attnzoo.tools.evaluate:evaluate_command", "Judge a model on a data set."),
    "predict": ("attnzoo.tools.predict:predict_command", "Say what is in pictures."),
    "export": (
        "attnzoo.tools.export.command:export_command",
        "Write a model as a verified file, of ONNX or PyTorch.",
    ),
    "convert": ("attnzoo.tools.convert:convert_command", "Write an official checkpoint in timm's layout."),
    "bench": ("attnzoo.tools.bench.command:bench_command", "Measure the operators and the models."),
    "demo": ("attnzoo.tools.demo:demo_command", "Train, export and check a model on handwritten digits."),
}


# packages whose errors are mistakes of the user: this one, and the benchmarks of a clone
OURS = ("attnzoo", "benchmarks")


class Mistake(click.ClickException):
    """Ends the command with its message on stderr and exit code 2."""

    exit_code = 2


class MultilineError(ValueError):
    """A mistake of the user, such as a file that differs in many places, whose message keeps its lines."""


class MistakesGroup(click.Group):
    """A group of commands that ends a user's mistake without a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        """Runs a command.

        Raises:
            Mistake: of the user, found by attnzoo; or a package is not installed.
        """
        try:
            return super().invoke(ctx)
        except (ValueError, FileNotFoundError) as error:
            # raised in a library it is a defect of ours, and the traceback is wanted
            if not _raised_by_us(error):
                raise
            in_lines = isinstance(error, MultilineError)
            raise Mistake(str(error) if in_lines else " ".join(str(error).split())) from error
        except ModuleNotFoundError as error:
            if (error.name or "").split(".")[0] == "attnzoo":
                raise
            extra = {"export": "export", "demo": "all", "convert": "all"}.get(str(ctx.invoked_subcommand), "train")
            raise Mistake(f'this command needs {error.name}: pip install "attnzoo[{extra}]"') from error


class LazyGroup(MistakesGroup):
    """Knows its commands by name, and imports one when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names, in the order of use."""
        return list(COMMANDS)

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


def _raised_by_us(error: BaseException) -> bool:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace is not None and str(trace.tb_frame.f_globals.get("__name__")).split(".")[0] in OURS


@click.command(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(attnzoo.__version__, prog_name="attnzoo")
def main() -> None:
    """Attention-based vision backbones: list, train, export and convert them."""
