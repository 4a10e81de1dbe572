"""Pickles read without running anything: tensors and plain containers come out, all else is inert.

Whatever class or function a pickle names, it gets a word of ours for it, which keeps what it is
made from and does nothing. What a network's weights lie beside (the arguments of a script, a log of
training, numbers of numpy, paths) is read so. A pickle that names what runs programs is refused.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from sfda.bounds.budget import Budget

# packages whose functions are named by those who want something run
PROGRAMS = frozenset(
    (
        *("asyncio", "code", "codeop", "commands", "ctypes", "dill", "cloudpickle", "imp"),
        *("importlib", "multiprocessing", "nt", "os", "pdb", "pip", "pkgutil", "popen2", "posix"),
        *("pty", "pydoc", "runpy", "shutil", "signal", "site", "socket", "ssl", "subprocess"),
        *("sys", "threading", "timeit", "urllib", "venv", "webbrowser"),
    )
)
RUNNING = frozenset(
    (
        *("builtins.eval", "builtins.exec", "builtins.compile", "builtins.__import__"),
        *("builtins.open", "builtins.input", "builtins.breakpoint", "builtins.globals"),
        *("builtins.locals", "torch.hub.load", "torch.load", "pickle.load", "pickle.loads"),
        *("pickle._loads", "numpy.load", "torch.jit.load", "operator.methodcaller"),
        *("operator.attrgetter", "torch.serialization.load"),
    )
)
PLAIN_KEYS = (str, bool, bytes, type(None))
EXACT = 2**53  # numbers beyond it may all share one hash, as keys


class Refused(Exception):
    """A pickle names something that runs programs; the message is that name."""


class Readable(Protocol):
    """An opened file, as a pickle is read from one."""

    def read(self, size: int, /) -> bytes:
        """So many bytes at most."""

    def readline(self) -> bytes:
        """Up to the end of a line."""


class Inert(dict[Any, Any]):
    """An object that was not made: the name of its class, what it was made from, its state; items
    that were put into it are kept, so that a dict of any kind can be looked into.
    """

    __slots__ = ("args", "name", "state")

    def __init__(self, name: str, args: tuple[Any, ...] = ()) -> None:
        super().__init__()
        self.name, self.args = name, args
        self.state: Any = None

    __hash__ = object.__hash__  # type: ignore[assignment]
    __eq__ = object.__eq__
    __ne__ = object.__ne__


class Word:
    """The name of a class or a function in a pickle; called, it gives an inert object or a tensor
    of the buffer that it is made from.
    """

    __slots__ = ("budget", "name")

    def __init__(self, name: str, budget: Budget) -> None:
        self.name, self.budget = name, budget

    def __call__(self, *args: Any) -> object:
        """What a pickle makes by this name."""
        if self.name in REBUILT:
            return REBUILT[self.name](*args)
        if self.name in MADE_OF_BYTES:
            return MADE_OF_BYTES[self.name](self.budget, *args)
        made = Inert(self.name, args)
        if self.name == "collections.OrderedDict" and args and isinstance(args[0], list):
            self.budget.step(len(args[0]))
            made.update({_key(k): v for k, v in args[0]})  # as Python 2 wrote it
        return made


def _tensor(
    storage: object, offset: int, size: Sequence[int], stride: Sequence[int], *_: object
) -> Tensor:
    """A view of a buffer. Raises RuntimeError beyond its ends."""
    if not isinstance(storage, Tensor):
        raise TypeError(f"a tensor is made of a {type(storage).__name__}")
    return storage.as_strided(tuple(size), tuple(stride), offset)


def _retyped(storage: object, *view: Any) -> Tensor:
    """The same of a buffer of bytes, whose numbers are of a type that is said."""
    offset, size, stride, _, _, dtype, *_ = view
    kind = getattr(torch, getattr(dtype, "name", "").removeprefix("torch."), None)
    if not isinstance(storage, Tensor) or not isinstance(kind, torch.dtype):
        raise TypeError("a tensor is made of what is no buffer")
    return _tensor(storage.view(kind), offset, size, stride)


def _itself(tensor: object, *_: object) -> object:
    return tensor


def _of_kind(make: object, _: object, args: tuple[Any, ...], *__: object) -> object:
    """A tensor of a class of its own, as the plain one."""
    return make(*args) if isinstance(make, Word) and make.name in REBUILT_PLAIN else Inert("")


def _latin(budget: Budget, text: object = "", *_: object) -> object:
    if not isinstance(text, str):
        return b""
    budget.make(len(text))
    return text.encode("latin1")


REBUILT: dict[str, Callable[..., object]] = {
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor_v3": _retyped,
    "torch._utils._rebuild_parameter": _itself,
    "torch._utils._rebuild_parameter_with_state": _itself,
    "torch._tensor._rebuild_from_type_v2": _of_kind,
    "torch.nn.parameter.Parameter": _itself,
}
REBUILT_PLAIN = frozenset(name for name, make in REBUILT.items() if make is not _of_kind)
# what may make many bytes out of few
MADE_OF_BYTES: dict[str, Callable[..., object]] = {"_codecs.encode": _latin}


class Counted:
    """What a pickle is read from, an error where it takes more steps than any checkpoint does."""

    def __init__(self, file: Readable, budget: Budget) -> None:
        self._file, self._budget = file, budget

    def read(self, size: int) -> bytes:
        """So many bytes at most. Raises Unreadable."""
        self._budget.step()
        return self._file.read(size)

    def readline(self) -> bytes:
        """Up to the end of a line."""
        return self._file.readline()


class InertUnpickler(pickle._Unpickler):
    """Reads a pickle; every way by which one makes, calls or changes things is closed or ours.

    `storage` gives the buffer of a persistent id. Raises Refused, Unreadable, and whatever Python
    raises for what is no pickle.
    """

    dispatch: ClassVar[dict[int, Callable[[Any], None]]] = dict(pickle._Unpickler.dispatch)
    # what the base class has while it reads
    stack: list[Any]
    append: Callable[[Any], None]
    pop_mark: Callable[[], list[Any]]
    read: Callable[[int], bytes]
    readline: Callable[[], bytes]

    def __init__(
        self,
        file: Readable,
        budget: Budget,
        storage: Callable[[tuple[Any, ...]], Tensor] | None = None,
    ) -> None:
        super().__init__(Counted(file, budget), encoding="latin1")
        self._storage, self._budget = storage, budget

    def find_class(self, module: str, name: str) -> Any:
        """A word for whatever is named."""
        module = {"__builtin__": "builtins", "copy_reg": "copyreg"}.get(module, module)
        full = f"{module}.{name}"
        if module.partition(".")[0] in PROGRAMS or full in RUNNING:
            raise Refused(full)
        return Word(full, self._budget)

    def persistent_load(self, pid: Any) -> Any:
        """The buffer that a torch file has beside its pickle."""
        if self._storage is None or not isinstance(pid, tuple):
            raise pickle.UnpicklingError("it points to what is not in it")
        return self._storage(pid)

    def _call(self, what: object, args: object) -> None:
        if not isinstance(what, Word) or not isinstance(args, tuple):
            raise pickle.UnpicklingError("it calls what is no class")
        self.append(what(*args))

    def _reduce(self) -> None:
        args = self.stack.pop()
        self._call(self.stack.pop(), args)

    def _newobj_ex(self) -> None:
        self.stack.pop()
        self._reduce()

    def _obj(self) -> None:
        what, *args = self.pop_mark()
        self._call(what, tuple(args))

    def _inst(self) -> None:
        module, name = (self.readline()[:-1].decode("ascii") for _ in range(2))
        self._call(self.find_class(module, name), tuple(self.pop_mark()))

    def _build(self) -> None:
        state = self.stack.pop()
        if isinstance(self.stack[-1], Inert):
            self.stack[-1].state = state

    def _put(self, items: Sequence[Any]) -> None:
        into = self.stack[-1]
        if not isinstance(into, dict) or len(items) % 2:
            raise pickle.UnpicklingError("it puts items into what is no dict")
        into.update({_key(k): v for k, v in zip(items[::2], items[1::2], strict=True)})

    def _setitem(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._put((key, value))

    def _setitems(self) -> None:
        self._put(self.pop_mark())

    def _dict(self) -> None:
        items = self.pop_mark()
        self.append({})
        self._put(items)

    def _extend(self, values: Sequence[Any]) -> None:
        if isinstance(self.stack[-1], list):
            self.stack[-1].extend(values)
        elif not isinstance(self.stack[-1], Inert):
            raise pickle.UnpicklingError("it appends to what is no list")

    def _append(self) -> None:
        self._extend((self.stack.pop(),))

    def _appends(self) -> None:
        self._extend(self.pop_mark())

    def _empty_set(self) -> None:
        self.append(Inert("builtins.set"))

    def _frozenset(self) -> None:
        self.append(Inert("builtins.frozenset", tuple(self.pop_mark())))

    def _frame(self) -> None:
        self.read(8)

    def _bytearray8(self) -> None:
        self.append(self.read(int.from_bytes(self.read(8), "little")))

    def _closed(self) -> None:
        raise pickle.UnpicklingError("it uses a registry of this process")


for _code, _step in {
    pickle.REDUCE: InertUnpickler._reduce,
    pickle.NEWOBJ: InertUnpickler._reduce,
    pickle.NEWOBJ_EX: InertUnpickler._newobj_ex,
    pickle.OBJ: InertUnpickler._obj,
    pickle.INST: InertUnpickler._inst,
    pickle.BUILD: InertUnpickler._build,
    pickle.SETITEM: InertUnpickler._setitem,
    pickle.SETITEMS: InertUnpickler._setitems,
    pickle.DICT: InertUnpickler._dict,
    pickle.APPEND: InertUnpickler._append,
    pickle.APPENDS: InertUnpickler._appends,
    pickle.ADDITEMS: InertUnpickler._appends,
    pickle.EMPTY_SET: InertUnpickler._empty_set,
    pickle.FROZENSET: InertUnpickler._frozenset,
    pickle.FRAME: InertUnpickler._frame,
    pickle.BYTEARRAY8: InertUnpickler._bytearray8,
    pickle.EXT1: InertUnpickler._closed,
    pickle.EXT2: InertUnpickler._closed,
    pickle.EXT4: InertUnpickler._closed,
    pickle.NEXT_BUFFER: InertUnpickler._closed,
}.items():
    InertUnpickler.dispatch[_code[0]] = _step


def _key(key: object) -> object:
    """A key that is quick to look up; others (tuples in tuples) stand for themselves alone."""
    if isinstance(key, int | float) and -EXACT <= key <= EXACT:
        return key
    return key if isinstance(key, (*PLAIN_KEYS, Inert)) else Inert("key")
