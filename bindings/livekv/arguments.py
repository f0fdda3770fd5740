"""What a wrong argument looks like, wherever it is: a livekv.Error of one line that names it.

pybind11 answers arguments that do not fit with a TypeError of four lines, which list types of C++ and the values of all
arguments, or with what the conversion of one ran into. Every call of the extension is wrapped here, once, so that it
says which one does not fit and why. What the package's Python reads of an argument itself, above all of its own
objects, it takes through a function of this file.
"""

from __future__ import annotations

import ast
import functools
import operator
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

from livekv import _livekv
from livekv._livekv import Error

_LONGEST = 80
_QUOTES = "'"

Kind = TypeVar("Kind")


def shown(value: object) -> str:
    """A value as Python writes it, in one short line."""
    text = repr(value)
    return text if len(text) <= _LONGEST and text.isprintable() else f"a value of type {type(value).__name__}"


def whole(name: str, value: Any, least: int, most: int) -> int:
    """A whole number in least..most. Raises Error for anything else; a bool is no number."""
    try:
        number = None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        number = None
    if number is None or not least <= number <= most:
        kind = "a whole number " if number is None else ""
        raise Error(f"{name} is {shown(value)}; it must be {kind}in {least}..{most}")
    return number


def text_of(name: str, value: Any) -> str:
    """A text. Raises Error for anything else, and for one that UTF-8 cannot say."""
    if not isinstance(value, str):
        raise Error(f"{name} is {shown(value)}; it must be text")
    try:
        str.encode(value)
    except UnicodeEncodeError as problem:
        raise Error(f"{name} holds half of a surrogate pair at character {problem.start}") from None
    return value


def truth(name: str, value: Any) -> bool:
    """Whether a value counts as true. Raises Error for one that is neither, such as an array of several."""
    try:
        return bool(value)
    except (TypeError, ValueError):
        raise Error(f"{name} is {shown(value)}; it must be True or False") from None


def core_of(name: str, value: Any, made: type[Kind]) -> Kind:
    """The extension's object behind one of the package's, which has the same name. Raises Error for anything else."""
    core = getattr(value, "_core", None)
    if not isinstance(core, made):
        raise Error(f"{name} is {shown(value)}; it must be a livekv.{made.__name__}")
    return core


def instance(name: str, value: Any, kind: type[Kind]) -> Kind:
    """An object of a class of livekv.kv. Raises Error for anything else."""
    if not isinstance(value, kind):
        raise Error(f"{name} is {shown(value)}; it must be a livekv.kv.{kind.__name__}")
    return value


def instances(name: str, values: Any, kind: type[Kind]) -> list[Kind]:
    """Several of them, as a list; values may be read once only. Raises Error for anything else."""
    if not isinstance(values, Iterable) or isinstance(values, (str, bytes)):
        raise Error(f"{name} is {shown(values)}; it must be a list of livekv.kv.{kind.__name__}")
    return [instance(f"{name}[{i}]", value, kind) for i, value in enumerate(values)]


def checked_threads(n: Any) -> int:
    """As many CPU threads as there may be. Raises Error for another number."""
    return whole("n_threads", n, 1, _livekv.max_threads)


def _becomes(kind: Callable[[Any], object], *never: type) -> Callable[[object], bool]:
    """Whether a value can be made one of a kind, as pybind11 does it; what Python makes of texts it does not."""

    def fits(value: object) -> bool:
        try:
            return not isinstance(value, (str, bytes, bytearray, *never)) and kind(value) is not None
        except (TypeError, ValueError, OverflowError):
            return False

    return fits


_is_whole = _becomes(int, float)


def _is_a_row_of(fits: Callable[[object], bool]) -> Callable[[object], bool]:
    return lambda value: isinstance(value, Sequence) and not isinstance(value, (str, bytes)) and all(map(fits, value))


def _has_dtype(name: str) -> Callable[[object], bool]:
    return lambda value: bool(getattr(value, "dtype", None) == name)


def _is_text(value: object) -> bool:
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:  # half of a surrogate pair
            return False
    return isinstance(value, (str, bytes))


_WHOLE = "typing.SupportsInt | typing.SupportsIndex"

