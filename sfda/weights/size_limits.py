"""What a network may take while it is built: no more than the weights that will fill it justify.

A spec is a few words and may ask for anything: a million channels, a hundred thousand layers. The
libraries allocate and build what it says before a weight is compared. Here every allocation of
torch in the building thread is looked at before it is made, and layers are counted.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn.modules import module as hooks
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from sfda.errors import BadInput
from sfda.weights.bundle_files import MIB

SPARE_BYTES = 64 * MIB  # beside the weights: what a network computes for itself, once
TIMES_BYTES = 3  # a network of 32 bits out of weights of 16, and one layer twice for a moment
SPARE_PARAMETERS, TIMES_PARAMETERS = 1_000, 4
SPARE_LAYERS, TIMES_LAYERS = 5_000, 10
SPARE_OPERATIONS, TIMES_OPERATIONS = 50_000, 100  # of torch
# what they give is as large as what they get, and to tell so takes long
AS_LARGE = frozenset(
    f"aten::{name}"
    for name in (
        "_native_batch_norm_legit_no_training",
        "gelu",
        "hardswish",
        "hardtanh",
        "native_batch_norm",
        "native_group_norm",
        "native_layer_norm",
        "relu",
        "silu",
        "uniform",
    )
)
# most of what is done: they are told their sizes
SIZED = frozenset(f"aten::{name}" for name in ("empty", "full", "ones", "rand", "randn", "zeros"))
WIDEST = torch.float64
FAULTS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    MemoryError,
    RuntimeError,
    TypeError,
    ValueError,
)  # what libraries raise for numbers that make no network


@contextmanager
def bounded_build(weights: Mapping[str, Tensor], arch: str) -> Iterator[None]:
    """Inside, a network for these weights may be built. Raises BadInput where it asks for more than
    they justify, and for whatever a library says of a network that it cannot build.
    """
    watch = _Watch(weights, arch)
    try:
        with watch.counting(), watch:
            yield
    except Exception as error:
        if watch.refusal:
            raise watch.refusal from error
        if isinstance(error, BadInput) or not isinstance(error, FAULTS):
            raise
        first = (str(error).splitlines() or [""])[0][:300]
        raise BadInput(
            f"the network {arch} of this model cannot be built ({type(error).__name__}: {first}): "
            "its spec is damaged, or of another version of its library"
        ) from error
    if watch.refusal:  # where a library went on without what it was refused
        raise watch.refusal


class _Watch(TorchDispatchMode):
    """Torch's operations in this thread: what each is about to allocate, and how much lives."""

    def __init__(self, weights: Mapping[str, Tensor], arch: str) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        total = sum(tensor.nbytes for tensor in weights.values())
        self.arch = arch
        self.most_bytes = TIMES_BYTES * total + SPARE_BYTES
        self.most_parameters = TIMES_PARAMETERS * len(weights) + SPARE_PARAMETERS
        self.most_layers = TIMES_LAYERS * len(weights) + SPARE_LAYERS
        self.most_operations = TIMES_OPERATIONS * len(weights) + SPARE_OPERATIONS
        self.refusal: BadInput | None = None
        self.operations = self.parameters = self.layers = 0
        self.live: dict[int, tuple[StorageWeakRef, int]] = {}
        self.bytes = 0

    def __torch_dispatch__(
        self,
        func: OpOverload,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> object:
        """Run an operation, unless what it would give is too large."""
        kwargs = kwargs or {}
        self.operations += 1
        if self.operations > self.most_operations:
            self._refuse(f"more than {self.most_operations} steps to build")
        if func._schema.is_mutable:
            if "resize" not in func.__name__ and "out" not in func._overloadname:
                return func(*args, **kwargs)  # in place: nothing new
        else:
            self._look_ahead(func, args, kwargs)
        result = func(*args, **kwargs)
        for leaf in (result,) if isinstance(result, Tensor) else tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._note(leaf)
        return result

    @contextmanager
    def counting(self) -> Iterator[None]:
        """Inside, parameters and layers that this thread makes are counted."""
        thread = threading.get_ident()

        def here(count: Callable[[], None]) -> Callable[..., None]:
            return lambda *_: count() if threading.get_ident() == thread else None

        with ExitStack() as stack:
            stack.enter_context(
                hooks.register_module_parameter_registration_hook(here(self._count_parameter))
            )
            stack.enter_context(
                hooks.register_module_module_registration_hook(here(self._count_layer))
            )
            yield

    def _look_ahead(self, func: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Refuse an operation whose result is too large, told by shapes alone where that works."""
        if func._schema.name in SIZED and isinstance(args[0], list | tuple):
            self._check_bytes(math.prod(args[0]) * (kwargs.get("dtype") or WIDEST).itemsize)
            return
        if func._schema.name in AS_LARGE or not any(map(_is_new, func._schema.returns)):
            return
        args, kwargs = tree_map_only(Tensor, _shape_of, (args, kwargs))
        if any(argument.name == "device" for argument in func._schema.arguments):
            kwargs = {**kwargs, "device": torch.device("meta")}
        try:
            shapes = func(*args, **kwargs)
        except Exception:  # it depends on the numbers: it is looked at when it is done
            return
        size = sum(leaf.nbytes for leaf in tree_leaves(shapes) if isinstance(leaf, Tensor))
        self._check_bytes(size)

    def _note(self, tensor: Tensor) -> None:
        if tensor.is_meta or tensor.layout is not torch.strided:
            return
        storage = tensor.untyped_storage()
        size = storage.nbytes()
        _, before = self.live.get(storage._cdata, (None, 0))
        if size != before:
            self.live[storage._cdata] = StorageWeakRef(storage), size
            self.bytes += size - before
            self._check_bytes(0)

    def _check_bytes(self, more: int) -> None:
        if self.bytes + more > self.most_bytes:
            self.live = {k: entry for k, entry in self.live.items() if not entry[0].expired()}
            self.bytes = sum(size for _, size in self.live.values())
        if self.bytes + more > self.most_bytes:
            self._refuse(f"{(self.bytes + more) // MIB} MiB and more")

    def _count_parameter(self) -> None:
        self.parameters += 1
        if self.parameters > self.most_parameters:
            self._refuse(f"more than {self.most_parameters} parameters")

    def _count_layer(self) -> None:
        self.layers += 1
        if self.layers > self.most_layers:
            self._refuse(f"more than {self.most_layers} layers")

    def _refuse(self, asked: str) -> None:
        self.refusal = BadInput(
            f"the spec of this model asks {self.arch} for {asked}, which its weights cannot fill: "
            "the bundle is damaged, or made to exhaust this machine"
        )
        raise self.refusal


def _is_new(returned: torch.Argument) -> bool:
    """Whether what an operation returns is a tensor, or some, in memory of their own."""
    return returned.alias_info is None and "Tensor" in str(returned.type)


def _shape_of(tensor: Tensor) -> Tensor:
    return torch.empty_strided(
        tensor.shape, tensor.stride(), dtype=tensor.dtype, device=torch.device("meta")
    )
