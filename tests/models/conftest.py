"""One thread for torch: small tensors gain nothing from more, and tests share the machine."""

import pytest
import torch


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    torch.set_num_threads(1)
