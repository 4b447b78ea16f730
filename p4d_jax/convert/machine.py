"""A pickle machine of our own: it makes data of a pickle and has no way to run anything else.

A pickle is a program for a stack machine. It names importable things (GLOBAL), calls them (REDUCE, OBJ, INST,
NEWOBJ) and hands them a state (BUILD). Here a named thing is a `Name`, two strings. Calls go to a fixed table
of constructors of ours, an object of any other class becomes a `Record` of what its pickle says of it, and a
call of any other name is refused. Nothing is imported or looked up by name, whatever the pickle says.

All that a pickle can claim is bounded before it is believed: bytes must be in the file, keys of dicts and
members of sets are plain values (a tuple of tuples of tuples... takes forever to hash), and the number of
instructions has a limit, which bounds memory and time; what copies its arguments costs as many more as they
are long. Large byte strings stay in the file as `Extent`.
"""

from __future__ import annotations

import codecs
import contextlib
import struct
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from p4d_jax.convert.extents import Broken, Extent, Stream
from p4d_jax.errors import UserError

_LAZY_BYTES = 1 << 12  # byte strings from this size on are left in the file
_MAX_TEXT = 1 << 28
_MAX_NAME = 1 << 12
_MAX_INTEGER = 1 << 8  # bytes of an int
_MAX_KEY = 16  # members of a tuple as a key
# A released network takes about a hundred thousand. 2 million plain objects take a few hundred MB.
MAX_INSTRUCTIONS = 2_000_000
# Python 2 wrote strings as bytes; NumPy arrays inside such pickles decode only as latin1.
ENCODING = "latin1"


class Refused(ValueError):
    """The pickle asks for something that is not data."""


