import pytest
import torch


@pytest.fixture
def one_thread():
    """As in the other processes; on busy cores it is also faster than two."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
