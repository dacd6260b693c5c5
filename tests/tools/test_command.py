"""The command answers from files what needs no torch, and the files hold what the package says."""

import json
import subprocess
import sys
from collections import defaultdict

import pytest
from click.testing import CliRunner

from attnzoo.tools import listing
from attnzoo_command import HELP, main
from attnzoo_command.listing import entries

BY_FAMILY = defaultdict(list)
for _entry in entries():
    BY_FAMILY[_entry.family].append(_entry)


def test_help_and_list_import_nothing_heavy():
    code = """
import sys
from click.testing import CliRunner
from attnzoo_command import COMMANDS, main
asked = [["--help"], ["--version"], ["list"], ["list", "--weights", "nat_*"], ["bench", "kernels", "-h"]]
for arguments in [*asked, *([name, "--help"] for name in COMMANDS)]:
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, (arguments, result.output)
    if arguments == ["--help"]:
        assert all(name in result.output and summary in result.output for name, (_, summary) in COMMANDS.items())
    assert not {"attnzoo", "torch", "timm", "numpy"} & sys.modules.keys(), arguments
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_model_has_its_row(monkeypatch):
    rows = {entry.name: entry for entry in entries()}
    monkeypatch.setattr(listing, "count_parameters", lambda name: rows[name].parameters)
    assert list(rows.values()) == [listing.row_of(name) for name in listing.names()], "a model has changed: make table"


@pytest.mark.parametrize("family", ["pico", *(pytest.param(name, marks=pytest.mark.full) for name in BY_FAMILY)])
def test_parameters_are_the_models(family):
    for entry in entries("*_pico") if family == "pico" else BY_FAMILY[family]:
        assert entry.parameters == listing.count_parameters(entry.name)


def test_help_is_that_of_the_commands():
    assert json.loads(HELP.read_text()) == listing.help_pages(), "a command has changed: make table"


def test_the_sources_of_weights_are_listed():
    result = CliRunner().invoke(main, ["list", "--weights", "*halonet*t*"])
    assert result.output.splitlines()[:3] == [
        "zoo_halonet26t.a1h_in1k, license apache-2.0",
        "  1. https://huggingface.co/timm/halonet26t.a1h_in1k",
        "  2. https://github.com/rwightman/pytorch-image-models/releases/download/v0.1-attn-weights/"
        "halonet26t_a1h_256-3083328c.pth  SHA-256 3083328c...",
    ]
    assert CliRunner().invoke(main, ["list", "--weights", "nat_pico"]).output == (
        "nat_pico: no weights can be downloaded\n"
    )
    result = CliRunner().invoke(main, ["list", "--weights", "mobilenet"])
    assert (result.exit_code, "no model of attnzoo matches 'mobilenet'" in result.stderr) == (2, True)
