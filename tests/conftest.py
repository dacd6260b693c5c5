"""What every test runs under: one thread and a fixed seed; and files that many tests read."""

import os

# kernels run on the CPU; Triton reads this when it is imported, which timm may do
os.environ.setdefault("TRITON_INTERPRET", "1")

import hashlib
import json
import pickle
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from filelock import FileLock
from torch import nn

from attnzoo_command import steps

# weights come from files in the tests, never from the network
os.environ.setdefault("HF_HUB_OFFLINE", "1")
torch.set_num_threads(1)


# what takes long on a busy machine must not change what a command prints
steps.PATIENCE = float("inf")

# of a test with more cases marked `full` than this, a fourth runs in CI
MANY = 6
# tests that take long, with the seconds of a processor that they took; written by `pytest -m "not slow" --measure`
DURATIONS = Path(__file__).parent / "durations.json"
# those that take longer than this are left out of the quick suite
LONG = 2.0
# of a test's cases that take longer than this, the quickest runs in CI
LONGEST = 12.0


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds the option that measures tests."""
    parser.addoption("--measure", action="store_true", help=f"write the tests that take long to {DURATIONS.name}")


def pytest_configure(config: pytest.Config) -> None:
    """Measures in the process that collects the results of all others."""
    if config.getoption("--measure") and not hasattr(config, "workerinput"):
        config.pluginmanager.register(_Measurement())


class _Measurement:
    """Writes the file of tests that take long when all have run; tests that did not run keep their place."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = json.loads(DURATIONS.read_text())

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        found = dict(report.user_properties).get("seconds")
        if report.when == "call" and isinstance(found, float):
            self.seconds.pop(report.nodeid, None)
            if found > LONG:
                self.seconds[report.nodeid] = round(found, 1)

    def pytest_sessionfinish(self) -> None:
        beside = DURATIONS.with_suffix(".new")
        beside.write_text(json.dumps(dict(sorted(self.seconds.items())), indent=0) + "\n")
        beside.replace(DURATIONS)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """Measures a test without its fixtures, and with the processes that it starts."""
    begin = sum(os.times()[:4])
    try:
        return (yield)
    finally:
        item.user_properties.append(("seconds", sum(os.times()[:4]) - begin))


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks tests that take long `full`, and leaves most cases of long lists with this mark out of CI."""
    seconds = json.loads(DURATIONS.read_text())
    cases, longest = defaultdict(list), defaultdict(list)
    for item in items:
        if item.nodeid in seconds:
            item.add_marker("full")
        if item.get_closest_marker("full") and not item.get_closest_marker("slow"):
            test = item.nodeid.partition("[")[0]
            cases[test].append(item)
            if seconds.get(item.nodeid, 0.0) > LONGEST:
                longest[test].append(item)
    left_out = [item for listed in cases.values() if len(listed) > MANY for i, item in enumerate(listed) if i % 4]
    for listed in longest.values():
        left_out += sorted(listed, key=lambda item: seconds[item.nodeid])[1:]
    for item in left_out:
        item.add_marker("slow")

    _take_turns([item for item in items if item.get_closest_marker("in_turns")])


def _take_turns(items: list[pytest.Item]) -> None:
    """Marks all but a third of the cases of each test `full`: a model has one third of the tests, the next another."""
    tests = list(dict.fromkeys(item.nodeid.partition("[")[0] for item in items))
    names = list(dict.fromkeys(item.callspec.params["name"] for item in items))  # type: ignore[attr-defined]
    for item in items:
        turn = tests.index(item.nodeid.partition("[")[0]) + names.index(item.callspec.params["name"])  # type: ignore[attr-defined]
        if turn % 3:
            item.add_marker("full")


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., tuple[nn.Module, Any]]:
    """A model and the report of its ONNX file, which is made once for all tests and processes.

    `exported(name, arguments_of_the_model, **options_of_the_export)`; the file must be left as it is.
    """
    from attnzoo.tools.export import export_onnx
    from attnzoo.tools.export.checking import without_zeros

    folder = tmp_path_factory.getbasetemp()
    # the processes of pytest-xdist have a folder each, in a common one
    shared = (folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder) / "exported"
    shared.mkdir(exist_ok=True)

    def export(name: str, arguments: dict[str, Any] | None = None, **options: Any) -> tuple[nn.Module, Any]:
        key = hashlib.sha256(repr((name, arguments, sorted(options.items()))).encode()).hexdigest()[:16]
        path, report = shared / f"{key}.onnx", shared / f"{key}.report"
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = timm.create_model(name, **(arguments or {})).train()
            # a model with zeros, such as biases that are not trained, is exported twice
            model = without_zeros(model) or model
        with FileLock(shared / f"{key}.lock"):
            if not report.exists():
                report.write_bytes(pickle.dumps(export_onnx(model, path, **options)))
        assert model.training, "the caller's model must stay as it was"
        return model.eval(), pickle.loads(report.read_bytes())

    return export
