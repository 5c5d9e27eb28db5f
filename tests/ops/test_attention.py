import ctypes
import gc
import mmap
import weakref

import pytest
import torch

from dali_icgan._native import native, ref
from dali_icgan.ops.attention import BoundAttention, attention, attention_reference, attention_workspace
from dali_icgan.ops.instructions import instruction_sets

SETS = [(dtype, instructions) for dtype in (torch.float32, torch.float64) for instructions in instruction_sets()]
# n, queries, keys, d, e: one of everything, primes, beside the vector widths, beside the blocks of queries and the pieces of keys
SHAPES = [
    (1, 1, 1, 1, 1),
    (2, 3, 2, 1, 5),
    (1, 16, 4, 4, 16),
    (3, 63, 65, 17, 31),
    (2, 65, 63, 8, 33),
    (1, 129, 64, 31, 70),
    (1, 32, 200, 5, 48),
    (1, 7, 131, 64, 97),
    (1, 256, 64, 32, 128),
]
# Relative error in the 2-norm. The largest seen here are 5e-7 and 1e-15.
ALLOWED = {torch.float32: 2e-6, torch.float64: 1e-14}
GUARD = 64


def random(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def arguments(n, queries, keys, d, e, dtype=torch.float32, scale=1.0):
    """Logits of about the size `scale`."""
    q = random(n, queries, d) * scale / d**0.5
    return tuple(t.to(dtype) for t in (q, random(n, keys, d, seed=1), random(n, keys, e, seed=2)))


def run(q, k, v, instructions=None, *, threads=1, beyond=0):
    """Into poisoned memory with guard bands around it and, `beyond` columns of them, between its rows."""
    torch.set_num_threads(threads)
    (n, queries, _), e = q.shape, v.shape[2]
    count = n * queries * (e + beyond)
    room = torch.full((count + 2 * GUARD,), -7.0, dtype=q.dtype)
    wide = room[GUARD : GUARD + count].view(n, queries, e + beyond)
    out = wide[..., :e]
    out.fill_(float("nan"))
    size = attention_workspace(q.dtype, *k.shape[1:], e, threads, instructions)
    scratch = torch.full((size + 2 * GUARD,), 255, dtype=torch.uint8)
    assert attention(q, k, v, out, scratch[GUARD : GUARD + size], instructions) is out
    assert (room[:GUARD] == -7).all()
    assert (room[GUARD + count :] == -7).all()
    assert (wide[..., e:] == -7).all()
    assert (scratch[:GUARD] == 255).all()
    assert (scratch[GUARD + size :] == 255).all()
    return out.clone()


def relative(got, want):
    return ((got.double() - want).norm() / want.norm()).item()


@pytest.mark.parametrize(("dtype", "instructions"), SETS)
@pytest.mark.parametrize("beyond", [0, 3])
def test_against_float64(dtype, instructions, beyond):
    for shape in SHAPES:
        given = arguments(*shape, dtype)
        got = run(*given, instructions, beyond=beyond)
        assert relative(got, attention_reference(*given)) < ALLOWED[dtype], shape


@pytest.mark.parametrize(("dtype", "instructions"), SETS)
def test_exp(dtype, instructions):
    """Two keys, of which one has logit 0 and the other x: their weights are 1 / (1 + exp(x)) and exp(x) / (1 + exp(x))."""
    lowest = {torch.float32: -87.3365, torch.float64: -708.396}[dtype]
    x = torch.cat(
        [torch.linspace(lowest, 0, 20011, dtype=torch.float64), -torch.logspace(-20, 0, 301, dtype=torch.float64)]
    )
    q = torch.stack([x.to(dtype), torch.zeros(len(x), dtype=dtype)], 1)[None]
    got = run(q, torch.eye(2, dtype=dtype)[None], torch.eye(2, dtype=dtype)[None], instructions)[0].double()
    exact = q[0, :, 0].double().exp()
    want = torch.stack([exact / (1 + exact), 1 / (1 + exact)], 1)
    assert ((got - want) / want).abs().max() < 5 * torch.finfo(dtype).eps


@pytest.mark.parametrize(("dtype", "instructions"), SETS)
def test_weights_too_small_for_a_normal_number_are_zero(dtype, instructions):
    lowest = {torch.float32: -87.337, torch.float64: -708.397}[dtype]
    q = torch.tensor([lowest, 2 * lowest, 3 * lowest, -1e30], dtype=dtype).view(1, 4, 1)
    k = torch.tensor([1.0, 0.0], dtype=dtype).view(1, 2, 1)
    v = torch.tensor([float("inf"), 5.0], dtype=dtype).view(1, 2, 1)
    assert run(q, k, v, instructions).isnan().all()  # zero times infinity
    assert (run(q, k, v.nan_to_num(), instructions) == 5).all()
    q[0, :, 0] = -float("inf")  # without a zero among the keys
    assert (run(q[:, :, :1], k + 1, v.nan_to_num(), instructions)).isnan().all()  # nothing but -inf


@pytest.mark.parametrize(("dtype", "instructions"), SETS)
@pytest.mark.parametrize("scale", [30.0, 1e4])
def test_large_logits_do_not_overflow(dtype, instructions, scale):
    # Of the largest logit of a row an absolute error remains, as large as its rounding.
    given = arguments(2, 70, 90, 8, 20, dtype, scale)
    got = run(*given, instructions)
    assert got.isfinite().all()
    assert relative(got, attention_reference(*given)) < 10 * scale * torch.finfo(dtype).eps
    shifted = torch.full((1, 3, 1), 1.0, dtype=dtype), torch.full((1, 5, 1), torch.finfo(dtype).max, dtype=dtype)
    v = random(1, 5, 4).to(dtype)
    for sign in (1, -1):
        got = run(shifted[0], sign * shifted[1], v, instructions)
        assert relative(got, v.double().mean(1, keepdim=True).expand(1, 3, 4)) < ALLOWED[dtype]


@pytest.mark.parametrize(("dtype", "instructions"), SETS)
def test_nan_stays_where_it_belongs(dtype, instructions):
    nan = float("nan")
    q, k, v = arguments(2, 70, 130, 4, 20, dtype)
    clean = run(q, k, v, instructions)
    for j in (0, 67, 129):
        bad = q.clone()
        bad[0, 5, 2] = nan
        got = run(bad, k, v, instructions)
        assert got[0, 5].isnan().all()
        got[0, 5] = clean[0, 5]
        assert torch.equal(got, clean)
        for value in (nan, float("inf")):  # infinite: of both signs among the logits, and inf - inf
            bad = k.clone()
            bad[1, j, 1] = value
            got = run(q, bad, v, instructions)
            assert torch.equal(got[0], clean[0])
            rows = torch.ones(70, dtype=torch.bool) if value != value else q[1, :, 1] > 0
            assert got[1, rows].isnan().all()
            assert not got[1, ~rows].isnan().any()
        bad = v.clone()
        bad[0, j, 19] = nan
        got = run(q, k, bad, instructions)
        assert got[0, :, 19].isnan().all()
        got[0, :, 19] = clean[0, :, 19]
        assert torch.equal(got, clean)


@pytest.mark.parametrize(("dtype", "instructions"), SETS)
def test_a_row_is_its_own(dtype, instructions):
    """Whatever the batch, the other queries, the threads and the memory."""
    for shape in ((5, 150, 131, 12, 21), (3, 64, 70, 32, 64)):
        q, k, v = arguments(*shape, dtype)
        want = run(q, k, v, instructions)
        for threads in (1, 2, 3):
            assert torch.equal(run(q, k, v, instructions, threads=threads), want)
            assert torch.equal(run(q, k, v, instructions, threads=threads, beyond=5), want)
        assert torch.equal(run(q[2:3], k[2:3], v[2:3], instructions, threads=2), want[2:3])
        for rows in (slice(7, 8), slice(3, 60), slice(29, shape[1])):
            assert torch.equal(run(q[:, rows].contiguous(), k, v, instructions), want[:, rows])
        moved = [torch.empty(t.numel() + 1, dtype=dtype)[1:].view(t.shape).copy_(t) for t in (q, k, v)]
        assert torch.equal(run(*moved, instructions), want)


@pytest.mark.skipif("avx512" not in instruction_sets(), reason="needs AVX-512")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_avx2_and_avx512_give_the_same_bits(dtype):
    for shape in SHAPES:
        given = arguments(*shape, dtype)
        assert torch.equal(run(*given, "avx2"), run(*given, "avx512"))


@pytest.mark.parametrize(("dtype", "instructions"), SETS)
def test_nothing_is_read_beyond_the_end(dtype, instructions):
    """Each argument ends where a page begins that may not be read: a read of it ends the process."""
    libc, page = ctypes.CDLL(None, use_errno=True), mmap.PAGESIZE

    def at_the_end(t):
        pages = -(-t.nbytes // page)
        room = torch.frombuffer(mmap.mmap(-1, (pages + 1) * page), dtype=dtype)
        assert libc.mprotect(ctypes.c_void_p(room.data_ptr() + pages * page), ctypes.c_size_t(page), 0) == 0
        return room[: pages * page // t.itemsize][-t.numel() :].view(t.shape).copy_(t)

    for shape in SHAPES:
        given = arguments(*shape, dtype)
        assert torch.equal(run(*map(at_the_end, given), instructions), run(*given, instructions))


def test_nothing_to_do():
    assert run(*arguments(0, 5, 4, 3, 2)).shape == (0, 5, 2)
    q, k, v = arguments(2, 1, 4, 3, 2)
    assert run(q[:, :0], k, v).shape == (2, 0, 2)


def test_a_small_workspace_means_fewer_threads():
    q, k, v = arguments(2, 300, 20, 4, 6)
    assert attention_workspace(torch.float32, 20, 4, 6, 3) == 3 * attention_workspace(torch.float32, 20, 4, 6)
    want = run(q, k, v)
    torch.set_num_threads(4)
    size = attention_workspace(torch.float32, 20, 4, 6, 2)
    room = torch.full((size + GUARD,), 255, dtype=torch.uint8)
    assert torch.equal(attention(q, k, v, torch.empty(2, 300, 6), room[:size]), want)
    assert (room[size:] == 255).all()


def test_a_bound_call_reads_what_its_tensors_hold_then_and_keeps_them():
    q, k, v = arguments(1, 10, 20, 4, 6)
    out, workspace = torch.empty(1, 10, 6), torch.empty(attention_workspace(torch.float32, 20, 4, 6), dtype=torch.uint8)
    alive = weakref.ref(v)
    bound = BoundAttention(q, k, v, out, workspace)
    v.zero_()
    bound()
    assert not out.any()
    v.copy_(random(1, 20, 6))
    want = attention_reference(q, k, v)
    del v
    gc.collect()
    bound()
    assert relative(out, want) < 2e-6
    del bound
    gc.collect()
    assert alive() is None


BYTES = attention_workspace(torch.float32, 6, 3, 5)


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"q": torch.ones(4, 3)}, ValueError, r"q must have 3 dimensions, got \[4, 3\]"),
        ({"k": torch.ones(6, 3)}, ValueError, r"k must have 3 dimensions, got \[6, 3\]"),
        ({"v": torch.ones(6, 5)}, ValueError, r"v must have 3 dimensions, got \[6, 5\]"),
        ({"k": torch.ones(2, 6, 4)}, ValueError, r"k must have shape \[2, 6, 3\], got \[2, 6, 4\]"),
        ({"k": torch.ones(1, 6, 3)}, ValueError, r"k must have shape \[2, 6, 3\], got \[1, 6, 3\]"),
        ({"k": torch.ones(2, 0, 3)}, ValueError, "keys must be at least 1, got 0"),
        ({"q": torch.ones(2, 4, 0)}, ValueError, "d must be at least 1, got 0"),
        ({"v": torch.ones(2, 6, 0)}, ValueError, "e must be at least 1, got 0"),
        ({"v": torch.ones(2, 7, 5)}, ValueError, r"v must have shape \[2, 6, 5\], got \[2, 7, 5\]"),
        ({"out": torch.ones(2, 4, 6)}, ValueError, r"out must have shape \[2, 4, 5\], got \[2, 4, 6\]"),
        ({"q": torch.ones(2, 4, 3).half()}, ValueError, "q must be float32 or float64, got float16"),
        ({"q": torch.ones(2, 4, 3).bool()}, TypeError, "q must be one of .*, got torch.bool"),
        ({"k": torch.ones(2, 6, 3).double()}, ValueError, "k must be float32, got float64"),
        ({"v": torch.ones(2, 6, 5).double()}, ValueError, "v must be float32, got float64"),
        ({"out": torch.ones(2, 4, 5).double()}, ValueError, "out must be float32, got float64"),
        ({"q": torch.ones(2, 3, 4).transpose(1, 2)}, ValueError, "q must be contiguous, got strides"),
        ({"k": torch.ones(2, 3, 6).transpose(1, 2)}, ValueError, "k must be contiguous, got strides"),
        ({"v": torch.ones(2, 6, 6)[..., :5]}, ValueError, "v must be contiguous, got strides"),
        ({"out": torch.ones(2, 5, 4).transpose(1, 2)}, ValueError, r"out must have contiguous rows equally far apart, got strides \[20, 1, 4\]"),
        ({"out": torch.ones(2, 5, 5)[:, :4]}, ValueError, r"out must have contiguous rows equally far apart, got strides \[25, 5, 1\]"),
        ({"out": torch.ones(1, 4, 5).expand(2, 4, 5)}, ValueError, r"out must have contiguous rows .*, got strides \[0, 5, 1\]"),
        ({"out": torch.ones(2, 4, 10)[..., ::2]}, ValueError, r"out must have contiguous rows .*, got strides \[40, 10, 2\]"),
        ({"workspace": torch.ones(9)}, ValueError, "workspace must be uint8, got float32"),
        ({"workspace": torch.ones(9, 9, dtype=torch.uint8)}, ValueError, "workspace must have 1 dimensions, got"),
        ({"workspace": torch.ones(2 * BYTES, dtype=torch.uint8)[::2]}, ValueError, "workspace must be contiguous, got"),
        ({"workspace": torch.ones(2 * BYTES, dtype=torch.uint8)[1:]}, ValueError, "workspace must be aligned to 8 bytes, got an offset of 1"),
        ({"workspace": torch.ones(BYTES - 1, dtype=torch.uint8)}, ValueError, f"workspace must have at least {BYTES} bytes, got {BYTES - 1}"),
        ({"instructions": "mmx"}, ValueError, r"instructions must be one of this processor's \(.*\) in float32, got mmx"),
    ],
)  # fmt: skip
def test_a_wrong_argument_is_named(changed, error, message):
    given = {
        "q": torch.ones(2, 4, 3),
        "k": torch.ones(2, 6, 3),
        "v": torch.ones(2, 6, 5),
        "out": torch.empty(2, 4, 5),
        "workspace": torch.empty(BYTES, dtype=torch.uint8),
    }
    with pytest.raises(error, match=message):
        attention(**{**given, **changed})


