"""`python -m benchmarks static`: kernels are compiled for absent GPUs, in processes without the interpreter."""

import importlib.util
import json
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

from attnzoo.kernels.triton_tables import FOLDER, read_table
from benchmarks import static
from benchmarks.__main__ import ARCHITECTURES, main
from benchmarks.operators import NamedLaunch, operators

if importlib.util.find_spec("triton") is None:
    pytest.skip("Triton is not installed", allow_module_level=True)

import tiny_launches

from benchmarks.triton_compile import (
    Resources,
    amd_resources,
    cubin_resources,
    matrix_unit,
    occupancy,
)

INSTALLED = ".".join(version("triton").split(".")[:2])
# the versions that all tables name: what a compiler makes of an entry is that compiler's
COMPILERS = set.intersection(*({*read_table(path.stem)["triton"]} for path in FOLDER.glob("*.json")))
TINY = SimpleNamespace(name="tiny", launches=tiny_launches.launches)
CUBIN = """
Resource usage:
 Common:
  GLOBAL:0
 Function product:
  REG:255 STACK:48 SHARED:1024 LOCAL:0 CONSTANT[0]:576 TEXTURE:0 SURFACE:0 SAMPLER:0
"""
AMDGCN = """
	v_mfma_f32_32x32x8_bf16_1k a[0:15], v[2:3], v[4:5], 0
  - .agpr_count:     16
    .group_segment_fixed_size: 0
    .private_segment_fixed_size: 12
    .sgpr_count:     22
    .sgpr_spill_count: 2
    .vgpr_count:     144
    .vgpr_spill_count: 3
"""


def run(monkeypatch, *arguments: str):
    monkeypatch.setattr(static, "operators", lambda: [TINY])
    # worker processes must not inherit it
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    return CliRunner().invoke(main, ["static", "--jobs", "1", *arguments])


@pytest.mark.full
def test_a_kernel_is_compiled_for_each_architecture(monkeypatch, tmp_path: Path) -> None:
    architectures = [x for name in ("sm90", "gfx942") for x in ("--architecture", name)]
    done = run(monkeypatch, "--only", "product", *architectures, "--out", str(tmp_path))
    assert done.exit_code == 0, done.output
    (path,) = tmp_path.glob("static-*.json")
    results = json.loads(path.read_text())
    assert all("source" in card for card in results["cards"].values())
    rows = {row["architecture"]: row for row in results["rows"]}
    assert set(rows) == {"sm90", "gfx942"}
    for architecture, row in rows.items():
        assert (row["kernel"], row["shape"], row["dtype"]) == ("product", "tiny product", "bfloat16")
        assert (row["warps"], row["stages"]) == (4, 2)
        assert row["matrix_unit"] == {"sm90": "wgmma", "gfx942": "mfma"}[architecture]
        assert row["registers"] > 16
        assert row["spilled_bytes"] == 0
        assert 0 < row["shared_bytes"] <= row["shared_limit_bytes"]
        assert 0 < row["occupancy"] <= 1
        assert row["floor_milliseconds"] > 0
        assert f"{row['registers']}" in done.output


def test_a_kernel_that_does_not_compile_is_a_row_and_a_fault(monkeypatch, tmp_path: Path) -> None:
    done = run(monkeypatch, "--only", "refused", "--architecture", "sm90", "--out", str(tmp_path))
    assert done.exit_code == 1
    assert "1 of 1 kernels have a fault, the first: refused tiny refused bfloat16 on sm90" in done.stderr
    (row,) = json.loads(next(tmp_path.glob("static-*.json")).read_text())["rows"]
    assert "no machine takes this" in row["error"]


def test_an_unknown_row_is_refused(monkeypatch, tmp_path: Path) -> None:
    done = run(monkeypatch, "--only", "nothing", "--out", str(tmp_path))
    assert done.exit_code == 2
    assert "--only 'nothing' matches no row: tiny product" in done.stderr


def test_every_launch_is_a_task_on_each_architecture() -> None:
    found = static.tasks([TINY], ["sm80", "sm90"], "")
    assert [(task.architecture, task.launch) for task in found] == [("sm80", 0), ("sm80", 1), ("sm90", 0), ("sm90", 1)]


# in CI the kernels are compiled for the commonest devices
on_each = pytest.mark.parametrize(
    "architecture",
    [pytest.param(name, marks=pytest.mark.full if name == "sm90" else pytest.mark.slow) for name in ARCHITECTURES],
)


def compile_all(only: str, architectures: Sequence[str] = ARCHITECTURES) -> list[dict]:
    """Compiles the launches, in processes without the interpreter."""
    return list(static.rows(static.tasks(operators(), architectures, only), 2))


# not yet without spills: some 140 bytes, in the sums of the bias gradient
KNOWN = "interval_dq_kernel window 64x64 window 16 shift 8 D32 dq, dbias"


