"""What every test runs under: one thread and a fixed seed."""

import os

import pytest
import torch

# kernels run on the CPU; Triton reads this when it is imported
os.environ.setdefault("TRITON_INTERPRET", "1")
# weights come from files in the tests, never from the network
os.environ.setdefault("HF_HUB_OFFLINE", "1")
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)
