"""A CUDA device that is none: tensors that say they are on it, in this machine's memory, and must not meet others.

    with TwoDevices():
        model.to("cuda")            # model.weight.device is cuda:0
        model(torch.randn(2, 3))    # RuntimeError, as on a machine that has one

Only what Python calls is looked at: the backward pass and the insides of torch's own functions are not. What is on the
device is known by storages, so that views, parameters and copies are where the tensor is that they were made of.
"""

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode, resolve_name

HERE, THERE, META = torch.device("cpu"), torch.device("cuda", 0), torch.device("meta")
MOVES = ("copy_", "__set__", "__deepcopy__", "_has_compatible_shallow_copy_type")  # take tensors of two devices
WAITING = ("item", "tolist", "__bool__", "__int__", "__float__", "__index__", "nonzero", "bincount", "unique", "equal")
GETTERS = {
    torch.Tensor.device.__get__: lambda device: device,
    torch.Tensor.is_cuda.__get__: lambda device: device == THERE,
    torch.Tensor.is_cpu.__get__: lambda device: device == HERE,
}


class TwoDevices(TorchFunctionMode):
    """In its `with` block, "cuda" is a device of its own."""

    _there: dict[int, StorageWeakRef] = {}  # noqa: RUF012  # by address, which no other gets while it is referred to

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[str] = []  # what made the program wait for the device

    def device_of(self, tensor: Tensor) -> torch.device:
        if tensor.device != HERE:
            return tensor.device
        return THERE if tensor.untyped_storage()._cdata in self._there else HERE

    def put(self, tensors: Iterable[Tensor]) -> None:
        """These are on the device from now on."""
        for tensor in tensors:
            if tensor.device == HERE:
                storage = tensor.untyped_storage()
                self._there[storage._cdata] = StorageWeakRef(storage)

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = dict(kwargs or {})
        if func in GETTERS:
            return GETTERS[func](self.device_of(args[0]))
        name = getattr(func, "__name__", "")
        if name in ("to", "cpu", "cuda") and isinstance(args[0], Tensor):
            return self._moved(args[0], name, args[1:], kwargs)
        devices = {self.device_of(tensor) for tensor in tensors_in((args, kwargs)) if tensor.device != META}
        wanted = kwargs.get("device")
        if wanted is not None and torch.device(wanted).type == "cuda":
            self._check_generator(kwargs.get("generator"))
            kwargs["device"], devices = HERE, {THERE}
        elif wanted is not None:
            devices = {torch.device(wanted)}
        elif name not in MOVES:
            self._check(func, name, args, kwargs)
        if name in ("numpy", "__array__") and THERE in devices:
            raise TypeError("can't convert cuda:0 device type tensor to numpy; use Tensor.cpu() first")
        result = func(*args, **kwargs)
        if THERE in devices and name in WAITING:
            self.waits.append(name)
        if THERE in devices and (name != "copy_" or self.device_of(args[0]) == THERE):
            self.put(tensors_in(result))
        return result

    def _moved(self, tensor: Tensor, name: str, args: tuple, kwargs: dict) -> Tensor:
        """`Tensor.to`, `cpu` or `cuda`: in other memory, here as well, where the device is another."""
        before = now = self.device_of(tensor)
        if name != "to":
            now, args = torch.device(name), ()
        elif args and isinstance(args[0], Tensor):
            now, args = self.device_of(args[0]), (args[0].dtype, *args[1:])
        elif args and (args[0] is None or isinstance(args[0], str | torch.device)):
            now, args = torch.device(args[0] or now), args[1:]
        now = torch.device(kwargs.pop("device", None) or now)
        there = now.type == "cuda"
        moved = tensor.to(HERE if there else now, *args, **kwargs)
        if there != (before == THERE) and now != META:
            if not (kwargs.get("non_blocking") or True in args):
                self.waits.append(name)
            if moved.untyped_storage()._cdata == tensor.untyped_storage()._cdata:
                moved = moved.clone(memory_format=torch.preserve_format)
        if there:
            self.put([moved])
        return moved

    def _check(self, func: Any, name: str, args: tuple, kwargs: dict) -> None:
        tensors = [t for t in tensors_in((args, kwargs)) if t.device != META]
        if name in ("__getitem__", "__setitem__") and self.device_of(tensors[0]) == THERE:  # indices may be on the CPU
            self.waits += [name for index in tensors_in(args[1]) if self.device_of(index) == HERE]
            tensors = [tensors[0], *(t for t in tensors_in(args[2:]) if t.dim())]
        where = {self.device_of(tensor) for tensor in tensors if tensor.dim() or self.device_of(tensor) == THERE}
        if len(where) > 1:
            raise RuntimeError(
                f"Expected all tensors to be on the same device, but {resolve_name(func) or func} got "
                + ", ".join(f"{tuple(t.shape)} on {self.device_of(t)}" for t in tensors)
            )

    def _check_generator(self, generator: torch.Generator | None) -> None:
        if generator is not None and generator.device.type == "cpu":
            raise RuntimeError("Expected a 'cuda' device type for generator but found 'cpu'")


def tensors_in(value: Any) -> Iterator[Tensor]:
    """The tensors in a structure of tuples, lists and dicts."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        yield from tensors_in([*value.values()])
    elif isinstance(value, list | tuple | set):
        for one in value:
            yield from tensors_in(one)
