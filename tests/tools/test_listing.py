import pytest
import timm
from click.testing import CliRunner

import attnzoo
from attnzoo.tools import cli
from attnzoo.tools.listing import CLOSING, OPENING, entries, markdown, names


def test_lists_our_models_and_not_those_of_timm():
    found = names()
    assert "nat_pico" in found
    assert not {"resnet18", "swin_tiny_patch4_window7_224"} & set(found)


@pytest.mark.parametrize("pattern", ["nat_pico", "at_pico", "nat_p*"])
def test_a_row_says_what_timm_creates(pattern):
    (entry,) = entries(pattern)
    assert entry.name == "nat_pico"
    assert entry.parameters == sum(p.numel() for p in timm.create_model("nat_pico").parameters())
    assert entry.input_size == timm.get_pretrained_cfg("nat_pico").input_size
    assert not entry.weights


def test_a_name_is_not_a_part_of_others():
    assert [entry.name for entry in entries("nat_tiny")] == ["nat_tiny"]
    assert {"nat_tiny", "dinat_tiny"} <= {entry.name for entry in entries("nat_tin")}


def test_published_figures_are_the_registrys():
    for entry in entries("nat_[mt]*"):
        assert entry.published["top1"] == attnzoo.published(entry.name)["top1"]


def test_the_table_has_a_row_per_model():
    result = CliRunner().invoke(cli.main, ["list", "nat_[mpt]*"])
    assert result.exit_code == 0
    header, *rows = result.output.splitlines()
    assert header.split() == ["name", "parameters", "input", "published", "top-1", "weights"]
    assert [row.split()[0] for row in rows] == ["nat_mini", "nat_pico", "nat_tiny"]
    assert rows[2].split()[1:] == ["27.90", "M", "224x224", "83.2", "%", "yes"]


def test_no_match_is_a_mistake():
    result = CliRunner().invoke(cli.main, ["list", "mobilenet"])
    assert result.exit_code == 2
    assert "'mobilenet'" in result.stderr


def test_markdown_has_a_table_per_family_in_the_order_of_its_file():
    found = [entry for entry in entries("*_[mpts]*") if entry.name in ("nat_tiny", "nat_mini", "shvit_pico")]
    assert [entry.name for entry in found] == ["nat_mini", "nat_tiny", "shvit_pico"]
    first, second = (part.splitlines() for part in markdown(reversed(found)).split("\n\n")[1::2])
    assert first[0] == second[0] == "| model | parameters, M | input | GMAC | top-1, % | weights |"
    assert first[2:] == [
        "| `nat_mini` | 20.0 | 224 | 2.7 | 81.8 | yes |",
        "| `nat_tiny` | 27.9 | 224 | 4.3 | 83.2 | yes |",
    ]
    (pico,) = second[2:]
    assert pico.startswith("| `shvit_pico` | ")
    assert pico.endswith(" | 224 | - | - | - |")


def test_a_page_gets_the_tables_and_keeps_the_rest(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(f"before\n{OPENING}\nold\n{CLOSING}\nafter\n")
    for _ in range(2):
        assert CliRunner().invoke(cli.main, ["list", "--readme", str(page)]).exit_code == 0
        assert page.read_text() == f"before\n{OPENING}\n\n{markdown(entries())}\n\n{CLOSING}\nafter\n"
    assert list(tmp_path.iterdir()) == [page]


@pytest.mark.parametrize(
    "text", ["", OPENING, CLOSING, f"{CLOSING}{OPENING}", f"{OPENING}{CLOSING}{OPENING}{CLOSING}"], ids=range(5)
)
def test_a_page_without_a_place_is_refused_and_stays(tmp_path, text):
    page = tmp_path / "page.md"
    page.write_text(text)
    result = CliRunner().invoke(cli.main, ["list", "--readme", str(page)])
    assert result.exit_code == 2
    assert "once each" in result.stderr
    assert page.read_text() == text


def test_a_page_takes_no_pattern(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(f"{OPENING}{CLOSING}")
    result = CliRunner().invoke(cli.main, ["list", "nat", "--readme", str(page)])
    assert result.exit_code == 2
    assert "'nat'" in result.stderr