_KINDS: dict[str, tuple[str, Callable[[object], bool]]] = {
    _WHOLE: ("a whole number", _is_whole),
    "typing.SupportsFloat | typing.SupportsIndex": (
        "a number",
        _becomes(float),
    ),
    "bool": ("True or False", lambda value: hasattr(value, "__bool__") and _becomes(bool)(value)),
    "str": ("text", _is_text),
    "dict": ("a dict", lambda value: isinstance(value, dict)),
    "list": ("a list", lambda value: isinstance(value, list)),
    "collections.abc.Callable": ("a function", callable),
    "collections.abc.Sequence[str]": ("a list of texts", _is_a_row_of(_is_text)),
    "collections.abc.Sequence[bool]": ("a list of True or False", _is_a_row_of(lambda value: isinstance(value, bool))),
    f"collections.abc.Sequence[{_WHOLE}]": ("a list of whole numbers", _is_a_row_of(_is_whole)),
    "collections.abc.Sequence[typing.Annotated[collections.abc.Sequence[str], 'FixedSize(3)']]": (
        "a list of three texts each",
        _is_a_row_of(_is_a_row_of(_is_text)),
    ),
    "collections.abc.Sequence[livekv._livekv.Generation]": (
        "a list of texts",
        _is_a_row_of(lambda value: isinstance(value, _livekv.Generation)),
    ),
    "collections.abc.Sequence[tuple[livekv._livekv.Session, object]]": (
        "a list of sessions with their tokens",
        _is_a_row_of(lambda value: isinstance(value, tuple) and len(value) == 2),
    ),
    "typing.Annotated[numpy.typing.ArrayLike, numpy.float32]": ("an array of float32", _has_dtype("float32")),
    "typing.Annotated[numpy.typing.ArrayLike, numpy.uint32]": ("an array of uint32", _has_dtype("uint32")),
}
"""By the type that pybind11 writes into a signature: what a message calls it, and whether a value is of it."""

_MODULE = "livekv._livekv."


def _kind(annotation: str) -> tuple[str, Callable[[object], bool]]:
    if annotation.endswith(" | None"):
        what, fits = _kind(annotation.removesuffix(" | None"))
        return what, lambda value: value is None or fits(value)
    if annotation.startswith(_MODULE):
        made = getattr(_livekv, annotation.removeprefix(_MODULE))
        return f"a {made.__name__}", lambda value: value is None or isinstance(value, made)
    return _KINDS.get(annotation, ("another", lambda value: True))


def _why(signature: str, given: tuple[Any, ...], named: dict[str, Any], is_refused: bool) -> str | None:
    """Which of a call's arguments its signature does not take, and why. None: all are of their kinds. is_refused: one
    is not taken for certain, so that if they are, it is a number that C++ does not have."""
    (declared,) = ast.parse(f"def {signature}: ...").body
    assert isinstance(declared, ast.FunctionDef)
    parameters = [*declared.args.args, *declared.args.kwonlyargs]
    kinds = {p.arg: ast.unparse(p.annotation) for p in parameters if p.annotation}
    values = dict(zip(kinds, given, strict=False)) | named
    for name, value in values.items():
        what, fits = _kind(kinds.get(name, "object"))
        if not fits(value):
            return f"{name} is {shown(value)}; it must be {what}"
        for key, text in value.items() if isinstance(value, dict) else ():
            if isinstance(text, str) and not _is_text(text):
                return f"{shown(key).strip(_QUOTES)} is {shown(text)}; it must be text"
    for name, value in values.items() if is_refused else ():
        if _WHOLE in kinds.get(name, ""):
            numbers = value if isinstance(value, Sequence) else [value]
            if any(not -(2**31) <= int(n) < 2**31 for n in numbers):
                return f"{name} is {shown(value)}, which is out of range"
    return None


def _wrapped(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def call(*given: Any, **named: Any) -> Any:
        try:
            return function(*given, **named)
        except (TypeError, ValueError, RuntimeError) as problem:
            # What Python code raised that the call has called, a progress or a token's __int__, is its caller's.
            if problem.__traceback__ is None or problem.__traceback__.tb_next is not None:
                raise
            said = str(problem)
            is_refused = said.startswith(f"{function.__name__}(): incompatible ") and "\nInvoked with: " in said
            why = _why(str(function.__doc__).strip().splitlines()[0], given, named, is_refused)
            if why is None and not is_refused:
                raise
        raise Error(why or f"{function.__name__} does not take these arguments")

    return call


def _wrap(owner: Any) -> None:
    for name, member in list(vars(owner).items()):
        static = isinstance(member, staticmethod)
        function = member.__func__ if static else member
        if isinstance(member, type):
            if member.__module__ == _livekv.__name__:
                _wrap(member)
        elif f"{name}(" in (getattr(function, "__doc__", None) or "") and callable(function):
            wrapped = _wrapped(function)
            setattr(owner, name, staticmethod(wrapped) if static else wrapped)


_wrap(_livekv)
