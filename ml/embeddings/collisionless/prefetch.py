"""A Numba intrinsic that prefetches a cache line.

Random look-ups in a large table mostly wait for memory. With prefetching, several memory accesses are in flight at the same
time.
"""

# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

AHEAD = 12  # prefetch distance in look-ups: hides a cache miss, and the line is still cached when it is used


def _prefetch(typingctx: Any, array: Any, row: Any, column: Any) -> Any:
    """Prefetch the cache line of array[row, column] of a 2-D array for writing. Indices out of bounds are harmless."""
    signature = types.void(array, row, column)

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        held = context.make_array(signature.args[0])(context, builder, arguments[0])
        steps = [builder.extract_value(held.strides, axis) for axis in (0, 1)]
        offset = builder.add(builder.mul(arguments[1], steps[0]), builder.mul(arguments[2], steps[1]))
        byte, word = ir.IntType(8).as_pointer(), ir.IntType(32)
        address = builder.gep(builder.bitcast(held.data, byte), [offset])
        kind = ir.FunctionType(ir.VoidType(), [byte, word, word, word])
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0i8")
        for_writing, nearest, data = ir.Constant(word, 1), ir.Constant(word, 3), ir.Constant(word, 1)
        builder.call(function, [address, for_writing, nearest, data])
        return context.get_dummy_value()

    return signature, codegen


prefetch: Any = intrinsic(_prefetch)  # prefetch(array, row, column): Numba adds the typing context as first argument
