"""Pickles, read without executing any of them.

A pickle is a program for a machine with a stack, and two of its instructions call whatever the
program names. The machine here has no such instruction. It builds dicts, lists and tensors,
keeps a stand-in for each other object, and refuses a file that wants a function to be called.
``torch.load`` with ``weights_only=True`` comes near to it, but refuses TorchScript and most
files of PyTorch Lightning, widens its list for the whole process, and allocates what an old
file claims before it looks.
"""

import math
import pickletools
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import IO, Any

import torch
from torch import Tensor

_DTYPES = {
    "torch.BFloat16Storage": torch.bfloat16,
    "torch.BoolStorage": torch.bool,
    "torch.ByteStorage": torch.uint8,
    "torch.CharStorage": torch.int8,
    "torch.DoubleStorage": torch.float64,
    "torch.FloatStorage": torch.float32,
    "torch.HalfStorage": torch.float16,
    "torch.IntStorage": torch.int32,
    "torch.LongStorage": torch.int64,
    "torch.ShortStorage": torch.int16,
}

# Calls that make plain objects, for each of which a stand-in is kept. They are not made
# either; the list is there so that a file with any other call is refused and its call named.
_STOOD_IN_FOR = re.compile(
    r"(__builtin__|builtins)\.(bytearray|complex|frozenset|range|set|slice)$"
    r"|(argparse|collections|datetime|enum|pathlib|typing|uuid)\."
    r"|(lightning|lightning_fabric|omegaconf|pytorch_lightning|timm|torchvision)\."
    r"|(copyreg|copy_reg)\._reconstructor$|_codecs\.encode$|functools\.partial$|operator\.getitem$"
    r"|numpy\.(_?core\.(multiarray|numeric)\.|dtype$|dtypes\.|ndarray$)"
    r"|torch\.(_utils\._|device$|jit\._pickle\.|Size$|serialization\._get_layout$)"
)


class UnsafePickleError(ValueError):
    """A pickle wants a function to be called."""


@dataclass(frozen=True)
class Global:
    """A class or function that a file names, and that is not looked up."""

    name: str


