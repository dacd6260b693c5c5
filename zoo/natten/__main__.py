"""`python -m attnzoo.natten [--version VERSION] PROGRAM ...`: runs a program that imports natten as it is."""

from __future__ import annotations

import os
import runpy
import sys

from .installation import install
from .release import DEFAULT

_USAGE = f"""Usage: python -m attnzoo.natten [--version VERSION] PROGRAM [ARGUMENT]...
       python -m attnzoo.natten [--version VERSION] -m MODULE [ARGUMENT]...

Runs a Python program that imports natten, with attnzoo.natten in its place.
VERSION is the release of NATTEN that the program was written for; {DEFAULT} by default."""


def main(arguments: list[str]) -> None:
    """Installs and runs a program.

    Args:
        arguments: of the command line, without the name of this module.

    Raises:
        SystemExit: there is no program to run, the version is unknown, or another natten is installed.
    """
    version = DEFAULT
    if arguments[:1] == ["--version"] and len(arguments) > 1:
        version, arguments = arguments[1], arguments[2:]
    is_module = arguments[:1] == ["-m"]
    program = arguments[1:] if is_module else arguments
    if not program or program[0].startswith("-"):
        sys.exit(_USAGE)
    if not is_module and not os.path.exists(program[0]):
        sys.exit(f"Error: there is no program {program[0]}")
    try:
        install(version)
    except (ValueError, RuntimeError) as error:
        sys.exit(f"Error: {error}")
    # as Python itself sets arguments and the path
    sys.argv = program
    sys.path[0] = os.getcwd() if is_module else os.path.dirname(os.path.abspath(program[0]))
    if is_module:
        runpy.run_module(program[0], run_name="__main__", alter_sys=True)
    else:
        runpy.run_path(program[0], run_name="__main__")


if __name__ == "__main__":
    main(sys.argv[1:])
