"""What kernels are called with, and what becomes of it."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor

Call = Callable[[], Any]


class Columns(NamedTuple):
    """Some columns of an array (n, O), the first of them named; a kernel gets O beside it."""

    whole: Tensor
    first: int


Argument = Tensor | Columns | float | None | ctypes.c_long | ctypes.c_double


def as_c(argument: Argument) -> Any:
    """Turn an argument into what a kernel takes: an address, a long or a double."""
    if isinstance(argument, ctypes.c_long | ctypes.c_double):
        return argument
    if argument is None:
        return ctypes.c_void_p(None)
    if isinstance(argument, Columns):
        first = argument.first * argument.whole.element_size()
        return ctypes.c_void_p(argument.whole.data_ptr() + first)
    if isinstance(argument, Tensor):
        assert argument.is_contiguous()
        return ctypes.c_void_p(argument.data_ptr())
    return ctypes.c_long(argument) if isinstance(argument, int) else ctypes.c_double(argument)