class StandIn(dict[Any, Any]):
    """In place of an object of any class: its attributes and items.

    Parameters
    ----------
    name : str
        Of the class.
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name


class Machine:
    """Runs pickles, as far as that can be done without calling anything.

    Parameters
    ----------
    n_bytes : int
        How many bytes all storages together may have.
    fill : callable
        Takes the key of a storage, and the tensor of its numbers to be filled.
    """

    def __init__(self, n_bytes: int, fill: Callable[[str, Tensor], None]) -> None:
        self.storages: dict[str, Tensor] = {}
        self._n_bytes_left = n_bytes
        self._fill = fill

    def run(self, pickle: IO[bytes]) -> Any:
        """Read one pickle, to its end.

        Parameters
        ----------
        pickle : file
            Open at its beginning.

        Returns
        -------
        content : object

        Raises
        ------
        UnsafePickleError
            If it wants a function to be called.
        Exception
            Of many types, if it is damaged.
        """
        self._stack: list[Any] = []
        self._marks: list[int] = []
        self._memo: dict[int, Any] = {}
        for instruction, argument, _ in pickletools.genops(pickle):
            if instruction.name in _PUSH_ARGUMENT:
                self._stack.append(argument)
            elif instruction.name in _PUSH_NEW:
                self._stack.append(_PUSH_NEW[instruction.name]())
            elif instruction.name in _TUPLES:
                self._take_tuple(_TUPLES[instruction.name])
            elif instruction.name in _DO:
                _DO[instruction.name](self, argument)
            elif instruction.name not in ("PROTO", "FRAME", "STOP"):
                raise ValueError(f"it holds a pickle with {instruction.name}, which is not read")
        return self._stack.pop()

    def _mark(self, argument: Any) -> None:
        self._marks.append(len(self._stack))

    def _since_mark(self) -> list[Any]:
        start = self._marks.pop()
        items = self._stack[start:]
        del self._stack[start:]
        return items

    def _put(self, argument: Any) -> None:
        self._memo[len(self._memo) if argument is None else argument] = self._stack[-1]

    def _get(self, argument: Any) -> None:
        self._stack.append(self._memo[argument])

    def _tuple_since_mark(self, argument: Any) -> None:
        self._stack.append(tuple(self._since_mark()))

    def _take_tuple(self, n_items: int) -> None:
        self._stack[-n_items:] = [tuple(self._stack[-n_items:])]

    def _append(self, argument: Any) -> None:
        self._extend([self._stack.pop()])

    def _appends(self, argument: Any) -> None:
        self._extend(self._since_mark())

    def _extend(self, items: list[Any]) -> None:
        if isinstance(self._stack[-1], list):
            self._stack[-1].extend(items)

    def _set_item(self, argument: Any) -> None:
        value, key = self._stack.pop(), self._stack.pop()
        self._update([key, value])

    def _set_items(self, argument: Any) -> None:
        self._update(self._since_mark())

    def _update(self, items: list[Any]) -> None:
        """Set items under plain keys: to hash a deep tuple can overflow the C stack."""
        pairs = zip(items[::2], items[1::2], strict=True)
        self._stack[-1].update({k: v for k, v in pairs if isinstance(k, str | int)})

    def _name(self, argument: str | None) -> None:
        if argument is None:
            name, module = self._stack.pop(), self._stack.pop()
            argument = f"{module} {name}"
        self._stack.append(Global(argument.replace(" ", ".")))

    def _new_object(self, argument: Any) -> None:
        _, kind = self._stack.pop(), self._stack.pop()
        self._stack.append(StandIn(kind.name))

    def _build(self, argument: Any) -> None:
        state = self._stack.pop()
        if isinstance(self._stack[-1], StandIn):
            for attributes in state if isinstance(state, tuple) else (state,):
                self._stack[-1].update(attributes if isinstance(attributes, dict) else {})

    def _call(self, argument: Any) -> None:
        arguments, function = self._stack.pop(), self._stack.pop()
        self._stack.append(_stand_in_for_call(function.name, arguments))

    def _storage(self, argument: Any) -> None:
        match self._stack.pop():
            case ("storage", Global(kind), str(key), _, int(n_numbers), *views) if not any(views):
                self._stack.append(self._storage_of(key, _DTYPES[kind], n_numbers))
            case ("module", Global() as kind, *_):
                self._stack.append(kind)
            case _:
                raise ValueError("it refers to something that is no storage of numbers")

    def _storage_of(self, key: str, dtype: torch.dtype, n_numbers: int) -> Tensor:
        if key not in self.storages:
            self._n_bytes_left -= n_numbers * dtype.itemsize
            if n_numbers < 0 or self._n_bytes_left < 0:
                raise ValueError("its tensors claim more bytes than it has")
            self.storages[key] = torch.empty(n_numbers, dtype=dtype)
            self._fill(key, self.storages[key])
        flat = self.storages[key]
        if flat.dtype != dtype or flat.numel() != n_numbers:
            raise ValueError(f"storage {key} is claimed to be two things")
        return flat


_PUSH_ARGUMENT = frozenset(
    "BININT BININT1 BININT2 LONG1 LONG4 BINFLOAT BINSTRING SHORT_BINSTRING BINBYTES "
    "SHORT_BINBYTES BINUNICODE SHORT_BINUNICODE BINUNICODE8".split()
)
_PUSH_NEW: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_TUPLE": tuple,
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
    "EMPTY_SET": list,
}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_DO: dict[str, Callable[[Machine, Any], None]] = {
    "MARK": Machine._mark,
    "BINPUT": Machine._put,
    "LONG_BINPUT": Machine._put,
    "MEMOIZE": Machine._put,
    "BINGET": Machine._get,
    "LONG_BINGET": Machine._get,
    "TUPLE": Machine._tuple_since_mark,
    "APPEND": Machine._append,
    "APPENDS": Machine._appends,
    "ADDITEMS": Machine._appends,
    "FROZENSET": Machine._tuple_since_mark,
    "SETITEM": Machine._set_item,
    "SETITEMS": Machine._set_items,
    "GLOBAL": Machine._name,
    "STACK_GLOBAL": Machine._name,
    "NEWOBJ": Machine._new_object,
    "BUILD": Machine._build,
    "REDUCE": Machine._call,
    "BINPERSID": Machine._storage,
}


def _stand_in_for_call(name: str, arguments: tuple[Any, ...]) -> Any:
    if name in _MADE:
        return _MADE[name](*arguments)
    if not _STOOD_IN_FOR.match(name):
        raise UnsafePickleError(
            f"it holds more than tensors and plain values: it wants {name} to be called"
        )
    made = StandIn(name)
    if name.endswith("._reconstructor"):  # of objects: their class is the first argument
        made.name = arguments[0].name
    return made


def _tensor(flat: Tensor, offset: int, size: Any, stride: Any, *_: Any) -> Tensor:
    """A view of numbers that are all there: neither beyond the storage nor more than it."""
    numbers = (offset, *size, *stride)
    if not all(isinstance(n, int) and 0 <= n < 2**63 for n in numbers):
        raise ValueError(f"a tensor has the impossible shape {size}")
    n_numbers = math.prod(size)
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if n_numbers > flat.numel() or (n_numbers and last >= flat.numel()):
        raise ValueError(f"a tensor of shape {size} is larger than its {flat.numel()} numbers")
    return flat.as_strided(size, stride, offset)


def _ordered_dict(pairs: Any = ()) -> dict[Any, Any]:
    """Python 2 saved an OrderedDict as a call with its items."""
    return {key: value for key, value in pairs if isinstance(key, str | int)}


_MADE: dict[str, Callable[..., Any]] = {
    "collections.Counter": lambda *_: {},
    "collections.OrderedDict": _ordered_dict,
    "collections.defaultdict": lambda *_: {},
    "torch._tensor._rebuild_from_type_v2": (
        lambda function, kind, arguments, state: _stand_in_for_call(function.name, arguments)
    ),
    "torch._utils._rebuild_parameter": lambda tensor, *_: tensor,
    "torch._utils._rebuild_parameter_with_state": lambda tensor, *_: tensor,
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
}
