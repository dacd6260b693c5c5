import pytest
import timm
from click.testing import CliRunner

import attnzoo
from attnzoo.tools import cli
from attnzoo.tools.listing import entries


def test_lists_our_models_and_not_those_of_timm():
    names = [entry.name for entry in entries()]
    assert "nat_pico" in names
    assert not {"resnet18", "swin_tiny_patch4_window7_224"} & set(names)


@pytest.mark.parametrize("pattern", ["nat_pico", "t_pico", "nat_p*"])
def test_a_row_says_what_timm_creates(pattern):
    (entry,) = entries(pattern)
    assert entry.name == "nat_pico"
    assert entry.parameters == sum(p.numel() for p in timm.create_model("nat_pico").parameters())
    assert entry.input_size == timm.get_pretrained_cfg("nat_pico").input_size
    assert not entry.weights


def test_published_figures_are_the_registrys():
    for entry in entries("nat_[mt]*"):
        assert entry.top1 == attnzoo.published(entry.name)["top1"]


def test_the_table_has_a_row_per_model():
    result = CliRunner().invoke(cli.main, ["list", "nat_[mpt]*"])
    assert result.exit_code == 0
    header, *rows = result.output.splitlines()
    assert header.split() == ["name", "parameters", "input", "published", "top-1", "weights"]
    assert [row.split()[0] for row in rows] == ["nat_mini", "nat_pico", "nat_tiny"]
    assert rows[2].split()[1:] == ["27.90", "M", "224x224", "83.2", "%", "yes"]


def test_no_match_is_a_mistake():
    result = CliRunner().invoke(cli.main, ["list", "resnet"])
    assert result.exit_code == 2
    assert "'resnet'" in result.stderr
