import pytest
import torch
from clients import IMAGES, save_model
from server import HubServer

from effssl.hub._card import compose_card, write_card


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    with HubServer(tmp_path_factory.mktemp("hub") / "large") as server:
        yield server


@pytest.fixture(scope="module")
def old_and_new(tmp_path_factory):
    """Two model folders, and the features of the second."""
    folder = tmp_path_factory.mktemp("models")
    save_model(folder / "old", 0)
    write_card(folder / "old", compose_card(folder / "old", "org/old"))
    model = save_model(folder / "new", 1)
    with torch.no_grad():
        return folder / "old", folder / "new", model(IMAGES)
