"""Convolutions on the CPU, with fewer multiplications by Winograd's minimal filtering, all that stands around them fused in."""

from fractions import Fraction
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from dali_icgan._native import native, ref, threads
from dali_icgan.ops.instructions import widest_instructions

DTYPES = (torch.float32, torch.float64, torch.bfloat16)
# Sides of an output tile, by the side r of the kernel. 1: no transform, which is all that other kernels and strides have.
TILES = {1: (1,), 2: (1, 3, 5), 3: (1, 2, 4)}
# The finite points, by the side of an input tile; as in csrc/ops/winograd/winograd_math.h.
_POINTS = {
    4: (Fraction(0), Fraction(1), Fraction(-1)),
    6: (Fraction(0), Fraction(5, 8), Fraction(-5, 8), Fraction(3, 2), Fraction(-3, 2)),
}


def channel_multiple(dtype: torch.dtype, instructions: str | None = None) -> int:
    """What channels are padded to: the numbers of a vector of ``instructions`` (None: the widest that the processor has)."""
    return _layout(dtype, instructions or widest_instructions(dtype))[0]


def transforms(tile: int, r: int) -> tuple[list[list[Fraction]], list[list[Fraction]], list[list[Fraction]]]:
    """The exact matrices of F(tile, r): ``y = A^T ((G g) * (B^T d))`` is the correlation of d with g.

    Args:
        tile, r: numbers of outputs and of taps, with ``a = tile + r - 1`` of 4 or 6.

    Returns:
        A^T ``[tile, a]``, G ``[a, r]``, B^T ``[a, a]``.

    Source: Toom-Cook by Lagrange's interpolation, transposed (Winograd 1980, Arithmetic Complexity of Computations).
    """
    points = _POINTS[tile + r - 1]
    others = [points[:i] + points[i + 1 :] for i in range(len(points))]
    at = [[p**k for p in points] + [Fraction(k == tile - 1)] for k in range(tile)]
    # Divided by N_i(p_i), the product of the distances from the other points.
    g = [[p**k / _value(_coefficients(o), p) for k in range(r)] for p, o in zip(points, others, strict=True)]
    bt = [[*_coefficients(o), Fraction(0)] for o in others]
    return at, [*g, [Fraction(k == r - 1) for k in range(r)]], [*bt, _coefficients(points)]


def upsampled_weight(weight: Tensor) -> Tensor:
    """A 3x3 convolution behind nearest upsampling as one 2x2 convolution of four times the outputs.

    Args:
        weight: ``[out, in, 3, 3]``.

    Returns:
        ``[4 * out, in, 2, 2]``, outputs (p, q, o): with z its convolution at padding 1,
        ``conv2d(upsampled, weight, padding=1)[2 i + p, 2 j + q, o] = z[i + p, j + q, (p, q, o)]``.
    """
    k0, k1, k2 = weight.unbind(2)
    rows = torch.stack([torch.stack([k0, k1 + k2], 2), torch.stack([k0 + k1, k2], 2)])
    k0, k1, k2 = rows.unbind(4)
    return torch.stack([torch.stack([k0, k1 + k2], 4), torch.stack([k0 + k1, k2], 4)], 1).flatten(0, 2)


