"""Arrays as addresses: how one kernel takes the arrays of any number of relations.

A compiled kernel has a fixed list of arguments, a graph any number of relations whose numbers have
either of two types. So a relation is a row of addresses, and a kernel makes arrays of them again.
Whoever passes an address keeps its array alive and checks its length.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import carray, njit, types
from numba.core import cgutils
from numba.extending import intrinsic


def address(array: np.ndarray | None) -> int:
    """Where an array's bytes are; 0 for none. Raises ValueError where they are not one run."""
    if array is None:
        return 0
    if not array.flags.c_contiguous:
        raise ValueError("an array that is not contiguous has no address")
    return int(array.ctypes.data)


def _pointer_to(element: types.Type) -> Any:
    @intrinsic
    def pointer(_context: Any, number: types.Type) -> Any:  # type: ignore[no-untyped-def]
        def code(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
            return builder.inttoptr(arguments[0], context.get_value_type(signature.return_type))

        return types.CPointer(element)(number), code

    return pointer


_int32_at, _int64_at = _pointer_to(types.int32), _pointer_to(types.int64)


@njit(inline="always")
def int32_array(at, length):  # type: ignore[no-untyped-def]
    """The int32 array [length] at an address (int64)."""
    return carray(_int32_at(at), length)


@njit(inline="always")
def int64_array(at, length):  # type: ignore[no-untyped-def]
    """The int64 array [length] at an address (int64)."""
    return carray(_int64_at(at), length)


@intrinsic
def prefetch(_context: Any, array: types.Array, index: types.Type) -> Any:  # type: ignore[no-untyped-def]
    """Ask for the cache line of array[index], to be read soon: a hint, with no effect on values."""

    def code(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        kind = signature.args[0]
        view = context.make_array(kind)(context, builder, arguments[0])
        place = cgutils.get_item_pointer(context, builder, kind, view, [arguments[1]], wraparound=False)
        byte, number = ir.IntType(8).as_pointer(), ir.IntType(32)
        hint = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(ir.VoidType(), [byte, number, number, number]), "llvm.prefetch.p0"
        )
        # read, keep in all caches, data
        builder.call(hint, [builder.bitcast(place, byte), number(0), number(3), number(1)])
        return context.get_dummy_value()

    return types.none(array, index), code
