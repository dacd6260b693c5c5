"""The command answers from files what needs no torch, and the files hold what the package says."""

import json
import subprocess
import sys
from collections import defaultdict

import pytest
from click.testing import CliRunner

from attnzoo.tools import listing
from attnzoo_command import HELP, main
from attnzoo_command.configs import packaged_configs
from attnzoo_command.listing import entries

BY_FAMILY = defaultdict(list)
for _entry in entries():
    BY_FAMILY[_entry.family].append(_entry)


def test_help_and_list_import_nothing_heavy():
    code = """
import sys
from click.testing import CliRunner
from attnzoo_command import COMMANDS, main
asked = [["--help"], ["--version"], ["list"], ["list", "--weights", "nat_*"], ["configs"], ["bench", "kernels", "-h"]]
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


@pytest.mark.parametrize("entry", [x for x in entries() if "params_m" in x.published], ids=lambda entry: entry.name)
def test_parameters_are_as_many_as_published(entry):
    count = entry.published["params_m"]
    # the auxiliary head of OverLoCK is not in the published counts; the code of plainmamba_l1 has 7.55 M, its page 7.3
    if entry.family != "attnzoo.overlock" and entry.name != "plainmamba_l1":
        # published counts are rounded: agent_cswin_tiny has 20.5 million and is published with 21, gfnet_ti 7.5 with 7
        assert entry.parameters / 1e6 == pytest.approx(count, rel=0.03, abs=0.6 if count == int(count) else 0)


def test_help_is_that_of_the_commands():
    assert json.loads(HELP.read_text()) == listing.help_pages(), "a command has changed: make table"


def test_packaged_configs_are_listed_and_copied(tmp_path):
    listed = CliRunner().invoke(main, ["configs"]).output.splitlines()
    assert len(listed) == len(packaged_configs())
    assert any(line.split()[:3] == ["classification/photographs", "nat_pico", "on"] for line in listed)
    copied = CliRunner().invoke(main, ["configs", "classification/imagefolder"]).output
    assert copied == packaged_configs()["classification/imagefolder"].read_text()
    wrong = CliRunner().invoke(main, ["configs", "imagefolder"])
    assert (wrong.exit_code, len(wrong.stderr.splitlines())) == (2, 1)
    assert "did you mean classification/imagefolder" in wrong.stderr


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
