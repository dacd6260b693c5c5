"""Model names do not collide with timm's, and every configuration is complete."""

from __future__ import annotations

import subprocess
import sys

import pytest
import timm

import attnzoo
from attnzoo.base import sources_of

from .models import families, ours


def _of_timm(code: str) -> set[str]:
    """Returns the words that code prints with timm but without this package."""
    out = subprocess.run([sys.executable, "-c", f"import timm\n{code}"], capture_output=True, text=True, check=True)
    return set(out.stdout.split())


def test_no_model_name_is_timms() -> None:
    assert not set(ours()) & _of_timm("print(*timm.list_models())")


def test_no_module_name_is_timms() -> None:
    code = "import pkgutil, timm.models\nprint(*(module.name for module in pkgutil.iter_modules(timm.models.__path__)))"
    assert not set(families()) & _of_timm(code)


# weights published on a page whose file names are not known
ON_A_PAGE = ("flowformer", "moh_vit_s_75")


@pytest.mark.parametrize("name", ours())
def test_configuration_is_complete(name: str) -> None:
    cfg = timm.get_pretrained_cfg(name)
    assert cfg.first_conv
    assert cfg.classifier == "fc" or "head.fc" in cfg.classifier
    assert cfg.input_size[0] == 3
    if cfg.tag != "untrained":
        assert bool(sources_of(cfg)) == (name not in ON_A_PAGE)
        assert all(str(source).startswith("https://") for source in sources_of(cfg))
        assert cfg.license
        # backbones of detectors have no classifier
        assert attnzoo.published(name) or cfg.num_classes in (0, 21841)
    assert timm.models.model_entrypoint(name).__doc__


def test_published_figures_take_a_tag_and_are_empty_for_others() -> None:
    assert attnzoo.published("nat_tiny.in1k")["top1"] == 83.2
    assert attnzoo.published("nat_pico") == {}
    assert attnzoo.published("resnet50") == {}
