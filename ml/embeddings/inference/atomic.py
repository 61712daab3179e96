"""Numba intrinsics that read and write 64-bit words of memory that other threads, or processes, use at the same time.

A word that is stored with `store_release` is never seen in part, and whoever reads it with `load_acquire` also sees everything
that was stored before it.
"""

# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

_BYTES = 8


def _pointer(builder: Any, address: Any) -> Any:
    return builder.inttoptr(address, ir.IntType(64).as_pointer())


def _load_acquire(typingctx: Any, address: Any) -> Any:
    """Read the int64 at an address, before anything that is read afterwards."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.load_atomic(_pointer(builder, arguments[0]), "acquire", _BYTES)

    return types.int64(types.int64), codegen


def _store_release(typingctx: Any, address: Any, word: Any) -> Any:
    """Write an int64 to an address, after everything that was written before."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        builder.store_atomic(arguments[1], _pointer(builder, arguments[0]), "release", _BYTES)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), codegen


def _fence(typingctx: Any) -> Any:
    """Finish all reads and writes that come before, also for other processors, before those that come after."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        builder.fence("seq_cst")
        return context.get_dummy_value()

    return types.void(), codegen


def _prefetch_at(typingctx: Any, address: Any) -> Any:
    """Prefetch the cache line of an address for reading. Any address is harmless."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        byte, word = ir.IntType(8).as_pointer(), ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [byte, word, word, word])
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0i8")
        flags = [ir.Constant(word, flag) for flag in (0, 3, 1)]  # for reading, nearest cache, data
        builder.call(function, [builder.inttoptr(arguments[0], byte), *flags])
        return context.get_dummy_value()

    return types.void(types.int64), codegen


load_acquire: Any = intrinsic(_load_acquire)
store_release: Any = intrinsic(_store_release)
fence: Any = intrinsic(_fence)
prefetch_at: Any = intrinsic(_prefetch_at)
