"""The package itself: lazy, and every public name is what it says."""

import subprocess
import sys
import types

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