@on_each
@pytest.mark.parametrize(
    "shape", ["kernel 7 D32", "7 shift 3 D32", "16 shift 8 D32", "topk 1 D32", "halo 32x32 h8 B128 D32"]
)
@pytest.mark.timeout(900)
@pytest.mark.skipif(INSTALLED not in COMPILERS, reason=f"the tables are for Triton {', '.join(sorted(COMPILERS))}")
def test_the_commonest_kernels_compile_without_spilling(shape: str, architecture: str) -> None:
    found = compile_all(shape, [architecture])
    faults = [fault for fault in static.faults(found) if not (KNOWN in fault and "gfx942" in fault)]
    assert faults == []
    assert {row["architecture"] for row in found} == {architecture}
    found = [row for row in found if row["kernel"] != "interval_masks_kernel"]
    # float32 is multiplied in IEEE precision, which NVIDIA's matrix units do not support
    assert all(row["matrix_unit"] for row in found if row["dtype"] == "bfloat16")


@pytest.mark.full
def test_a_kernel_of_every_operator_compiles() -> None:
    found = list(static.rows([static.tasks([operator], ["sm90"], "")[0] for operator in operators()], 2))
    assert len(found) == len(operators())
    assert static.faults(found) == []
    # a scan has no products of matrices
    products = [row for row in found if row["dtype"] == "bfloat16" and row["kernel"] != "scan_forward_kernel"]
    assert all(row["matrix_unit"] for row in products)


@on_each
@pytest.mark.timeout(900)
@pytest.mark.skipif(INSTALLED not in COMPILERS, reason=f"the tables are for Triton {', '.join(sorted(COMPILERS))}")
def test_the_scan_compiles_without_spilling(architecture: str) -> None:
    found = compile_all("selective_scan", [architecture])
    assert {(row["kernel"], row["architecture"]) for row in found} == {
        (f"scan_{direction}_kernel", architecture) for direction in ("forward", "backward")
    }
    assert static.faults(found) == []


@pytest.mark.slow
def test_problems_of_ones_compile() -> None:
    ones = SimpleNamespace(name="ones", launches=tiny_launches.of_ones)
    found = list(static.rows(static.tasks([ones], ["sm90"], ""), 2))
    assert len(found) == 20
    assert static.faults(found) == []


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_every_kernel_compiles_without_spilling() -> None:
    assert static.faults(compile_all("")) == []


def test_nothing_to_compile_is_said() -> None:
    nothing = SimpleNamespace(name="none", launches=lambda architecture: list[NamedLaunch]())
    with pytest.raises(ValueError, match="nothing to compile"):
        static.tasks([nothing], ["sm90"], "")


def test_reports_of_the_compilers_are_read() -> None:
    assert cubin_resources(CUBIN) == (255, 48)
    assert amd_resources(AMDGCN, 8192) == Resources(144, 12, 12, 8192, "mfma", 2)


def test_a_report_without_the_number_is_an_error() -> None:
    with pytest.raises(ValueError, match="REG"):
        cubin_resources("nothing of the kind")


@pytest.mark.parametrize(
    ("line", "unit"),
    [
        pytest.param("wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16", "wgmma", id="Hopper"),
        pytest.param("tcgen05.mma.cta_group::1.kind::f16", "tcgen05", id="Blackwell"),
        pytest.param("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32", "mma", id="Ampere"),
        pytest.param("v_mfma_f32_32x32x8_bf16_1k", "mfma", id="CDNA"),
        pytest.param("fma.rn.f32", None, id="none"),
    ],
)
def test_the_matrix_unit_is_named(line: str, unit: str | None) -> None:
    assert matrix_unit(f"\t{line} x;\n") == unit


@pytest.mark.parametrize(
    ("architecture", "registers", "shared", "warps", "share"),
    [
        pytest.param("sm90", 32, 0, 4, 1.0, id="nothing in the way"),
        pytest.param("sm90", 128, 0, 4, 0.25, id="registers"),
        pytest.param("sm90", 121, 0, 4, 0.25, id="registers are given out in eights"),
        pytest.param("sm90", 32, 113 << 10, 4, 0.125, id="shared memory"),
        pytest.param("sm80", 32, 163 << 10, 8, 0.125, id="all shared memory of the smaller one"),
        pytest.param("sm90", 255, 0, 8, 0.125, id="a large program"),
        pytest.param("gfx942", 256, 0, 4, 0.25, id="AMD, registers"),
        pytest.param("gfx942", 64, 32 << 10, 4, 0.25, id="AMD, shared memory"),
    ],
)
def test_occupancy(architecture: str, registers: int, shared: int, warps: int, share: float) -> None:
    assert occupancy(Resources(registers, 0, 0, shared, None), warps, architecture) == share
