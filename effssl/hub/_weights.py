"""Weights in safetensors: written whole, and read only into the shapes that they were written from.

Nothing is unpickled, and no weight is allocated that the file does not hold.
"""

from __future__ import annotations

import hashlib
from collections.abc import Container, Iterable
from pathlib import Path

import safetensors
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

_FLOATING = {"F64", "F32", "F16", "BF16"}
_INTEGER = {"I64", "I32", "I16", "I8", "U8", "BOOL"}


class without_initial_values(TorchFunctionMode):
    """Modules built under it leave their parameters as they find them: all are loaded afterwards.

    Drawing random weights takes most of the time of building a large model.
    """

    _changes = frozenset(
        (
            *(Tensor.normal_, Tensor.uniform_, Tensor.erfinv_, Tensor.mul_, Tensor.add_),
            *(Tensor.clamp_, Tensor.fill_, Tensor.zero_),
            *(nn.init.normal_, nn.init.uniform_, nn.init.kaiming_uniform_, nn.init.constant_),
        )
    )

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func in self._changes:
            tensor = args[0] if args else kwargs["tensor"]
            if isinstance(tensor, nn.Parameter):
                return tensor
        return func(*args, **kwargs)


def save_weights(module: nn.Module, path: Path) -> dict:
    """Write a module's tensors; return the file's bytes and sha256.

    Raises:
        OSError: If the file cannot be written.
    """
    weights: dict[str, Tensor] = {}
    seen = set()
    for name, tensor in module.state_dict().items():
        # safetensors takes neither channels-last nor shared tensors
        tensor = tensor.contiguous()
        weights[name] = tensor.clone() if tensor.data_ptr() in seen else tensor
        seen.add(tensor.data_ptr())
    try:
        save_file(weights, path, metadata={"format": "pt"})
    except safetensors.SafetensorError as error:  # it hides the system's error
        raise OSError(f"{path.name}: {error}") from error
    return describe_file(path)


def describe_file(path: Path) -> dict:
    """Its size in bytes and its sha256 as hexadecimal digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return {"bytes": path.stat().st_size, "sha256": digest.hexdigest()}


def check_weights(path: Path, expected: dict[str, Tensor], *, dropped: Container[str] = ()) -> None:
    """Compare the header of a file with the tensors that it is to fill, which may be on meta.

    Args:
        path: The file.
        expected: The tensors, as ``state_dict`` gives them.
        dropped: Names that the file may hold besides, such as those of a classifier.

    Raises:
        FileNotFoundError: If there is no file.
        ValueError: If it is truncated, not of this format, or a tensor lacks, is unknown, or is of
            another shape or kind of number.
    """
    with _opened(path) as file:
        found = {name: file.get_slice(name) for name in file.keys()}
        misfits = [f"lacks {name}" for name in expected if name not in found]
        misfits += [
            f"has unknown {shown(name)}"
            for name in found
            if name not in expected and name not in dropped
        ]
        for name in sorted(expected.keys() & found.keys()):
            shape, dtype = tuple(found[name].get_shape()), found[name].get_dtype()
            if shape != expected[name].shape:
                misfits.append(f"{name} is {_shape(shape)}, not {_shape(expected[name].shape)}")
            elif dtype not in (_FLOATING if expected[name].is_floating_point() else _INTEGER):
                misfits.append(f"{name} is of {dtype}, not {expected[name].dtype}")
    if misfits:
        more = f" and {len(misfits) - 3} more" if len(misfits) > 3 else ""
        raise ValueError(
            f"{path} does not fit the model of config.json: {'; '.join(misfits[:3])}{more}"
        )


def read_weights(path: Path, names: Iterable[str]) -> dict[str, Tensor]:
    """Tensors of a file that `check_weights` has let pass; they change with the file."""
    with _opened(path) as file:
        return {name: file.get_tensor(name) for name in names}


def fill(module: nn.Module, weights: dict[str, Tensor]) -> bool:
    """Put copies of tensors in the place of those that a module has on the meta device.

    Returns:
        False if there are others which the weights do not hold, such as tables of positions that
        are made and not saved; the module is of no use then.
    """
    made: dict[int, Tensor] = {}  # by the tensor on meta: what is shared stays shared
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
                    copied = found.to(sketched.dtype, copy=True)
                    is_parameter = tensors is part._parameters
                    made[id(sketched)] = nn.Parameter(copied) if is_parameter else copied
                tensors[name] = made[id(sketched)]
    return True


def _opened(path: Path):
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: the model folder is not whole")
    try:
        return safetensors.safe_open(path, framework="pt")
    except (safetensors.SafetensorError, OSError) as error:
        reason = shown(str(error), most=400)
        raise ValueError(f"{path} is truncated or not a safetensors file: {reason}") from error


def _shape(shape: tuple[int, ...]) -> str:
    return "x".join(str(side) for side in shape) or "a scalar"


def shown(value: object, most: int = 80) -> str:
    """A stranger's value in a message: on one line, without control characters, cut if long."""
    text = ascii(value)
    return text if len(text) <= most else text[: most - 3] + "..."
