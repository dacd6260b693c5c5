"""What every test runs under: one thread and a fixed seed."""

import os

import pytest
import torch

# weights come from files in the tests, never from the network
os.environ.setdefault("HF_HUB_OFFLINE", "1")
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)
