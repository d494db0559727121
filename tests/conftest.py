import importlib
import logging
import os
import shutil
import sys
import sysconfig
import tempfile
from pathlib import Path
from types import SimpleNamespace

# set before anything imports these libraries: no test may use the network
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"
os.environ["HF_HOME"] = tempfile.mkdtemp(prefix="effssl-tests-")
# nor read or write the home folder
os.environ["MPLCONFIGDIR"] = os.path.join(os.environ["HF_HOME"], "matplotlib")
os.environ["TRITON_CACHE_DIR"] = os.path.join(os.environ["HF_HOME"], "triton")
os.environ["TORCHINDUCTOR_CACHE_DIR"] = os.path.join(os.environ["HF_HOME"], "inductor")

import numpy as np
import pytest
import torch
from PIL import Image

import effssl

# threads cost more than they gain here, and the bits of a sum depend on their number
torch.set_num_threads(1)

# Every process of the tests imports the same package. Python puts the current folder first on the
# path of some processes (-c, -m) and not of others, so that tests started in a checkout would mix
# its package with an installed one.
_PACKAGES = str(Path(effssl.__file__).parents[1])
if _PACKAGES not in sysconfig.get_paths().values():
    paths = [_PACKAGES, *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, paths))


def pytest_configure(config):
    if (
        config.getoption("dist", "no") == "no"
    ):  # not in the controller of xdist, whose workers resolve the paths of tests
        empty = os.path.join(os.environ["HF_HOME"], "empty")
        os.makedirs(empty)
        os.chdir(empty)


def pytest_unconfigure(config):
    os.chdir(config.invocation_params.dir)
    shutil.rmtree(os.environ["HF_HOME"], ignore_errors=True)


@pytest.fixture(autouse=True)
def own_log_level():
    """Give the log its level back, which the command line sets for the process."""
    logger = logging.getLogger("effssl")
    before = logger.level
    yield
    logger.setLevel(before)


@pytest.fixture(autouse=True)
def fresh_accelerate_state():
    """Reset Accelerate's state, which it keeps per process, since each test is its own run."""
    yield
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture(scope="session")
def reproduce():
    """The modules of examples/reproduce."""
    folder = str(Path(__file__).parents[1] / "examples" / "reproduce")
    sys.path.insert(0, folder)
    try:
        names = ("experiments", "scales", "run", "runs_table", "comparisons", "times", "tables")
        names += ("panels", "figures", "peer")
        yield SimpleNamespace(**{name: importlib.import_module(name) for name in names})
    finally:
        sys.path.remove(folder)


@pytest.fixture(scope="session")
def results(reproduce):
    """The lines of model_cards/results.csv, by scale and data set."""
    found = {}
    for row in reproduce.run.read_results(reproduce.run.RESULTS):
        found.setdefault((row["scale"], row["dataset"]), []).append(row)
    return found


@pytest.fixture(scope="session")
def cpu_results(reproduce):
    """The lines of each part of the cpu scale."""
    return dict(reproduce.runs_table.read_scale("cpu", reproduce.run.RESULTS))


@pytest.fixture(scope="session")
def image_folder(tmp_path_factory):
    """24 RGB images of mixed sizes in two classes, as class subfolders."""
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for i in range(24):
        height, width = 20 + i % 5, 30 - i % 7
        pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        target = folder / ("cat" if i % 2 else "dog") / f"{i:02}.png"
        target.parent.mkdir(exist_ok=True)
        Image.fromarray(pixels).save(target)
    return folder
