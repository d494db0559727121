"""A run, its evaluation and its report without what only POSIX systems have, as on Windows."""

import os
import subprocess
import sys

SCRIPT = """
import os, signal, sys
import accelerate, datasets, matplotlib.pyplot, timm, torch, torch.utils.data

for name in ("fcntl", "grp", "pwd", "resource", "syslog", "termios"):
    sys.modules[name] = None  # importing it is an ImportError from here on
for name in ("fork", "getuid", "geteuid", "getpgid", "killpg", "posix_fallocate",
             "pread", "pwrite", "sched_getaffinity", "sched_setaffinity", "uname"):
    delattr(os, name)
for name in ("SIGHUP", "SIGKILL", "SIGQUIT", "SIGUSR1", "SIGUSR2"):
    delattr(signal, name)

from effssl import cli, processes

processes._FORKS = False
images, run = sys.argv[1:]
tiny = ["--backbone", "test_resnet", "--in-chans", "1", "--img-size", "32", "--preset", "grey",
        "--projector-dim", "16", "--views", "2", "--batch-size", "8", "--max-steps", "3", "--cpu"]
cli.main(["pretrain", *tiny, "--dataset", images, "--output", run])
cli.main(["pretrain", *tiny, "--dataset", images, "--output", run, "--resume", "--max-steps", "4"])
splits = ["--train-split", "train[:16]", "--test-split", "train[16:]", "--seeds", "0"]
cli.main(["evaluate", run, *splits, "--protocols", "knn", "spectrum", "--k", "1"])
cli.main(["features", run, "--output", run + "/features.parquet"])
cli.main(["report", run])
cli.main(["views", "--dataset", images, "--output", run + "/views.png"])
cli.main(["cache"])
cli.main(["cache", "--delete-all"])
"""


def test_a_run_its_evaluation_and_its_report_need_nothing_of_posix(tmp_path, image_folder):
    result = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(image_folder), str(tmp_path / "run")],
        env=os.environ | {"HF_HOME": str(tmp_path / "home"), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert result.returncode == 0, result.stderr
    assert "k-NN 1 " in result.stdout and "features.parquet" in result.stdout
    assert (tmp_path / "run" / "report.html").is_file()
    assert (tmp_path / "run" / "features.parquet").is_file()
    assert "freed " in result.stdout
    assert "no cache in" not in result.stderr  # whose locks are there in another way
