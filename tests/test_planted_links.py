"""Whatever links a stranger planted in a folder, nothing outside of it is written or deleted."""

import ast
import contextlib
import os
import shutil
from pathlib import Path

import pytest

import effssl
from effssl.cli import main
from effssl.evaluation import _feature_file

NAMES = (
    *("config.json", "training.json", "README.md", "loss.png", "spectrum.png"),
    *("model.safetensors", "projector.safetensors", "linear_probe.safetensors"),
    *("report.html", "metrics.jsonl", "numbers.json", "features.safetensors", "views.png"),
)
# forms of temporary names, of this version and of others
FORMS = ("{}", "{}.partial", ".{}.partial", ".{}.00000000.partial", "{}.tmp", "tmp{}")
TINY = (
    "--backbone test_resnet --img-size 32 --in-chans 1 --preset grey --projector-dim 16 --views 2 "
    "--batch-size 8 --split train[:24] --precision fp32 --cpu --evaluate-every 1 --log-every 1"
).split()


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    main(["pretrain", *TINY, "--epochs", "1", "--output", str(folder)])
    return folder


@pytest.fixture(params=["file", "nothing", "folder"])
def planted(request, trained, tmp_path):
    """A copy of a run with links to a file, to nothing yet, or to a folder that are dear to us."""
    run = Path(shutil.copytree(trained, tmp_path / "run"))
    dear = tmp_path / "dear"
    dear.mkdir()
    (dear / "bashrc").write_text("mine")
    target = {"file": dear / "bashrc", "nothing": dear / "new", "folder": dear}[request.param]
    for folder in (run, run / "model"):
        for name in NAMES:
            for form in FORMS:
                path = folder / form.format(name)
                if not os.path.lexists(path):
                    path.symlink_to(target)
    yield run
    assert os.listdir(dear) == ["bashrc"] and (dear / "bashrc").read_text() == "mine"


@pytest.mark.parametrize(
    "command",
    [
        "evaluate RUN --cpu --protocols knn spectrum --test-split train[:24] --train-split "
        "train[:24] --json RUN/numbers.json",
        "report RUN --images 8",
        "push RUN org/m --dry-run",
        "features RUN --output RUN/features.safetensors --cpu --split train[:8]",
        "features RUN --output RUN/views.parquet --cpu --split train[:8]",
        "views --output RUN/views.png --images 2 --img-size 32 --preset grey --in-chans 1",
        "pretrain --config RUN/config.json --resume --epochs 2 --output RUN",
        "pretrain --config RUN/config.json --overwrite --output RUN",
    ],
    ids=lambda command: " ".join(command.split()[:2]),
)
def test_no_command_writes_through_a_link(planted, command):
    with contextlib.suppress(SystemExit):  # a refusal is as good
        main(command.replace("RUN", str(planted)).split())


def test_metrics_are_not_added_through_a_link(trained, tmp_path):
    run = Path(shutil.copytree(trained, tmp_path / "run"))
    (run / "metrics.jsonl").unlink()
    (run / "metrics.jsonl").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(SystemExit):
        main(
            ["pretrain", "--config", str(run / "config.json"), "--resume"]
            + ["--epochs", "2", "--output", str(run)]
        )
    assert not (tmp_path / "elsewhere").exists()


def test_a_card_that_is_a_link_elsewhere_does_not_become_a_file_of_the_model(tmp_path, caplog):
    model = effssl.create_model("test_resnet", projector_dim=8, img_size=32)
    effssl.save_pretrained(model, tmp_path / "m")
    (tmp_path / "token").write_text("hf_secret")
    (tmp_path / "m" / "README.md").symlink_to(tmp_path / "token")
    effssl.save_pretrained(model, tmp_path / "m")
    assert "README.md is a link to something outside of the folder" in caplog.text
    assert not os.path.lexists(tmp_path / "m" / "README.md")


def test_a_planted_feature_file_is_not_written_through(trained, tmp_path, monkeypatch):
    prepare = _feature_file.FeatureFile._prepare

    def planted(self, width, fingerprint):
        prepare(self, width, fingerprint)
        os.rename(self.path, tmp_path / "dear")
        self.path.symlink_to(tmp_path / "dear")

    monkeypatch.setattr(_feature_file.FeatureFile, "_prepare", planted)
    arguments = ["--cpu", "--split", "train[:8]"]
    with pytest.raises(SystemExit):
        output = ["--output", str(tmp_path / "x.safetensors")]
        main(["features", str(trained), *output, *arguments])


# --- and no file is opened to be written but by effssl.atomic, or in a folder that was just made

IN_NEW_FOLDERS = {
    "data/_cache.py",
    "evaluation/_feature_file.py",
    "evaluation/_feature_output.py",
    "hub/_folder.py",
    "hub/_snapshot.py",
    "hub/_weights.py",
    "training/_checkpoint.py",
}
# members of a zip that is written by effssl.atomic; empty files that are locked; memory
TO_NO_FILE = {"data/_archives.py", "data/_locks.py", "data/_rows.py"}
MODES = {m + b for m in ("w", "a", "x", "r+", "w+") for b in ("", "b")} | {"rb+", "wb+"}
METHODS = ("write_text", "write_bytes", "tofile", "to_parquet")
FUNCTIONS = ("save_file", "torch.save", "np.save", "os.mkstemp")


def writes(file):
    """Whether a module calls something that writes to a path."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            values = [*node.args, *(keyword.value for keyword in node.keywords)]
            modes = {value.value for value in values if isinstance(value, ast.Constant)}
            if name.endswith("open") and modes & MODES:
                return True
            if name in FUNCTIONS or name.endswith(tuple(f".{method}" for method in METHODS)):
                return True
    return False


def test_no_other_module_opens_files_to_write():
    package = Path(effssl.__file__).parent
    found = {f.relative_to(package).as_posix() for f in package.rglob("*.py") if writes(f)}
    assert found == IN_NEW_FOLDERS | TO_NO_FILE | {"atomic.py"}
