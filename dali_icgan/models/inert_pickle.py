"""Pickles read without running anything: an allow-list whose entries are placeholders, never the named code.

IC-GAN's run metadata pickles ``nn.ReLU`` objects and NumPy scalars, its stored instances NumPy arrays. Each allowed name maps to a
class below that only keeps what it is given and checks it; every other name is refused.
"""

import pickle
import re
from typing import IO, Any

import numpy as np


class Refused(ValueError):
    """A pickle names an object outside the allow-list, or uses an allowed one in a way that no honest file does."""


class _Frozen(type):
    # A pickle can set attributes on any object it can reach; the placeholders outlive it.
    def __setattr__(cls, name: str, value: Any) -> None:
        raise Refused(f"it changes {cls.__name__}")


class _Placeholder(metaclass=_Frozen):
    def value(self) -> Any:
        raise Refused(f"it uses {type(self).__name__} as a value")


class _Activation(_Placeholder):
    def __setstate__(self, state: Any) -> None:
        pass

    def value(self) -> str:
        return "ReLU"


class _DType(_Placeholder):
    """Booleans, numbers and strings of fixed width, or ``O``: a list."""

    def __init__(self, code: Any = None, align: Any = False, copy: Any = False) -> None:
        if not isinstance(code, str) or not re.fullmatch(r"b1|[iu][1248]|f[248]|[US]\d{1,9}|O8?", code):
            raise Refused(f"it holds NumPy data of type {code!r}")
        self.code, self.order = code, "="

    def __setstate__(self, state: Any) -> None:
        # (version, byte order, subtype, names, fields, ...): the rest is spelled by the code already.
        if not isinstance(state, tuple) or len(state) < 5 or state[1] not in ("<", ">", "|", "=") or any(state[2:5]):
            raise Refused("it holds structured NumPy data")
        self.order = state[1]

    def array(self, data: Any) -> Any:
        if self.code.startswith("O") or not isinstance(data, bytes):
            raise Refused("it holds NumPy data that is not bytes")
        return np.frombuffer(data, np.dtype(("" if self.order == "|" else self.order) + self.code))


class _Scalar(_Placeholder):
    def __init__(self, dtype: Any = None, data: Any = None) -> None:
        if not isinstance(dtype, _DType):
            raise Refused("it holds a NumPy scalar without a type")
        self.array = dtype.array(data)

    def value(self) -> Any:
        return self.array[0].item()


class _Array(_Placeholder):
    def __setstate__(self, state: Any) -> None:
        match state:
            case (int(), tuple() as shape, _DType() as dtype, bool() | int() as fortran, bytes() | list() as data):
                self.shape, self.dtype, self.fortran, self.data = shape, dtype, bool(fortran), data
            case _:
                raise Refused("it holds a NumPy array of an unknown layout")

    def value(self) -> Any:
        if isinstance(self.data, bytes):
            return self.dtype.array(self.data).reshape(self.shape, order="F" if self.fortran else "C").copy()
        items = plain(self.data)
        return items[0] if self.shape == () and len(items) == 1 else items


class _Reconstruct(_Placeholder):
    """``_reconstruct(ndarray, (0,), b"b")``: an empty array, whose content follows as state."""

    def __new__(cls, kind: Any = None, *_: Any) -> Any:
        if kind is not _Array:
            raise Refused(f"it rebuilds an array as {kind!r}")
        return _Array()


class _Encode(_Placeholder):
    """``_codecs.encode(text, "latin1")``: bytes, as old protocols spell them."""

    def __new__(cls, text: Any = None, encoding: Any = None) -> Any:
        if not isinstance(text, str) or encoding != "latin1":
            raise Refused("it encodes something else than bytes")
        return text.encode("latin1")


PLACEHOLDERS: dict[str, Any] = {
    "torch.nn.modules.activation.ReLU": _Activation,
    "numpy.dtype": _DType,
    "numpy.ndarray": _Array,
    **{
        f"numpy.{core}.multiarray.{name}": placeholder
        for core in ("core", "_core")
        for name, placeholder in (("scalar", _Scalar), ("_reconstruct", _Reconstruct))
    },
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        allowed = {**PLACEHOLDERS, "_codecs.encode": _Encode}
        try:
            return allowed[f"{module}.{name}"]
        except KeyError:
            raise Refused(f"it holds {module}.{name}, which is not on the allow-list") from None


def load(stream: IO[bytes]) -> Any:
    """One pickled object of plain values, numbers, text and NumPy arrays.

    Raises:
        Refused: it names anything else; the message says what.
    """
    try:
        return plain(_Unpickler(stream).load())
    except Refused:
        raise
    except Exception as error:  # Damage shows as any exception at all in a pickle machine.
        raise Refused(f"its pickle is damaged ({type(error).__name__}: {error})") from error


def plain(value: Any) -> Any:
    """``value`` with every placeholder in it replaced by what it stands for."""
    if isinstance(value, _Placeholder):
        return value.value()
    if isinstance(value, dict):
        return {plain(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(plain(v) for v in value) if type(value) in (list, tuple) else value
    return value
