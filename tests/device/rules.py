"""The rules of a claimed device: what is marked, what is refused, and for what the host waits.

`tests.device.claims` applies them to every call of torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from tests.device.claims import Claims

CUDA = torch.device("cuda", 0)
CPU = torch.device("cpu")
TENSOR = torch.Tensor


def _names(words: str) -> frozenset[str]:
    return frozenset(words.split())


SCALARS = _names("""
    add sub rsub subtract mul multiply div divide true_divide truediv floordiv floor_divide pow mod
    remainder maximum minimum where masked_fill clamp eq ne lt le gt ge atan2 fill lerp addcmul
    addcdiv and or xor radd rmul rtruediv rpow iadd isub imul itruediv logaddexp setitem
    _foreach_add _foreach_mul _foreach_div
""")
"""Functions that take a CPU tensor without dimensions beside tensors of a device."""
WAITS = _names("""
    item tolist __bool__ __float__ __int__ __index__ __contains__ nonzero equal allclose unique
    masked_select bincount argwhere is_nonzero
""")
"""Functions for whose answer the host waits for the device."""


SIZES = _names("expand_as view_as reshape_as")
"""Functions that read nothing but the shape of their second argument."""


def claimed(tensor: Any) -> bool:
    """Whether a tensor says that it lies on the device."""
    return isinstance(tensor, TENSOR) and "_claimed" in tensor.__dict__


def claim(tensor: torch.Tensor) -> torch.Tensor:
    tensor.__dict__["_claimed"] = True
    return tensor


def disclaim(tensor: torch.Tensor) -> torch.Tensor:
    tensor.__dict__.pop("_claimed", None)
    return tensor


class Waited(RuntimeError):
    """The host waited for the device where it must not."""


# --- rules ------------------------------------------------------------------------------------


def tensors(value: Any) -> Iterator[torch.Tensor]:
    """The tensors in arguments or results, in lists, tuples and dicts too."""
    if isinstance(value, TENSOR):
        yield value
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from tensors(item)
    elif isinstance(value, dict):
        yield from tensors(list(value.values()))


def without_device(args: tuple, kwargs: dict) -> tuple[torch.device | None, tuple, dict]:
    """The device that is asked for, and the arguments with the CPU in its place."""
    wanted = kwargs.get("device")
    if wanted is not None:
        wanted = torch.device("cuda", wanted) if isinstance(wanted, int) else torch.device(wanted)
    for arg in args:
        wanted = arg if isinstance(arg, torch.device) else wanted
    if wanted is None or wanted.type != "cuda":
        return wanted, args, dict(kwargs)
    if kwargs.get("device") is not None:
        kwargs = {**kwargs, "device": CPU}
    args = tuple(CPU if isinstance(arg, torch.device) else arg for arg in args)
    return wanted, args, dict(kwargs)


def _mixed(name: str) -> RuntimeError:
    return RuntimeError(
        "Expected all tensors to be on the same device, but found at least two devices, cuda:0 "
        f"and cpu! (in {name})"
    )


def one_device(name: str, found: Iterable[torch.Tensor], args: tuple) -> None:
    """RuntimeError for a CPU tensor beside tensors of the device, but for scalars of arithmetic."""
    bare = name.strip("_") if not name.startswith("_foreach") else name.rstrip("_")
    scalars = bare in SCALARS
    for tensor in found:
        if claimed(tensor) or tensor.device.type == "meta":
            continue
        in_place = name.endswith("_") and args and tensor is args[0]
        if tensor.ndim or not scalars or in_place:
            raise _mixed(name)


def right_generator(kwargs: dict, on_device: bool) -> None:
    generator = kwargs.get("generator")
    if generator is not None and on_device and generator.device.type != "cuda":
        raise RuntimeError("Expected a 'cuda' device type for generator but found 'cpu'")


def pinned(tensor: torch.Tensor) -> torch.Tensor:
    tensor.__dict__["_pinned"] = True
    return tensor


# --- functions with rules of their own ----------------------------------------------------------


def _device(_mode, func, args, kwargs):
    return CUDA if claimed(args[0]) else func(*args, **kwargs)


def _is_cuda(_mode, func, args, kwargs):
    return claimed(args[0])


def _is_cpu(_mode, func, args, kwargs):
    return func(*args, **kwargs) and not claimed(args[0])


def _get_device(_mode, func, args, kwargs):
    return 0 if claimed(args[0]) else func(*args, **kwargs)


def _numpy(_mode, func, args, kwargs):
    if claimed(args[0]):
        raise TypeError(
            "can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() to copy the "
            "tensor to host memory first."
        )
    return func(*args, **kwargs)


def _to(mode: Claims, func, args, kwargs):
    """`to` in all its forms: a device, a dtype, another tensor."""
    tensor, rest = args[0], args[1:]
    target, others = None, []
    for arg in (*rest, kwargs.pop("other", None)):
        if isinstance(arg, TENSOR):
            target = CUDA if claimed(arg) else arg.device
            others.append(arg.dtype)
        elif isinstance(arg, (str, torch.device)):
            target = torch.device(arg)
        elif arg is not None:
            others.append(arg)
    asked = kwargs.pop("device", None)
    target = target if asked is None else torch.device(asked)
    dtypes = [other for other in others if isinstance(other, torch.dtype)]
    flags = [other for other in others if isinstance(other, bool)]
    options = dict(kwargs)
    if dtypes:
        options["dtype"] = dtypes[0]
    options.update(zip(("non_blocking", "copy"), flags, strict=False))
    return _moved(mode, tensor, target, **options)


def _moved(mode: Claims, tensor, target, non_blocking=False, **options):
    before = claimed(tensor)
    after = before if target is None else target.type == "cuda"
    if target is not None and target.type == "meta":
        return TENSOR.to(tensor, target, **options)
    if before and not after:
        mode.wait("to the CPU")
    if after and not before and not (non_blocking and "_pinned" in tensor.__dict__):
        mode.wait("to the device, from memory that is not pinned")
    out = TENSOR.to(tensor, **options) if options else tensor
    if before != after and out is tensor:
        out = tensor.clone()
    return claim(out) if after else disclaim(out)


def _cpu(mode: Claims, func, args, kwargs):
    return _moved(mode, args[0], CPU, **kwargs)


def _cuda(mode: Claims, func, args, kwargs):
    return _moved(mode, args[0], CUDA)


def _made_from(mode: Claims, func, args, kwargs):
    """`torch.tensor` and its like, which may take tensors of any device."""
    wanted, args, kwargs = without_device(args, kwargs)
    source = any(map(claimed, tensors(args)))
    target = source if wanted is None else wanted.type == "cuda"
    if target and not source:
        mode.wait(f"{func.__name__} of numbers")
    elif source and not target:
        mode.wait("to the CPU")
    pin = kwargs.pop("pin_memory", False)
    out = func(*args, **kwargs)
    if out is args[0] and source != target:
        out = out.clone()
    out = claim(out) if target else disclaim(out) if source else out
    return pinned(out) if pin else out


def _pin_memory(_mode, func, args, kwargs):
    if claimed(args[0]):
        raise RuntimeError(
            "cannot pin 'torch.cuda.FloatTensor' only dense CPU tensors can be pinned"
        )
    return pinned(args[0].clone())


def _copy(mode: Claims, func, args, kwargs):
    """Copies cross devices; into pinned memory they arrive later, if they do not block."""
    target, source = args[:2]
    non_blocking = kwargs.get("non_blocking", args[2] if len(args) > 2 else False)
    if claimed(source) and not claimed(target):
        if non_blocking and _is_pinned(target):
            mode.queue.append((target, source.detach().clone()))
            return target.fill_(torch.nan if target.is_floating_point() else -1)
        mode.wait("copy_ to the CPU")
    blocks = not (non_blocking and _is_pinned(source))
    if claimed(target) and not claimed(source) and source.ndim and blocks:
        mode.wait("copy_ to the device, from memory that is not pinned")
    return func(*args, **kwargs)


def _is_pinned(tensor: torch.Tensor) -> bool:
    base = tensor if tensor._base is None else tensor._base
    return "_pinned" in base.__dict__


def _set_data(_mode, func, args, kwargs):
    func(*args, **kwargs)
    claim(args[0]) if claimed(args[1]) else disclaim(args[0])


def _getitem(mode: Claims, func, args, kwargs):
    """Indices may lie on the CPU, or where the tensor lies."""
    tensor, index = args
    _indices(mode, tensor, index)
    out = func(*args, **kwargs)
    return claim(out) if claimed(tensor) else out


def _setitem(mode: Claims, func, args, kwargs):
    tensor, index, value = args
    tensors = _indices(mode, tensor, index)
    if isinstance(value, TENSOR) and claimed(value) != claimed(tensor):
        if value.ndim and tensors:
            raise _mixed("index_put_")
        if value.ndim or claimed(value):
            mode.wait("__setitem__ across devices")
    return func(*args, **kwargs)


def _indices(mode: Claims, tensor, index) -> list[torch.Tensor]:
    found = list(tensors(index if isinstance(index, (tuple, list)) else (index,)))
    for each in found:
        if claimed(each) and not claimed(tensor):
            raise RuntimeError(
                "indices should be either on cpu or on the same device as the indexed tensor (cpu)"
            )
        if claimed(tensor) and not claimed(each):
            mode.wait("an index on the CPU")
        elif claimed(each) and each.dtype in (torch.bool, torch.uint8):
            mode.wait("a mask as an index")
    return found


FACTS = frozenset((
    *(getattr(TENSOR, name).__get__ for name in ("shape", "dtype", "ndim", "layout", "is_meta",
      "requires_grad", "grad_fn", "is_leaf", "itemsize", "nbytes", "_version")),
    *(getattr(TENSOR, name) for name in ("size", "dim", "stride", "numel", "is_floating_point",
      "is_contiguous", "is_complex", "__len__", "element_size", "storage_offset", "data_ptr")),
    TENSOR.requires_grad.__set__, torch.is_floating_point, torch.numel,
    # of what they are given they read less than the values
    torch._has_compatible_shallow_copy_type, torch._C._nn._parse_to, torch.device,
))  # fmt: skip
"""Functions that ask or say nothing of devices."""
SPECIAL: dict[Any, Callable] = {
    TENSOR.device.__get__: _device,
    TENSOR.is_cuda.__get__: _is_cuda,
    TENSOR.is_cpu.__get__: _is_cpu,
    TENSOR.get_device: _get_device,
    TENSOR.numpy: _numpy,
    TENSOR.__array__: _numpy,
    TENSOR.to: _to,
    TENSOR.cpu: _cpu,
    TENSOR.cuda: _cuda,
    TENSOR.pin_memory: _pin_memory,
    TENSOR.is_pinned: lambda _mode, func, args, kwargs: _is_pinned(args[0]),
    TENSOR.copy_: _copy,
    TENSOR.data.__set__: _set_data,
    TENSOR.__getitem__: _getitem,
    TENSOR.__setitem__: _setitem,
    torch.tensor: _made_from,
    torch.as_tensor: _made_from,
    torch.asarray: _made_from,
}