@pytest.mark.parametrize("name", ["q", "k", "v", "workspace"])
@pytest.mark.parametrize("target", ["out", "workspace"])
def test_shared_memory_is_refused(name, target):
    if name == target:
        return
    given = {
        "q": torch.ones(2, 4, 4),
        "k": torch.ones(2, 6, 4),
        "v": torch.ones(2, 6, 6),
        "out": torch.empty(2, 4, 8)[..., :6],
        "workspace": torch.empty(attention_workspace(torch.float32, 6, 4, 6), dtype=torch.uint8),
    }
    here, there = given[name], given[target]
    # The last element of one, or one of the last eight bytes, is the first of the other.
    span = 4 * (7 * 8 + 6) if target == "out" else there.nbytes
    begin = span // 8 * 8 if target == "out" else there.nbytes - 8
    both = torch.empty(2048 + there.nbytes + here.nbytes, dtype=torch.uint8)
    begin -= 8 * (begin >= span)
    if target == "out":
        given[target] = both[: 4 * 64].view(torch.float32).view(2, 4, 8)[..., :6]
    else:
        given[target] = both[: there.nbytes]
    given[name] = both[begin : begin + here.nbytes].view(here.dtype).view(here.shape)
    first, second = ("workspace", "out") if name == "workspace" else (target, name)
    with pytest.raises(ValueError, match=f"{first} must not share memory with {second}, got an overlap"):
        attention(**given)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ((torch.float16, 1, 1, 1), "dtype must be float32 or float64, got torch.float16"),
        ((torch.float32, 0, 1, 1), "keys must be at least 1, got 0"),
        ((torch.float32, 1, 1, 1, 0), "threads must be at least 1, got 0"),
        ((torch.float32, 1, 1, 1, 1, "mmx"), "instructions must be one of this processor's .*, got mmx"),
    ],
)
def test_a_wrong_size_is_named(given, message):
    with pytest.raises(ValueError, match=message):
        attention_workspace(*given)


def test_the_binding_wants_a_thread():
    q, k, v = arguments(1, 2, 6, 3, 5)
    tensors = {"q": q, "k": k, "v": v, "out": torch.empty(1, 2, 5), "w": torch.empty(BYTES, dtype=torch.uint8)}
    bound = native().AttentionBound(*(ref(name, t) for name, t in tensors.items()), instruction_sets()[0])
    with pytest.raises(ValueError, match="threads must be at least 1, got 0"):
        bound.run(0)
