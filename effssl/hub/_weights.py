"""Weights in safetensors files, read only into the expected shapes.

Nothing is unpickled, and no weight is allocated that the file does not hold.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Container
from pathlib import Path
from typing import Any

import safetensors
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from effssl.atomic import give_usual_rights
from effssl.hub._tensor_file import TensorFile
from effssl.shown import shown

_FLOATING = {"F64", "F32", "F16", "BF16"}
_INTEGER = {"I64", "I32", "I16", "I8", "U8", "BOOL"}
_LARGEST = 1e18  # its square is still a float32


class without_initial_values(TorchFunctionMode):
    """Context in which modules skip the initialization of their parameters.

    Random initialization takes most of the time of building a large model.
    """

    _changes = frozenset(
        (
            Tensor.normal_,
            Tensor.uniform_,
            Tensor.erfinv_,
            Tensor.mul_,
            Tensor.add_,
            Tensor.clamp_,
            Tensor.fill_,
            Tensor.zero_,
            nn.init.normal_,
            nn.init.uniform_,
            nn.init.kaiming_uniform_,
            nn.init.constant_,
        )
    )

    def __torch_function__(
        self, func: Callable, types: tuple, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in self._changes:
            tensor = args[0] if args else kwargs["tensor"]
            if isinstance(tensor, nn.Parameter):
                return tensor
        return func(*args, **kwargs)


def save_weights(module: nn.Module, path: Path) -> dict:
    """Write the tensors of a module, and return bytes and sha256 of the file.

    Raises:
        OSError: If the file cannot be written.
    """
    weights: dict[str, Tensor] = {}
    seen = set()
    for name, tensor in module.state_dict().items():
        # safetensors refuses channels-last and shared tensors
        tensor = tensor.contiguous()
        weights[name] = tensor.clone() if tensor.data_ptr() in seen else tensor
        seen.add(tensor.data_ptr())
    try:
        save_file(weights, path, metadata={"format": "pt"})
    except safetensors.SafetensorError as error:  # hides the system's error
        raise OSError(f"{path.name}: {error}") from error
    give_usual_rights(path)
    return describe_file(path)


def describe_file(path: Path) -> dict:
    """Return bytes and sha256 of a file."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return {"bytes": path.stat().st_size, "sha256": digest.hexdigest()}


def check_weights(
    file: TensorFile, expected: dict[str, Tensor], *, dropped: Container[str] = ()
) -> None:
    """Compare the header of a file with the tensors to load, which may be on the meta device.

    Args:
        file: File of weights.
        expected: Tensors to load, as in a ``state_dict``.
        dropped: Other names that the file may hold, such as those of a classifier.

    Raises:
        ValueError: If a tensor is missing, unknown, or of another shape or kind of number.
    """
    found = file.entries
    misfits = [f"lacks {name}" for name in expected if name not in found]
    misfits += [
        f"has unknown {shown(name)}"
        for name in found
        if name not in expected and name not in dropped
    ]
    for name in sorted(expected.keys() & found.keys()):
        dtype, shape = found[name]
        if shape != expected[name].shape:
            misfits.append(f"{name} is {_shape(shape)}, not {_shape(expected[name].shape)}")
        elif dtype not in (_FLOATING if expected[name].is_floating_point() else _INTEGER):
            misfits.append(f"{name} is of {dtype}, not {expected[name].dtype}")
    if misfits:
        more = f" and {len(misfits) - 3} more" if len(misfits) > 3 else ""
        raise ValueError(
            f"{file.path} does not fit the model of config.json: {'; '.join(misfits[:3])}{more}"
        )


def read_weights(
    file: TensorFile, names: Container[str], said: dict | None = None
) -> dict[str, Tensor]:
    """Read tensors of a file that passed `check_weights`.

    Args:
        file: File of weights.
        names: Names of the tensors.
        said: Bytes and sha256 that the file must have; None if they are not known.

    Raises:
        ValueError: If the file has others, or a number is not finite or beyond all reason.
    """
    weights = file.read(names)
    found = file.description()
    if said is not None and found != said:
        raise ValueError(
            f"{file.path} is damaged, or was changed since it was saved: it is {found}, and "
            f"config.json says {said}"
        )
    for name, tensor in weights.items():
        if tensor.is_floating_point() and tensor.numel():
            low, high = (float(end) for end in tensor.aminmax())
            if not (-_LARGEST < low and high < _LARGEST):  # False for NaN too
                raise ValueError(
                    f"{file.path}: {name} has numbers from {low:g} to {high:g}, of which no "
                    "feature can be computed"
                )
    return weights


def fill(module: nn.Module, weights: dict[str, Tensor]) -> bool:
    """Replace the tensors of a module on the meta device by weights, which it then holds.

    Returns:
        False if the module has tensors that the weights do not hold, such as tables of positions
        that are computed and not saved; the module is then unusable.
    """
    made: dict[int, Tensor] = {}  # by tensor on meta, so that shared tensors stay shared
    for prefix, part in module.named_modules():
        if any(isinstance(value, Tensor) for value in vars(part).values()):
            return False
        for tensors in (part._parameters, part._buffers):
            for name, sketched in tensors.items():
                if sketched is None:
                    continue
                found = weights.get(f"{prefix}.{name}" if prefix else name)
                if found is None:
                    return False
                if id(sketched) not in made:
                    copied = found.to(sketched.dtype)
                    is_parameter = tensors is part._parameters
                    made[id(sketched)] = nn.Parameter(copied) if is_parameter else copied
                tensors[name] = made[id(sketched)]
    return True


def check_tables(folder: Path, sketch: nn.Module, weights: dict[str, Tensor]) -> None:
    """Refuse huge buffers that are computed and not saved, such as tables of positions."""
    made = sum(tensor.nbytes for name, tensor in sketch.named_buffers() if name not in weights)
    most = max(256_000_000, 4 * sum(tensor.nbytes for tensor in weights.values()))
    if made > most:
        raise ValueError(
            f"{folder / 'config.json'} asks for tables of {made:,} bytes beside the weights: more "
            f"than the {most:,} that they may have"
        )


def classifier_of(architecture: str, model_args: dict, expected: Container[str]) -> set[str]:
    """Return the names of the classifier's tensors in timm's own weights."""
    with torch.device("meta"), without_initial_values():
        whole = timm.create_model(architecture, num_classes=1000, **model_args)
    return {name for name in whole.state_dict() if name not in expected}


def _shape(shape: tuple[int, ...]) -> str:
    return "x".join(str(side) for side in shape) or "a scalar"
