"""The checks of `benchmarks/gpu_run.sh`, on the CPU."""

import pytest

from benchmarks import gpu_checks


def test_checks_that_need_no_gpu_pass_here(capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu_checks.main(["tiny", "graph"]) == 0
    assert capsys.readouterr().out.splitlines() == ["tiny: passed on cpu", "graph: passed on cpu"]


def test_a_check_that_fails_is_said_and_the_others_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def tiny() -> None:
        raise AssertionError("differs")

    monkeypatch.setattr(gpu_checks, "tiny", tiny)
    assert gpu_checks.main(["tiny", "graph"]) == 1
    said = capsys.readouterr().out
    assert "tiny: failed" in said
    assert "AssertionError: differs" in said
    assert "graph: passed" in said
    assert gpu_checks.main(["unknown"]) == 2
