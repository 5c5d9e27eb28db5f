"""Softmax attention on the CPU, block of queries by block: the weights are never stored as a whole."""

from typing import Any

import torch
from torch import Tensor

from dali_icgan._native import native, ref, threads
from dali_icgan.ops.instructions import instruction_sets


def attention_workspace(
    dtype: torch.dtype, keys: int, d: int, e: int, threads: int = 1, instructions: str | None = None
) -> int:
    """Bytes of workspace of :func:`attention` for ``[n, keys, d]`` of k and ``[n, keys, e]`` of v, any n and any number of queries.

    Args:
        dtype: float32 or float64.
        keys, d, e: at least 1.
        threads: for how many.
        instructions: of ``ops.instruction_sets()``; None is the first of them.

    Raises:
        ValueError: an argument is not as above; the message names it.
    """
    kinds = {torch.float32: native().DType.float32, torch.float64: native().DType.float64}
    if dtype not in kinds:
        raise ValueError(f"dtype must be float32 or float64, got {dtype}")
    if threads < 1:
        raise ValueError(f"threads must be at least 1, got {threads}")
    found = native().attention_workspace(kinds[dtype], keys, d, e, instructions or instruction_sets()[0])
    return threads * int(found)


class BoundAttention:
    """An :func:`attention` whose arguments have been checked and are kept alive: ``bound()`` runs it on what they then hold.

    Arguments, errors and numerics as there.
    """

    __slots__ = ("_kept", "_run")

    def __init__(
        self, q: Tensor, k: Tensor, v: Tensor, out: Tensor, workspace: Tensor, instructions: str | None = None
    ) -> None:
        given = {"q": q, "k": k, "v": v, "out": out, "workspace": workspace}
        described = (ref(name, tensor) for name, tensor in given.items())
        self._run: Any = native().AttentionBound(*described, instructions or instruction_sets()[0]).run
        self._kept = tuple(given.values())

    def __call__(self) -> None:
        self._run(threads())


def attention(
    q: Tensor, k: Tensor, v: Tensor, out: Tensor, workspace: Tensor, instructions: str | None = None
) -> Tensor:
    """``out = softmax(q k^T) v``, logits as they are; on as many threads as torch has.

    Args:
        q: ``[n, queries, d]``, float32 or float64.
        k: ``[n, keys, d]``; keys and d are at least 1.
        v: ``[n, keys, e]``; e is at least 1.
        out: ``[n, queries, e]``, is overwritten; its rows are contiguous and equally far apart, as the first columns of a contiguous
            tensor are. The other columns are not touched.
        workspace: uint8, :func:`attention_workspace` bytes or more, aligned to 8; with less than for as many threads as torch has,
            fewer run.
        instructions: of ``ops.instruction_sets()``; None is the first of them.

        All on the CPU, of one dtype but for the workspace, q, k and v contiguous. out and workspace share no memory with each other
        or the rest.

    Returns:
        ``out``.

    Raises:
        TypeError, ValueError: an argument is not as above; the message names it.

    Numerics: relative error (2-norm) below 2e-6 in float32 and 1e-14 in float64 for logits of about unit size; it grows with the
        rounding of larger ones, by their absolute error. The largest logit of a row is subtracted first: nothing overflows. A NaN
        among a query's logits makes its row NaN. A row's bits depend on its query, its sample's keys and values, dtype and
        instructions alone: not on n, the other queries, threads or addresses; "avx2" and "avx512" give the same. Not differentiable.
    Source: attention as in Brock et al. 2019 (arXiv 1809.11096), after Zhang et al. 2019 (arXiv 1805.08318).
    """
    BoundAttention(q, k, v, out, workspace, instructions)()
    return out


def attention_reference(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The same in plain torch, in float64; shares no code with the kernels."""
    return torch.softmax(q.double() @ k.double().transpose(1, 2), dim=-1) @ v.double()
