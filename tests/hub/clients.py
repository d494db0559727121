"""Processes that talk to the test server, and what they do there."""

from concurrent.futures import ThreadPoolExecutor

import torch
from forked import Forked
from server import TOKEN, connect

import effssl

CLEAR = (FileNotFoundError, PermissionError, ConnectionError, ValueError)
IMAGES = torch.linspace(0, 1, 2 * 3 * 32 * 32).reshape(2, 3, 32, 32)


def save_model(folder, seed):
    torch.manual_seed(seed)
    model = effssl.create_model("test_resnet", projector_dim=8, img_size=32)
    effssl.save_pretrained(model, folder)
    return model.eval()


def client(tmp_path, hub, function, *args, token=TOKEN, offline=False, home="home"):
    """The result of a function in a process that talks to the server."""
    environment = hub.environment(tmp_path / home, token=token)
    environment |= {"HF_HUB_OFFLINE": str(int(offline))}
    return Forked(tmp_path / "client.log", connected, environment, function, *args).result()


def connected(environment, function, *args):
    connect(environment)
    return function(*args)


def attempt(function, *args, **options):
    """What it returns, or the one line that it fails with."""
    try:
        return function(*args, **options)
    except CLEAR as error:
        assert "\n" not in str(error), error
        return f"{type(error).__name__}: {error}"


def features_of(name, **options):
    with torch.no_grad():
        return effssl.from_pretrained(name, **options)(IMAGES)


def push_all(cases):
    """Push each folder to its repository, many at a time since most of the time is waiting."""
    with ThreadPoolExecutor(24) as pool:
        return list(pool.map(lambda case: attempt(effssl.push_to_hub, *case), cases))
