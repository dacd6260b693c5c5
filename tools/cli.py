"""The command `attnzoo`, see `attnzoo_command`: `python -m attnzoo.tools.cli` runs it."""

from attnzoo_command import COMMANDS, LazyGroup, Mistake, MistakesGroup, MultilineError, main

__all__ = ["COMMANDS", "LazyGroup", "Mistake", "MistakesGroup", "MultilineError", "main"]

if __name__ == "__main__":
    main()
