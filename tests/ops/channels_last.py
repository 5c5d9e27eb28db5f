"""What the tests of channels-last kernels share: activations of odd layouts, results in guarded memory."""

import torch

DTYPES = [torch.float32, torch.float16, torch.bfloat16]
CPU_DTYPES = [*DTYPES, torch.float64]
# Half of the last place, relative, and of the smallest subnormal.
ROUNDING = {torch.float32: 2.0**-24, torch.float16: 2.0**-11, torch.bfloat16: 2.0**-8, torch.float64: 2.0**-53}
SMALLEST = {torch.float32: 0.0, torch.float16: 2.0**-25, torch.bfloat16: 0.0, torch.float64: 0.0}
GUARD = 64


def wide(dtype):
    return torch.float64 if dtype == torch.float64 else torch.float32


def random(shape, dtype, seed, device="cpu"):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(device, dtype)


def padded(x, extra, offset=0):
    """The same values as the first channels of a wider tensor whose others are NaN, ``offset`` elements into its memory."""
    *rest, c = x.shape
    room = x.new_full((x[..., :1].numel() * (c + extra) + offset,), float("nan"))
    view = room[offset:].view(*rest, c + extra)[..., :c]
    return view.copy_(x)


class Guarded:
    """Room for a result, NaN before, and what lies around it: guard bands, and the extra channels of a wider tensor."""

    def __init__(self, shape, dtype, extra=0, offset=0, device="cpu"):
        *rest, c = shape
        length = torch.Size([*rest, c + extra]).numel()
        self.room = torch.full((length + offset + 2 * GUARD,), float("nan"), dtype=dtype, device=device)
        place = slice(GUARD + offset, GUARD + offset + length)
        self.tensor = self.room[place].view(*rest, c + extra)[..., :c]
        inside = torch.zeros(len(self.room), dtype=torch.bool, device=device)
        inside[place].view(*rest, c + extra)[..., :c] = True
        self._outside = ~inside

    def untouched_around(self):
        return bool(self.room[self._outside].isnan().all())


def same_bits(a, b):
    """Equal bit for bit, of zeros the sign too; which NaN a NaN is is nobody's promise."""
    integers = {2: torch.int16, 4: torch.int32, 8: torch.int64}[a.element_size()]
    bits = [x.contiguous().view(integers).masked_fill(x.isnan(), 0) for x in (a, b)]
    return torch.equal(a.isnan(), b.isnan()) and torch.equal(*bits)


def assert_rounded(got, want, magnitude, roundings):
    """``got`` is ``want`` after so many float32 (float64) roundings of values up to ``magnitude``, then one to its own dtype."""
    steps = roundings * ROUNDING[wide(got.dtype)] * magnitude
    allowed = steps + ROUNDING[got.dtype] * (want.abs() + steps) + SMALLEST[got.dtype]
    error = (got.double() - want).abs()
    assert (error <= allowed).all(), f"{float((error / allowed.clamp_min(1e-300)).max()):g} of what is allowed"
