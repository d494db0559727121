"""Scripts without a guard: refused where a process imports them again, run where it does not."""

import multiprocessing
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest

import effssl
from effssl import processes
from effssl.data._cache import cache_images

SCRIPT = """
import multiprocessing, sys
import effssl
from effssl import processes

multiprocessing.set_start_method(sys.argv[1], force=True)
if sys.argv[2] != "forks":
    processes._FORKS = False  # as on macOS and Windows
{work}
print("done")
"""
PRETRAIN = """
config = effssl.PretrainConfig(backbone="test_resnet", in_chans=1, img_size=32, preset="grey",
    projector_dim=16, views=2, batch_size=8, max_steps=2, workers=1, cpu=True, precision="fp32",
    dataset=sys.argv[3], output=sys.argv[4], cache_gb=float(sys.argv[5]), evaluate_every=0)
{call}effssl.pretrain(config)
"""
FEATURES = """
model = effssl.create_model("test_resnet", in_chans=1, img_size=32)
source = effssl.data.load_source(sys.argv[3], in_chans=1)
{call}print(effssl.extract_features(model, source, workers=1, batch_size=8).shape)
"""
GUARD = 'if __name__ == "__main__": '


def run(tmp_path, work, data, method, forks, cache_gb="0"):
    (tmp_path / "script.py").write_text(SCRIPT.replace("{work}", work))
    return subprocess.run(
        [sys.executable, tmp_path / "script.py", method, forks, data, tmp_path / "run", cache_gb],
        env=os.environ | {"HF_HOME": str(tmp_path / "home"), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=100,
    )


@pytest.mark.skipif(sys.platform != "linux", reason="workers are forked on Linux only")
@pytest.mark.parametrize("method, work", [("spawn", FEATURES), ("forkserver", PRETRAIN)])
def test_a_script_without_a_guard_runs_where_workers_are_forked(
    tmp_path, image_folder, method, work
):
    result = run(tmp_path, work.format(call=""), image_folder, method, "forks")
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("done") == 1


@pytest.mark.parametrize(
    "method, work, data, cache_gb",
    [
        ("spawn", FEATURES, "folder", "0"),
        ("spawn", PRETRAIN, "fashion-mnist-sample", "1"),  # whose cache the parent has locked
        ("forkserver", PRETRAIN, "fashion-mnist-sample", "1"),
    ],
    ids=["features", "spawn", "forkserver"],
)
def test_a_script_without_a_guard_is_refused_with_the_lines_that_it_lacks(
    tmp_path, image_folder, method, work, data, cache_gb
):
    data = image_folder if data == "folder" else data
    result = run(tmp_path, work.format(call=""), data, method, "does not fork", cache_gb)
    assert result.returncode == 1 and "done" not in result.stdout
    worker, _, parent = result.stderr.partition("RuntimeError: a decoding worker of")
    for said in (worker, parent):
        assert 'if __name__ == "__main__":\n        effssl.' in said, result.stderr
    name = "effssl.pretrain" if work is PRETRAIN else "effssl.extract_features"
    assert f"RuntimeError: {name} was called again" in worker


def test_a_script_with_the_guard_runs_where_workers_are_not_forked(tmp_path, image_folder):
    work = PRETRAIN.format(call=GUARD)
    result = run(tmp_path, work, image_folder, "spawn", "does not fork")
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize(
    "call",
    [
        lambda: effssl.pretrain(effssl.PretrainConfig()),
        lambda: effssl.evaluation.extract_features(None, None),
        lambda: effssl.evaluation.evaluate(None, None, None),
        lambda: cache_images(None, 8, max_bytes=1, workers=1),
    ],
    ids=["pretrain", "extract_features", "evaluate", "cache_images"],
)
def test_what_starts_processes_or_takes_locks_is_refused_before_it_does_anything(monkeypatch, call):
    monkeypatch.setattr(multiprocessing.current_process(), "_inheriting", True, raising=False)
    with pytest.raises(RuntimeError, match=r'(?s)was called again: .*if __name__ == "__main__":'):
        call()


def test_other_errors_stay_what_they_are(monkeypatch):
    monkeypatch.setattr(processes, "_FORKS", False)
    for error in (
        RuntimeError("out of memory"),
        ConnectionError("process 1 lost"),
        ValueError("x"),
    ):
        with pytest.raises(type(error)) as info, processes.explain_lost_workers("effssl.pretrain"):
            raise error
        assert info.value is error


def test_a_script_is_imported_once_before_workers_are_started(monkeypatch):
    started = []
    processes._try_import.cache_clear()
    monkeypatch.setattr(processes, "_FORKS", False)
    monkeypatch.setattr(multiprocessing, "Process", lambda target: ended(started, 0))
    assert processes.start_method(0) is processes.start_method(2) is processes.start_method(2)
    assert len(started) == 1
    processes._try_import.cache_clear()
    monkeypatch.setattr(multiprocessing, "Process", lambda target: ended(started, 1))
    with pytest.raises(RuntimeError, match='(?s)ended at once.*if __name__ == "__main__":'):
        with processes.explain_lost_workers("effssl.pretrain"):
            processes.start_method(2)


def ended(started, exitcode):
    """A process that has ended."""
    return SimpleNamespace(start=lambda: started.append(1), join=lambda: None, exitcode=exitcode)


def test_workers_are_forked_on_linux_whatever_python_does_by_default(monkeypatch):
    monkeypatch.setattr(processes, "_try_import", lambda: None)
    for forks, expected in ((True, "fork"), (False, None)):
        monkeypatch.setattr(processes, "_FORKS", forks)
        assert processes.start_method(2) == expected and processes.start_method(0) is None
