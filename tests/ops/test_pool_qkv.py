import pytest
import torch

from dali_icgan.ops.pool_qkv import pool_qkv, pool_qkv_reference
from tests.ops.channels_last import CPU_DTYPES, DTYPES, Guarded, padded, random, same_bits

# n, h, w, d, e, key width, value width: empty, smallest, primes doubled, beside a packet's width, padded, the 256 px generator's.
CASES = [
    (0, 2, 2, 8, 16, 8, 16),
    (1, 0, 4, 8, 8, 8, 8),
    (1, 2, 2, 1, 1, 1, 1),
    (2, 6, 10, 3, 7, 5, 8),
    (1, 2, 6, 0, 5, 0, 5),
    (1, 2, 6, 4, 0, 4, 3),
    (3, 4, 2, 8, 32, 16, 32),
    (2, 6, 14, 9, 15, 16, 24),
    (1, 6, 4, 48, 192, 192, 192),
    (1, 2, 4, 520, 1040, 520, 1040),
]


def widths(case):
    return {"key_width": case[5], "value_width": case[6]}


def qkv_of(case, dtype, device="cpu"):
    n, h, w, d, e, *_ = case
    return random((n, h, w, 2 * d + e), dtype, 1, device)


def shapes(case):
    n, h, w, _, _, key, value = case
    return (n, h * w, key), (n, h * w // 4, key), (n, h * w // 4, value)


def check_against_float64(case, dtype, device):
    qkv = qkv_of(case, dtype, device)
    got = pool_qkv(qkv, case[3], **widths(case))
    if not qkv.numel():
        assert tuple(t.shape for t in got) == shapes(case)
        return
    for ours, want in zip(got, pool_qkv_reference(qkv, case[3], **widths(case)), strict=True):
        assert ours.dtype == dtype
        assert ours.is_contiguous()
        assert torch.equal(ours.double(), want)


@pytest.mark.parametrize("dtype", CPU_DTYPES)
@pytest.mark.parametrize("case", CASES)
def test_is_exact(case, dtype):
    check_against_float64(case, dtype, "cpu")


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", CASES)
def test_is_exact_on_cuda(case, dtype):
    check_against_float64(case, dtype, "cuda")


def test_widths_are_those_of_the_values_by_default():
    q, k, v = pool_qkv(qkv_of((1, 4, 6, 3, 7), torch.float32), 3)
    assert (q.shape, k.shape, v.shape) == ((1, 24, 3), (1, 6, 3), (1, 6, 7))


@pytest.mark.parametrize("extra", [0, 8, 3])
@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", CASES)
def test_cuda_kernel_run_on_the_cpu_and_any_layout_give_the_same_bits(case, dtype, extra, offset, on_emulated_cuda):
    qkv = qkv_of(case, dtype)
    want = pool_qkv(qkv, case[3], **widths(case))
    moved = padded(qkv, extra, offset)
    for emulated in (False, True):
        rooms = [Guarded(shape, dtype, offset=offset) for shape in shapes(case)]
        with on_emulated_cuda() if emulated else torch.no_grad():
            pool_qkv(moved, case[3], out=tuple(room.tensor for room in rooms))
        for room, expected in zip(rooms, want, strict=True):
            assert same_bits(room.tensor, expected)
            assert room.untouched_around()


@pytest.mark.parametrize("which", range(3))
def test_one_result_that_forbids_packets(which, on_emulated_cuda):
    case = (1, 4, 6, 8, 16, 16, 24)
    qkv = qkv_of(case, torch.float16)
    rooms = [Guarded(shape, torch.float16, offset=int(i == which)) for i, shape in enumerate(shapes(case))]
    with on_emulated_cuda():
        pool_qkv(qkv, 8, out=tuple(room.tensor for room in rooms))
    for room, want in zip(rooms, pool_qkv(qkv, 8, **widths(case)), strict=True):
        assert same_bits(room.tensor, want)
        assert room.untouched_around()


@pytest.mark.parametrize("dtype", CPU_DTYPES)
def test_threads_do_not_change_a_bit(dtype):
    qkv = qkv_of((3, 38, 42, 5, 9), dtype)
    torch.set_num_threads(1)
    want = pool_qkv(qkv, 5)
    for count in (1, 2, 3):
        torch.set_num_threads(count)
        assert all(same_bits(a, b) for a, b in zip(pool_qkv(qkv, 5), want, strict=True))


@pytest.mark.parametrize("place", [(0, 0), (0, 1), (1, 0), (1, 1)])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", CPU_DTYPES)
def test_a_nan_wins_wherever_it_stands(place, value, dtype, on_emulated_cuda):
    qkv = random((1, 2, 2, 24), dtype, 1)
    qkv[(0, *place)] = value
    got = pool_qkv(qkv, 8)
    for ours, want in zip(got, pool_qkv_reference(qkv, 8), strict=True):
        torch.testing.assert_close(ours.double(), want, rtol=0, atol=0, equal_nan=True)
    if dtype == torch.float64:
        return
    with on_emulated_cuda():
        assert all(same_bits(a, b) for a, b in zip(pool_qkv(qkv, 8), got, strict=True))


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", CASES)
def test_cpu_and_cuda_agree_bit_for_bit(case, dtype):
    qkv = qkv_of(case, dtype)
    there = pool_qkv(qkv.cuda(), case[3], **widths(case))
    assert all(same_bits(a.cpu(), b) for a, b in zip(there, pool_qkv(qkv, case[3], **widths(case)), strict=True))


def test_is_a_torch_operator(device):
    qkv = random((1, 2, 4, 32), torch.float16, 1, device)
    torch.library.opcheck(torch.ops.dali_icgan.pool_qkv.default, (qkv, 8, 16, 16))


def test_backward_raises_rather_than_dropping_the_gradient():
    qkv = random((1, 2, 4, 32), torch.float32, 1).requires_grad_()
    with pytest.raises(RuntimeError, match="no autograd formula"):
        pool_qkv(qkv, 8)[0].sum().backward()


QKV = torch.ones(2, 4, 6, 7)


@pytest.mark.parametrize(
    ("qkv", "d", "options", "message"),
    [
        (QKV[0], 2, {}, r"qkv must have 4 dimensions, got \[4, 6, 7\]"),
        (QKV, 4, {}, r"d must be in \[0, 3\] for 7 channels, got 4"),
        (QKV, -1, {}, r"d must be in \[0, 3\] for 7 channels, got -1"),
        (QKV[:, :3].contiguous(), 2, {}, r"qkv must have an even height and width, got \[2, 3, 6, 7\]"),
        (QKV[:, :, :3].contiguous(), 2, {}, r"qkv must have an even height and width, got \[2, 4, 3, 7\]"),
        (QKV.to(torch.uint8), 2, {}, "qkv must be float32, float64, float16 or bfloat16, got uint8"),
        (QKV.transpose(1, 2), 2, {}, "qkv must have channels side by side and pixels equally far apart"),
        (torch.ones(65536, 2, 2, 2), 1, {}, "qkv must hold at most 65535 images, got 65536"),
        (QKV, 2, {"key_width": 1}, "key_width must be at least 2, got 1"),
        (QKV, 2, {"value_width": 2}, "value_width must be at least 3, got 2"),
    ],
)
def test_a_wrong_argument_is_named(qkv, d, options, message):
    with pytest.raises(ValueError, match=message):
        pool_qkv(qkv, d, **options)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"q": torch.empty(2, 24, 1)}, r"q must have shape \[2, 24, 2\] or wider rows, below 2\^24, got \[2, 24, 1\]"),
        ({"q": torch.empty(2, 23, 2)}, r"q must have shape \[2, 24, 2\] or wider rows, below 2\^24, got \[2, 23, 2\]"),
        ({"q": torch.empty(1, 24, 2)}, r"q must have shape \[2, 24, 2\] or wider rows, below 2\^24, got \[1, 24, 2\]"),
        ({"q": torch.empty(48, 2)}, r"q must have 3 dimensions, got \[48, 2\]"),
        ({"k": torch.empty(2, 6, 3)}, r"k must have rows as wide as q's, 2, got \[2, 6, 3\]"),
        ({"v": torch.empty(2, 6, 2)}, r"v must have shape \[2, 6, 3\] or wider rows, below 2\^24, got \[2, 6, 2\]"),
        ({"k": torch.empty(2, 6, 2).half()}, "k must be float32, got float16"),
        ({"v": torch.empty(2, 3, 6).transpose(1, 2)}, "v must be contiguous"),
    ],
)
def test_a_wrong_result_is_named(changed, message):
    out = {"q": torch.empty(2, 24, 2), "k": torch.empty(2, 6, 2), "v": torch.empty(2, 6, 3), **changed}
    with pytest.raises(ValueError, match=message):
        pool_qkv(QKV, 2, out=tuple(out.values()))


def test_a_d_that_does_not_fit_is_named_with_results_too():
    out = torch.empty(2, 24, 4), torch.empty(2, 6, 4), torch.empty(2, 6, 1)
    with pytest.raises(ValueError, match=r"d must be in \[0, 3\] for 7 channels, got 4"):
        pool_qkv(QKV, 4, out=out)


def test_float64_is_the_cpus_alone(on_emulated_cuda):
    with on_emulated_cuda(), pytest.raises(ValueError, match="qkv must be float32, float16 or bfloat16, got float64"):
        pool_qkv(QKV.double(), 2)
