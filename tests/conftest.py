"""What every test runs under: one thread and a fixed seed; and files that many tests read."""

import os

# kernels run on the CPU; Triton reads this when it is imported, which timm may do
os.environ.setdefault("TRITON_INTERPRET", "1")

import fcntl
import hashlib
import pickle
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
from torch import nn

# weights come from files in the tests, never from the network
os.environ.setdefault("HF_HUB_OFFLINE", "1")
torch.set_num_threads(1)


# of a test with more cases marked `full` than this, a third runs in CI
MANY = 6


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keeps every third case of a long list that is marked `full`; the others are `slow`."""
    cases = defaultdict(list)
    for item in items:
        if item.get_closest_marker("full") and not item.get_closest_marker("slow"):
            cases[item.nodeid.partition("[")[0]].append(item)
    for listed in cases.values():
        for i, item in enumerate(listed if len(listed) > MANY else ()):
            if i % 3:
                item.add_marker("slow")


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., tuple[nn.Module, Any]]:
    """A model and the report of its ONNX file, which is made once for all tests and processes.

    `exported(name, arguments_of_the_model, **options_of_the_export)`; the file must be left as it is.
    """
    from attnzoo.tools.export import export_onnx

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
        with open(shared / f"{key}.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not report.exists():
                report.write_bytes(pickle.dumps(export_onnx(model, path, **options)))
        assert model.training, "the caller's model must stay as it was"
        return model.eval(), pickle.loads(report.read_bytes())

    return export
