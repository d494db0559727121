"""The package itself: lazy, and every public name is what it says."""

import subprocess
import sys
import types
from pathlib import Path

from forked import Forked

import effssl


def test_importing_the_package_and_its_command_line_imports_no_torch():
    code = (
        "import sys, effssl, effssl.cli, effssl.training.config; effssl.PretrainConfig()\n"
        "heavy = {'torch', 'timm', 'datasets', 'accelerate', 'numpy'} & set(sys.modules)\n"
        "sys.exit(', '.join(heavy) or 0)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_every_public_name_loads_and_is_listed():
    assert {"create_model", "from_pretrained", "MultiView", "losses"} <= set(dir(effssl))
    for name in effssl.__all__:
        assert getattr(effssl, name) is not None


def test_functions_named_like_their_module_are_the_functions():
    import effssl.evaluation.knn
    import effssl.losses.barlow_twins
    import effssl.losses.vicreg

    for function in (
        effssl.evaluation.knn,
        effssl.evaluation.evaluate,
        effssl.losses.barlow_twins,
        effssl.losses.vicreg,
        effssl.losses.spectral,
    ):
        assert isinstance(function, types.FunctionType), function


def where() -> str:
    return effssl.__file__


def test_every_process_of_the_tests_takes_the_same_package(tmp_path):
    """However Python was started, and although a checkout may lie in the current folder."""
    script = tmp_path / "where.py"
    script.write_text("import effssl; print(effssl.__file__)")
    checkout = Path(__file__).parents[1]
    for arguments in (["-c", script.read_text()], [str(script)]):
        run = subprocess.run(
            [sys.executable, *arguments],
            cwd=tmp_path if arguments[0] == "-c" else checkout,
            capture_output=True,
            text=True,
            check=True,
        )
        assert run.stdout.strip() == where()
    assert Forked(tmp_path / "log", where).result() == where()