class Name(NamedTuple):
    """An importable thing that a pickle names; it is never imported."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@dataclass(eq=False, repr=False, slots=True)
class Record:
    """An object of a class that we do not import: what its pickle says of it.

    Attributes:
      cls: its class.
      arguments: of its class's `__new__`.
      state: usually the dict of its attributes.
      items, elements: of a subclass of dict or list.
    """

    cls: Name
    arguments: tuple = ()
    state: Any = None
    items: dict = field(default_factory=dict)
    elements: list = field(default_factory=list)

    def set_state(self, state: Any) -> None:
        """Takes a state: attributes by dict or, of a class with `__slots__`, a pair of dicts; or anything."""
        if isinstance(state, tuple) and len(state) == 2 and all(isinstance(s, dict | None) for s in state):
            state = {**(state[0] or {}), **(state[1] or {})}
        self.state = state


class Budget:
    """How many instructions a file may still take, and how deeply files lie in each other."""

    def __init__(self, instructions: int = MAX_INSTRUCTIONS) -> None:
        self.limit, self.left, self.depth = instructions, instructions, 0

    def spend(self, cost: int = 1) -> None:
        """Counts an instruction, or what counts like so many."""
        self.left -= cost
        if self.left < 0:
            raise Refused(f"more than {self.limit} instructions' worth of objects")

    def spend_on_copies(self, value: Any) -> None:
        """Counts what it takes to copy a value and, of a tuple, what lies in it."""
        self.spend(_length(value) + (sum(map(_length, value)) if isinstance(value, tuple) else 0))


def _length(value: Any) -> int:
    if isinstance(value, str | bytes):
        return len(value) >> 8
    return len(value) if isinstance(value, tuple | list | dict | set | frozenset) else 0


@dataclass(frozen=True)
class Vocabulary:
    """What pickles may do.

    Attributes:
      calls: name -> our constructor, which is given the arguments as they are in the pickle.
      states: type of such an object -> how it takes a state. Records and dicts need none.
    """

    calls: Mapping[Name, Callable[..., Any]]
    states: Mapping[type, Callable[[Any, Any], None]] = field(default_factory=dict)

    def __or__(self, other: Vocabulary) -> Vocabulary:
        return Vocabulary({**self.calls, **other.calls}, {**self.states, **other.states})


def new_object(cls: Any, *arguments: Any) -> Any:
    """NEWOBJ: what `cls.__new__(cls, *arguments)` stands for here."""
    if not isinstance(cls, Name):
        raise Refused(f"an object of class {type(cls).__name__}")
    if cls in PLAIN_DICTS:
        return {}
    return Record(cls, arguments)


def _reconstructor(cls: Any, base: Any, state: Any) -> Any:
    """`copyreg._reconstructor`: protocols 0 and 1 make objects by it."""
    made = new_object(cls)
    if isinstance(state, dict):
        (made if isinstance(made, dict) else made.items).update(state)
    elif isinstance(state, list) and isinstance(made, Record):
        made.elements.extend(state)
    elif state is not None and isinstance(made, Record):
        made.arguments = (state,)
    return made


def _new_object_ex(cls: Any, arguments: Any, keywords: Any) -> Any:
    """NEWOBJ_EX: the keywords count as one more argument."""
    return new_object(cls, *arguments, *([keywords] if keywords else []))


def _partial(function: Any) -> Record:
    """`functools.partial`, which is not called: a record of its state."""
    return Record(Name("functools", "partial"), (function,))


def _encode(text: str, encoding: str = ENCODING) -> bytes:
    if encoding not in ("latin1", "latin-1", "utf-8"):
        raise Refused(f"the text encoding {str(encoding)[:40]!r}")
    return text.encode(encoding)


def _bytes(data: Any = b"", encoding: str = ENCODING) -> Any:
    if isinstance(data, str):
        return _encode(data, encoding)
    if not isinstance(data, bytes | Extent):
        raise Refused(f"bytes of a {type(data).__name__}")
    return data


def _ordered_dict(pairs: Any = ()) -> OrderedDict:
    made = OrderedDict()
    for key, value in pairs.items() if isinstance(pairs, dict) else sequence(pairs):
        made[check_key(key)] = value
    return made


def _set(members: Any = ()) -> set:
    return {check_key(member) for member in sequence(members)}


def _complex(real: float, imaginary: float) -> complex:
    return complex(float(real), float(imaginary))


def check_key(key: Any) -> Any:
    """A key of a dict or a member of a set: a plain value, a name, or a tuple of such."""
    members = key if type(key) is tuple else (key,)
    if not all(member is None or type(member) in _KEYS for member in members) or len(members) > _MAX_KEY:
        raise Refused("a dict or set of anything but numbers, texts and their tuples")
    # Beyond, as many numbers as one likes have the same hash.
    if any(type(member) is int and abs(member) >= 1 << 60 for member in members):
        raise Refused("a dict or set of huge numbers")
    return key


def sequence(value: Any) -> Any:
    """An argument that is to be iterated: a container, for which the budget has been asked."""
    if not isinstance(value, list | tuple | dict | set | frozenset):
        raise Broken(f"members of a {type(value).__name__}")
    return value


_KEYS = (str, int, float, bool, bytes, Name)
# Subclasses of dict that hold nothing but their items.
PLAIN_DICTS = frozenset(
    Name(module, name)
    for module, name in (("dnnlib.util", "EasyDict"), ("dnnlib", "EasyDict"), ("builtins", "dict"))
)


def _base_calls() -> dict[Name, Callable[..., Any]]:
    made: dict[Name, Callable[..., Any]] = {
        Name("collections", "OrderedDict"): _ordered_dict,
        Name("collections", "defaultdict"): lambda factory=None: {},
        Name("collections", "deque"): lambda members=(), limit=None: list(sequence(members)),
        Name("_codecs", "encode"): _encode,
        Name("functools", "partial"): _partial,
    }
    for module in ("copyreg", "copy_reg"):
        made[Name(module, "_reconstructor")] = _reconstructor
        made[Name(module, "__newobj__")] = new_object
        made[Name(module, "__newobj_ex__")] = _new_object_ex
    for module in ("builtins", "__builtin__"):
        made[Name(module, "set")] = _set
        made[Name(module, "frozenset")] = lambda members=(): frozenset(_set(members))
        made[Name(module, "list")] = lambda members=(): list(sequence(members))
        made[Name(module, "tuple")] = lambda members=(): tuple(sequence(members))
        made[Name(module, "dict")] = lambda pairs=(): dict(_ordered_dict(pairs))
        made[Name(module, "complex")] = _complex
        made[Name(module, "bytes")] = _bytes
        made[Name(module, "bytearray")] = _bytes
    return made


PYTHON = Vocabulary(_base_calls())


def _no_persistent_id(pid: Any) -> Any:
    raise Refused("a persistent object")


class Machine:
    """Runs the pickle at the stream's position.

    Args:
      stream: left just behind the pickle's STOP.
      vocabulary: what the pickle may do.
      budget: shared by all the pickles of a file.
      persistent: makes an object of a persistent id.
    """

    def __init__(
        self,
        stream: Stream,
        vocabulary: Vocabulary,
        budget: Budget,
        persistent: Callable[[Any], Any] = _no_persistent_id,
    ) -> None:
        self._stream, self._vocabulary, self._budget = stream, vocabulary, budget
        self._persistent = persistent
        self._stack: list = []
        self._below: list[list] = []  # the stacks under each MARK
        self._memo: dict[int, Any] = {}

    def load(self) -> Any:
        """The object that the pickle describes.

        Raises:
          Refused: it asks for anything but data.
          Exception: it is broken, in any of the ways that its instructions can fail.
        """
        read, spend = self._stream.read, self._budget.spend
        while True:
            code = read(1)
            spend()
            if code == b".":
                if len(self._stack) != 1 or self._below:
                    raise Broken("a pickle that ends in the middle")
                return self._stack[0]
            instruction = _INSTRUCTIONS.get(code)
            if instruction is None:
                raise Refused(f"the instruction {code!r}")
            instruction(self)

    # Calls -------------------------------------------------------------------------------------------------

    def _call(self, function: Any, arguments: Any) -> Any:
        if not isinstance(function, Name):
            raise Refused(f"a call of a {type(function).__name__}")
        constructor = self._vocabulary.calls.get(function)
        if constructor is None:
            raise Refused(f"a call of {function}")
        if not isinstance(arguments, tuple):
            raise Broken(f"a call of {function} without arguments")
        self._budget.spend_on_copies(arguments)
        return constructor(*arguments)

    def _reduce(self) -> None:
        arguments, function = self._stack.pop(), self._stack.pop()
        self._stack.append(self._call(function, arguments))

    def _instantiate(self, cls: Any, arguments: list) -> None:
        # Without arguments Python makes the object and does not call the class.
        if arguments or (isinstance(cls, Name) and cls in self._vocabulary.calls):
            self._stack.append(self._call(cls, tuple(arguments)))
        else:
            self._stack.append(new_object(cls))

    def _inst(self) -> None:
        cls = self._read_name()
        self._instantiate(cls, self._pop_mark())

    def _obj(self) -> None:
        cls, *arguments = self._pop_mark()
        self._instantiate(cls, arguments)

    def _new(self) -> None:
        arguments, cls = self._stack.pop(), self._stack.pop()
        self._stack.append(self._new_or_call(cls, arguments))

    def _new_or_call(self, cls: Any, arguments: Any) -> Any:
        if isinstance(cls, Name) and cls in self._vocabulary.calls:
            return self._call(cls, arguments)
        self._budget.spend_on_copies(arguments)
        return new_object(cls, *arguments)

    def _new_ex(self) -> None:
        keywords, arguments, cls = self._stack.pop(), self._stack.pop(), self._stack.pop()
        self._stack.append(self._new_or_call(cls, (*arguments, *([keywords] if keywords else []))))

    def _build(self) -> None:
        state, made = self._stack.pop(), self._stack[-1]
        self._budget.spend_on_copies(state)
        if isinstance(made, Record):
            made.set_state(state)
        elif (setter := self._vocabulary.states.get(type(made))) is not None:
            setter(made, state)
        elif not (isinstance(made, dict) and isinstance(state, dict)):
            # The attributes of a dict (PyTorch's `_metadata`) are nothing that we need.
            raise Refused(f"a state for a {type(made).__name__}")

    # Names and ids -----------------------------------------------------------------------------------------

    def _read_name(self) -> Name:
        module, name = (self._stream.readline(_MAX_NAME).decode() for _ in range(2))
        return Name(module, name)

    def _global(self) -> None:
        self._stack.append(self._read_name())

    def _stack_global(self) -> None:
        name, module = self._stack.pop(), self._stack.pop()
        if not (isinstance(name, str) and isinstance(module, str)):
            raise Broken("a name that is no text")
        self._stack.append(Name(module, name))

    def _persid(self) -> None:
        self._stack.append(self._persistent(self._stream.readline(_MAX_NAME).decode()))

    def _binpersid(self) -> None:
        self._stack.append(self._persistent(self._stack.pop()))

    # Stack and memo ----------------------------------------------------------------------------------------

    def _mark(self) -> None:
        self._below.append(self._stack)
        self._stack = []

    def _pop_mark(self) -> list:
        items, self._stack = self._stack, self._below.pop()
        return items

    def _pop(self) -> None:
        if self._stack:
            self._stack.pop()
        else:
            self._pop_mark()

    def _dup(self) -> None:
        self._stack.append(self._stack[-1])

    def _memoize(self) -> None:
        self._memo[len(self._memo)] = self._stack[-1]

    # Containers --------------------------------------------------------------------------------------------

    def _tuple(self, count: int) -> None:
        if len(self._stack) < count:
            raise Broken("a tuple of more than there is")
        items = self._stack[-count:]
        del self._stack[-count:]
        self._stack.append(tuple(items))

    def _extend(self, items: list) -> None:
        target = self._stack[-1]
        if isinstance(target, Record):
            target = target.elements
        if not isinstance(target, list):
            raise Refused(f"elements for a {type(target).__name__}")
        target.extend(items)

    def _set_items(self, items: list) -> None:
        target = self._stack[-1]
        if isinstance(target, Record):
            target = target.items
        if not isinstance(target, dict) or len(items) % 2:
            raise Refused(f"items for a {type(target).__name__}")
        for key, value in zip(items[::2], items[1::2], strict=True):
            target[check_key(key)] = value

    def _add_items(self) -> None:
        items, target = self._pop_mark(), self._stack[-1]
        if not isinstance(target, set):
            raise Refused(f"members for a {type(target).__name__}")
        target.update(check_key(item) for item in items)

    # Values ------------------------------------------------------------------------------------------------

    def _number(self, layout: str) -> Any:
        return struct.unpack(layout, self._stream.read(struct.calcsize(layout)))[0]

    def _long(self, size: int) -> int:
        if not 0 <= size <= _MAX_INTEGER:
            raise Refused(f"a whole number of {size} bytes")
        return int.from_bytes(self._stream.read(size), "little", signed=True)

    def _text(self, size: int) -> str:
        if size > _MAX_TEXT:
            raise Refused(f"a text of {size} bytes")
        return self._stream.read(size).decode("utf-8", "surrogatepass")

    def _byte_string(self, size: int) -> bytes | Extent:
        """Bytes; many of them stay in the file."""
        return self._stream.read(size) if size < _LAZY_BYTES else self._stream.skip(size)

    def _text2(self, size: int) -> str | Extent:
        """A str of Python 2: text or bytes, nobody knows."""
        data = self._byte_string(size)
        return data.decode(ENCODING) if isinstance(data, bytes) else data

    def _line(self, limit: int = _MAX_TEXT) -> bytes:
        return self._stream.readline(limit)

    def _int_line(self) -> Any:
        line = self._line(_MAX_NAME)
        if line in (b"00", b"01"):
            return line == b"01"
        return int(line.rstrip(b"L"))

    def _quoted_line(self) -> str:
        line = self._line().strip()
        if len(line) < 2 or line[:1] != line[-1:] or line[:1] not in (b"'", b'"'):
            raise Broken("a text without quotes")
        return codecs.escape_decode(line[1:-1])[0].decode(ENCODING)


def _push(make: Callable[[Machine], Any]) -> Callable[[Machine], None]:
    """An instruction that pushes what `make` returns."""

    def instruction(machine: Machine) -> None:
        value = make(machine)  # may change which stack is on top
        machine._stack.append(value)

    return instruction


def _table() -> dict[bytes, Callable[[Machine], None]]:
    """Every instruction of protocols 0 to 5, but the registry of extensions and buffers outside the file."""
    number = Machine._number
    pushed: dict[bytes, Callable[[Machine], Any]] = {
        b"N": lambda m: None,
        b"\x88": lambda m: True,
        b"\x89": lambda m: False,
        b"I": Machine._int_line,
        b"L": Machine._int_line,
        b"F": lambda m: float(m._line(_MAX_NAME)),
        b"J": lambda m: number(m, "<i"),
        b"K": lambda m: number(m, "<B"),
        b"M": lambda m: number(m, "<H"),
        b"G": lambda m: number(m, ">d"),
        b"\x8a": lambda m: m._long(number(m, "<B")),
        b"\x8b": lambda m: m._long(number(m, "<i")),
        b"S": Machine._quoted_line,
        b"V": lambda m: m._line().decode("raw-unicode-escape"),
        b"U": lambda m: m._text2(number(m, "<B")),
        b"T": lambda m: m._text2(number(m, "<i")),
        b"X": lambda m: m._text(number(m, "<I")),
        b"\x8c": lambda m: m._text(number(m, "<B")),
        b"\x8d": lambda m: m._text(number(m, "<Q")),
        b"C": lambda m: m._byte_string(number(m, "<B")),
        b"B": lambda m: m._byte_string(number(m, "<I")),
        b"\x8e": lambda m: m._byte_string(number(m, "<Q")),
        b"\x96": lambda m: m._byte_string(number(m, "<Q")),
        b"]": lambda m: [],
        b"}": lambda m: {},
        b")": lambda m: (),
        b"\x8f": lambda m: set(),
        b"l": Machine._pop_mark,
        b"t": lambda m: tuple(m._pop_mark()),
        b"\x91": lambda m: frozenset(_set(m._pop_mark())),
        b"d": lambda m: dict(_pairs(m._pop_mark())),
        b"g": lambda m: m._memo[int(m._line(_MAX_NAME))],
        b"h": lambda m: m._memo[number(m, "<B")],
        b"j": lambda m: m._memo[number(m, "<I")],
    }
    others: dict[bytes, Callable[[Machine], None]] = {
        b"\x80": lambda m: _check_protocol(number(m, "<B")),
        b"\x95": lambda m: number(m, "<Q"),
        b"(": Machine._mark,
        b"0": Machine._pop,
        b"1": Machine._pop_mark,
        b"2": Machine._dup,
        b"\x94": Machine._memoize,
        b"p": lambda m: m._memo.__setitem__(int(m._line(_MAX_NAME)), m._stack[-1]),
        b"q": lambda m: m._memo.__setitem__(number(m, "<B"), m._stack[-1]),
        b"r": lambda m: m._memo.__setitem__(number(m, "<I"), m._stack[-1]),
        b"\x85": lambda m: m._tuple(1),
        b"\x86": lambda m: m._tuple(2),
        b"\x87": lambda m: m._tuple(3),
        b"a": lambda m: m._extend([m._stack.pop()]),
        b"e": lambda m: m._extend(m._pop_mark()),
        b"s": lambda m: m._set_items([m._stack.pop(), m._stack.pop()][::-1]),
        b"u": lambda m: m._set_items(m._pop_mark()),
        b"\x90": Machine._add_items,
        b"c": Machine._global,
        b"\x93": Machine._stack_global,
        b"P": Machine._persid,
        b"Q": Machine._binpersid,
        b"R": Machine._reduce,
        b"i": Machine._inst,
        b"o": Machine._obj,
        b"\x81": Machine._new,
        b"\x92": Machine._new_ex,
        b"b": Machine._build,
    }
    return {code: _push(make) for code, make in pushed.items()} | others


def _pairs(items: list) -> list:
    if len(items) % 2:
        raise Broken("a key without a value")
    return [(check_key(key), value) for key, value in zip(items[::2], items[1::2], strict=True)]


def _check_protocol(protocol: int) -> None:
    if protocol > 5:
        raise Broken(f"pickle protocol {protocol}")


_INSTRUCTIONS = _table()


@contextlib.contextmanager
def one_line_errors(source: Any, kind: str = "a pickle") -> Iterator[None]:
    """Whatever goes wrong inside while data is read is one line that names its source."""
    try:
        yield
    except UserError:
        raise
    except Refused as error:
        raise UserError(f"{source}: refused, it asks for {_printable(error)}, which is not data") from None
    except Broken as error:
        raise UserError(f"{source}: truncated or broken as {kind}: {_printable(error)}") from None
    # A broken stream can fail in as many ways as there are instructions; none of them ran its code.
    except Exception as error:
        raise UserError(f"{source}: truncated or broken as {kind} ({type(error).__name__})") from None


def _printable(error: Exception) -> str:
    """A message that may quote a file: shortened, without anything that a terminal obeys."""
    text = str(error)
    return "".join(c if c.isprintable() else "?" for c in text[:300]) + ("..." if len(text) > 300 else "")