class PackedConvolution:
    """A convolution's weights, transformed in float64, rounded once and packed for one instruction set; immutable.

    ``out = last(conv2d(first(x), weight, padding=r > 1) + bias + shortcut + residual)``, ``first`` being
    ``relu(x * scale + shift)`` or nothing and ``last`` a relu or nothing; with ``doubled`` the map is doubled by nearest
    upsampling between ``first`` and the convolution.

    Args:
        weight: ``[out, in, r, r]`` on the CPU (doubled: r is 3); floating point, float64 to lose nothing.
        tile: side of an output tile, of ``TILES[r]`` (doubled: of ``TILES[2]``). Larger ones multiply less and round more. 1 at any other
            r, at a stride and of unpadded inputs.
        dtype: float32, float64 or bfloat16, of everything that the convolution reads and writes; but beside bfloat16 scale, shift and
            bias are float32.
        instructions: of ``ops.instruction_sets(dtype)``; None is the first of them. "generic" computes bfloat16 on any processor, slowly.
        doubled: see above; computed as :func:`upsampled_weight`, or with tile 1 every pixel of x times each of the nine taps, the products
            then added where they belong: on maps up to 16 pixels wide that multiplies as little as F(5, 2), and its weights are a
            sixteenth.
        stride: from a pixel of out to the next, in pixels of x; 1 if doubled.
        padding: zeros around x, in pixels; None is r // 2, and all that doubled takes.
        unpadded: x has its channels without padding: for few of them, whose padding would cost more than the rest.

    Attributes:
        inputs, outputs: channels.
        padded_inputs, padded_outputs: channels of x and out: padded to :func:`channel_multiple`, but for unpadded inputs.
        r: side of the kernel that is computed: 2 if doubled.
        tile, dtype, instructions, doubled, stride, padding, unpadded: as given.
        numel: numbers that its weights take.

    Raises:
        TypeError, ValueError: an argument is not as above; the message names it.

    Numerics: relative error (2-norm, random weights, 64 to 1024 channels) in float32 2e-7 to 3e-7 without a transform, 2e-7 to 5e-7
        for F(2, 3) and F(3, 2), 6e-7 to 1.5e-6 for F(4, 3) and F(5, 2) (torch's own convolution: 2e-7 to 9e-7); in float64 below
        5e-15. In bfloat16 2.3e-3 without a transform (as torch's: inputs are exact, weights and the result rounded once), 3.5e-3 to
        4.1e-3 for F(2, 3) and F(3, 2), 8.8e-3 to 1.1e-2 for F(4, 3) and F(5, 2): transforms, sums and all that stands around are
        float32, but transformed inputs and weights are rounded to bfloat16, to nearest even, subnormal ones to zero; with "avx512"
        transformed inputs are not (2.9e-3 to 3.3e-3, 6.3e-3 to 7.8e-3). An element's bits depend on its own sample, r, tile, stride, dtype and
        instructions alone: not on n, its place in the batch, threads or addresses. "avx2" and "avx512" give the same bits in float32 and
        float64 where both pad the inputs alike, or neither does.
    Source: Lavin and Gray 2015 (arXiv 1509.09308).
    """

    def __init__(
        self,
        weight: Tensor,
        tile: int,
        dtype: torch.dtype = torch.float32,
        instructions: str | None = None,
        *,
        doubled: bool = False,
        stride: int = 1,
        padding: int | None = None,
        unpadded: bool = False,
    ) -> None:
        if not isinstance(weight, Tensor) or not weight.is_floating_point():
            raise TypeError(
                f"weight must be a floating-point tensor, got {getattr(weight, 'dtype', type(weight).__name__)}"
            )
        shape = list(weight.shape)
        if len(shape) != 4 or min(shape) < 1 or shape[2] != shape[3] or (doubled and shape[2] != 3):
            raise ValueError(f"weight must have shape [out, in, {'3, 3' if doubled else 'r, r'}], got {shape}")
        if weight.device.type != "cpu":
            raise ValueError(f"weight must be on cpu, got {weight.device}")
        self.r = 2 if doubled else shape[2]
        tiles = TILES.get(self.r, (1,))
        if tile not in tiles:
            raise ValueError(f"tile must be one of {', '.join(map(str, tiles))} at r = {self.r}, got {tile}")
        if stride < 1 or (stride > 1 and (doubled or tile > 1)):
            raise ValueError(f"stride must be 1{'' if doubled or tile > 1 else ' or more'}, got {stride}")
        self.padding = self.r // 2 if padding is None else padding
        if self.padding < 0 or (doubled and padding is not None):
            raise ValueError(f"padding must be {'None for a doubled map' if doubled else '0 or more'}, got {padding}")
        if unpadded and (doubled or tile > 1):
            raise ValueError("unpadded must be False where the map is doubled or a tile larger than 1")
        self.outputs, self.inputs = shape[:2]
        self.tile, self.dtype, self.doubled, self.stride, self.unpadded = tile, dtype, doubled, stride, unpadded
        self.instructions = instructions or widest_instructions(dtype)
        width, panel, factors = _layout(dtype, self.instructions)
        self.padded_inputs, self.padded_outputs = (-(-c // width) * width for c in (self.inputs, self.outputs))
        if unpadded:
            self.padded_inputs = self.inputs
        self._weight = _packed(weight.detach(), tile, dtype, width, width * panel, factors, doubled, unpadded)
        self.numel = self._weight.numel()
        self._native = self._describe()

    def _describe(self) -> Any:
        return native().WinogradConvolution(
            ref("weight", self._weight),
            self.instructions,
            self.padded_inputs,
            self.padded_outputs,
            self.r,
            self.tile,
            self.stride,
            self.padding,
            self.doubled,
            self.unpadded,
        )

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_native"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._native = self._describe()

    def __repr__(self) -> str:
        kind = f"F({self.tile}, {self.r}){' doubled' if self.doubled else ''}"
        return f"PackedConvolution({self.inputs} -> {self.outputs}, {kind}, {self.dtype}, {self.instructions})"

    def output_size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of out for those of x."""
        if self.doubled:
            return 2 * height, 2 * width
        high, wide = ((size + 2 * self.padding - self.r) // self.stride + 1 for size in (height, width))
        return high, wide

    def workspace(self, n: int, height: int, width: int, threads: int = 1) -> int:
        """Bytes of workspace for ``[n, height, width]`` of x on so many threads."""
        return threads * int(self._native.workspace(n, height, width))

    def bind(
        self,
        x: Tensor,
        out: Tensor,
        workspace: Tensor,
        *,
        scale: Tensor | None = None,
        shift: Tensor | None = None,
        bias: Tensor | None = None,
        shortcut: Tensor | None = None,
        residual: Tensor | None = None,
        relu: bool = False,
    ) -> "BoundConvolution":
        """Check the tensors of a call once, to make it again and again with what they then hold.

        Args:
            x: ``[n, height, width, padded_inputs]``, contiguous; the padding of the channels is zero.
            out: ``[n, *output_size(height, width), padded_outputs]``, contiguous; is overwritten. Padding is written as zero (where that
                of bias, shortcut and residual is).
            workspace: uint8, :meth:`workspace` bytes or more, aligned to 8; with less than for as many threads as torch has, fewer run.
            scale, shift: ``[n, padded_inputs]`` with contiguous rows any distance apart (0: one row for all); finite padding. Both or
                neither.
            bias: ``[padded_outputs]``.
            shortcut: ``[n, out height / 2, out width / 2, padded_outputs]``, upsampled by nearest.
            residual: as out; may be out itself.
            relu: whether a relu comes last.

            All on the CPU and of ``dtype``, but for the workspace; scale, shift and bias are float32 beside bfloat16. out and workspace
            share no memory with each other or the rest.

        Raises:
            TypeError, ValueError: an argument is not as above; the message names it.
        """
        given = {"scale": scale, "shift": shift, "bias": bias, "shortcut": shortcut, "residual": residual}
        optional = (None if tensor is None else ref(name, tensor) for name, tensor in given.items())
        bound = native().WinogradBound(
            self._native, ref("x", x), ref("out", out), ref("workspace", workspace), *optional, relu
        )
        return BoundConvolution(bound, (self, x, out, workspace, *given.values()))

    def __call__(self, x: Tensor, out: Tensor, workspace: Tensor, **options: Any) -> Tensor:
        """One call: :meth:`bind` with these arguments, run on as many threads as torch has. Returns ``out``."""
        self.bind(x, out, workspace, **options)()
        return out


class BoundConvolution:
    """A call whose tensors have been checked and are kept alive: ``bound()`` runs it on as many threads as torch has."""

    __slots__ = ("_kept", "_run")

    def __init__(self, bound: Any, kept: tuple[Any, ...]) -> None:
        self._run, self._kept = bound.run, kept

    def __call__(self) -> None:
        self._run(threads())


def winograd_reference(
    x: Tensor,
    weight: Tensor,
    *,
    doubled: bool = False,
    stride: int = 1,
    padding: int | None = None,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
    bias: Tensor | None = None,
    shortcut: Tensor | None = None,
    residual: Tensor | None = None,
    relu: bool = False,
) -> Tensor:
    """The same in plain torch, in float64, by direct convolution and without padding of channels; shares no code with the kernels."""
    y = x.double().permute(0, 3, 1, 2)
    if scale is not None and shift is not None:
        y = F.relu(y * scale.double()[:, :, None, None] + shift.double()[:, :, None, None])
    if doubled:
        y = F.interpolate(y, scale_factor=2.0, mode="nearest")
    padding = weight.shape[2] // 2 if padding is None else padding
    y = F.conv2d(y, weight.double(), stride=stride, padding=padding).permute(0, 2, 3, 1)
    if bias is not None:
        y = y + bias.double()
    if shortcut is not None:
        y = y + shortcut.double().repeat_interleave(2, dim=1).repeat_interleave(2, dim=2)
    if residual is not None:
        y = y + residual.double()
    return F.relu(y) if relu else y


def _layout(dtype: torch.dtype, instructions: str) -> tuple[int, int, int]:
    """Elements of a vector, vectors of a panel of packed weights, inputs that lie side by side in it."""
    kinds = {name: getattr(native().DType, str(name).removeprefix("torch.")) for name in DTYPES}
    if dtype not in kinds:
        raise ValueError(f"dtype must be float32, float64 or bfloat16, got {dtype}")
    width, panel, factors = native().winograd_layout(kinds[dtype], instructions)
    return width, panel, factors


def _packed(
    weight: Tensor, tile: int, dtype: torch.dtype, width: int, panel: int, factors: int, doubled: bool, unpadded: bool
) -> Tensor:
    """``[planes][panels][taps * padded in / factors][panel][factors]`` as one row; the last panel is as narrow as what is left."""
    weight = weight.double()
    phases = 1
    if doubled and tile > 1:
        weight, phases = upsampled_weight(weight), 4
    outputs, inputs, r, _ = weight.shape
    weight = weight.unflatten(0, (phases, outputs // phases))
    more = 0 if unpadded else -inputs % width
    weight = F.pad(weight, (0, 0, 0, 0, 0, more, 0, -(outputs // phases) % width)).flatten(0, 1)
    if doubled and tile == 1:
        planes = list(weight.flatten(2).permute(2, 1, 0))
    elif tile == 1:
        plane = weight.permute(2, 3, 1, 0).flatten(0, 2)
        planes = [F.pad(plane, (0, 0, 0, -len(plane) % width))]
    else:
        # Sums in a written order: a matrix product's would be the library's, and the bits with it.
        g = [[float(v) for v in row] for row in transforms(tile, r)[1]]
        halves = [_sum(weight.unbind(2), row) for row in g]
        planes = [_sum(half.unbind(2), row).T for half in halves for row in g]
    columns = len(weight)
    whole = columns - columns % panel
    pieces = []
    for plane in planes:
        rounded = plane.to(dtype).unflatten(0, (-1, factors)).transpose(1, 2)
        pieces += [rounded[:, :whole].unflatten(1, (-1, panel)).transpose(0, 1).flatten(), rounded[:, whole:].flatten()]
    return torch.cat(pieces)


def _sum(terms: tuple[Tensor, ...], factors: list[float]) -> Tensor:
    total = terms[0] * factors[0]
    for term, factor in zip(terms[1:], factors[1:], strict=True):
        total += term * factor
    return total


def _coefficients(roots: tuple[Fraction, ...]) -> list[Fraction]:
    """Of the product of (x - root), the constant first."""
    product = [Fraction(1)]
    for root in roots:
        product = [a - root * b for a, b in zip([Fraction(0), *product], [*product, Fraction(0)], strict=True)]
    return product


def _value(coefficients: list[Fraction], x: Fraction) -> Fraction:
    return sum((c * x**k for k, c in enumerate(coefficients)), Fraction(0))
