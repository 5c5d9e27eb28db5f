import numpy as np
import pytest
import torch

import dali_icgan as di
from dali_icgan.augment import arrays
from tests.photos import patch

SIZE = 32
TRANSFORM = di.TrainTransform(SIZE)


@pytest.fixture(scope="module")
def augment(generator, extractor):
    return di.DAICGAN(generator=generator, extractor=extractor, p=0.5, microbatch=2)


@pytest.fixture(scope="module")
def photos():
    return [patch("coffee", i).copy() for i in range(6)]


def result(augment, images, n=6):
    return augment(images, range(n), None, 0, TRANSFORM)[0]


@pytest.fixture(scope="module")
def want(augment, photos):
    return result(augment, [torch.from_numpy(photo) for photo in photos])


class OnCuda:
    """An object with nothing but a hand-made ``__cuda_array_interface__``."""

    def __init__(self, shape=(8, 9, 3), typestr="|u1", **entries):
        self.__cuda_array_interface__ = {
            "shape": shape,
            "typestr": typestr,
            "data": (0x7F0000000000, False),
            "version": 3,
            **entries,
        }


class Exporting:
    """An object with nothing but the DLPack protocol, over a tensor."""

    def __init__(self, tensor):
        self._tensor = tensor

    def __dlpack__(self, **options):
        return self._tensor.__dlpack__(**options)

    def __dlpack_device__(self):
        return self._tensor.__dlpack_device__()


@pytest.fixture
def asked(monkeypatch):
    """How often CUDA was asked for; there is none."""
    calls = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: bool(calls.append(None)))
    return calls


# ---------------------------------------------------------------------- on the CPU


def read_only(photo):
    copy = photo.copy()
    copy.setflags(write=False)
    return copy


@pytest.mark.parametrize(
    "form",
    [
        lambda photo: photo,
        read_only,
        lambda photo: np.ascontiguousarray(photo[::-1])[::-1],
        lambda photo: np.asfortranarray(photo),
        lambda photo: np.concatenate([photo, photo], 1)[:, : photo.shape[1]],
        lambda photo: Exporting(torch.from_numpy(photo)),
        lambda photo: Exporting(torch.from_numpy(photo).permute(2, 0, 1).contiguous().permute(1, 2, 0)),
    ],
    ids=["plain", "read-only", "negative strides", "Fortran", "rows apart", "DLPack", "strided DLPack"],
)
@pytest.mark.filterwarnings("error")
def test_lists_of_arrays(augment, photos, want, form):
    assert torch.equal(result(augment, [form(photo) for photo in photos]), want)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.float16])
@pytest.mark.parametrize("wrap", [lambda x: x, read_only, lambda x: Exporting(torch.from_numpy(x))], ids=str)
def test_batches(augment, photos, dtype, wrap):
    batch = np.stack([photo[:40, :40].transpose(2, 0, 1) for photo in photos])
    batch = batch if dtype == np.uint8 else (batch / 255).astype(dtype)
    assert torch.equal(result(augment, wrap(batch)), result(augment, torch.from_numpy(batch)))


def test_nothing_is_copied_that_need_not_be(photos):
    tensor = torch.from_numpy(photos[0])
    for array in (photos[0], tensor, Exporting(tensor)):
        assert arrays.describe("image", array).tensor().data_ptr() == photos[0].ctypes.data


def test_one_list_may_hold_several_kinds(augment, photos, want):
    tensors = [torch.from_numpy(photo) for photo in photos]
    mixed = [photos[0], tensors[1], Exporting(tensors[2]), *photos[3:]]
    assert torch.equal(result(augment, mixed), want)


def test_what_is_an_array():
    assert all(map(arrays.is_array, (torch.zeros(1), np.zeros(1), Exporting(torch.zeros(1)), OnCuda())))
    assert not any(map(arrays.is_array, ([torch.zeros(1)], (), "x", 3)))


# ---------------------------------------------------------------------- arguments, before CUDA is touched


@pytest.mark.parametrize(
    ("images", "error", "message"),
    [
        (
            [OnCuda(), OnCuda(shape=(8, 9))],
            TypeError,
            r"images\[1\] must be a uint8 tensor \[h, w, 3\], got .* \[8, 9\]",
        ),
        ([OnCuda(), OnCuda(shape=(8, 9, 4))], TypeError, r"images\[1\] must be a uint8 tensor .*\[8, 9, 4\]"),
        ([OnCuda(typestr="<f4")], TypeError, r"images\[0\] must be a uint8 tensor .* got torch.float32 \[8, 9, 3\]"),
        ([OnCuda(typestr="<i8")], TypeError, r"images\[0\] must be uint8, float16 or float32, got '<i8'"),
        ([OnCuda(typestr=">f4")], TypeError, r"images\[0\] must be uint8, float16 or float32, got '>f4'"),
        ([OnCuda(mask=OnCuda())], ValueError, r"images\[0\] must have no mask, got one"),
        (
            [OnCuda(strides=(-27, 3, 1))],
            ValueError,
            r"images\[0\] must have one stride a dimension, .* not negative, got \(-27, 3, 1\) for \[8, 9, 3\]: make it",
        ),
        ([OnCuda(strides=(27, 3))], ValueError, r"images\[0\] must have one stride a dimension, .* got \(27, 3\)"),
        ([OnCuda(stream=0)], ValueError, r"images\[0\] must name its stream by 1, 2 or a handle, or None, got 0"),
        (OnCuda(), ValueError, r"images must be \[n, 3, h, w\], got \[8, 9, 3\]"),
        (OnCuda(shape=(2, 4, 8, 8)), ValueError, r"images must be \[n, 3, h, w\], got \[2, 4, 8, 8\]"),
        (OnCuda(shape=(2, 3, 8, 8), typestr="<f8"), TypeError, "images must be uint8, float16 or float32, got '<f8'"),
        (
            OnCuda(shape=(1, 3, 2, 2), typestr="<f4", strides=(48, 16, 8, 2)),
            ValueError,
            r"images must have one stride a dimension, a multiple of 4 bytes",
        ),
        ([np.zeros((8, 9, 3), np.int64)], TypeError, r"images\[0\] must be uint8, float16 or float32, got '<i8'"),
        ([np.zeros((8, 9, 3), ">f4")], TypeError, r"images\[0\] must be uint8, float16 or float32, got '>f4'"),
        ([np.zeros((8, 9, 3), np.float32)], TypeError, r"images\[0\] must be a uint8 tensor .* got torch.float32"),
        (np.zeros((8, 9, 3), np.uint8), ValueError, r"images must be \[n, 3, h, w\], got \[8, 9, 3\]"),
        (np.full((1, 3, 8, 8), 2, np.float32), ValueError, r"images must be in \[0, 1\]"),
        ([Exporting(torch.zeros(8, 9, 3))], TypeError, r"images\[0\] must be a uint8 tensor .* got torch.float32"),
        (Exporting(torch.zeros(2, 3, 8, 8, dtype=torch.int64)), TypeError, "images must be uint8, float32"),
        ([3], TypeError, r"images\[0\] must be a uint8 tensor \[h, w, 3\], got int"),
    ],
)
def test_wrong_arrays_are_named(augment, asked, images, error, message):
    n = len(images) if isinstance(images, list) else 2
    with pytest.raises(error, match=message):
        result(augment, images, n)
    assert asked == []


@pytest.mark.parametrize(
    "images",
    [
        [OnCuda()],
        [OnCuda(data=(0x7F0000000000, True))],
        [OnCuda(stream=1)],
        [OnCuda(stream=2, strides=None)],
        [OnCuda(strides=(54, 3, 1))],
        OnCuda(shape=(1, 3, 8, 8), typestr="<f2"),
    ],
    ids=["plain", "read-only", "legacy stream", "per-thread stream", "strided", "batch"],
)
def test_good_arrays_go_as_far_as_the_device(augment, asked, images):
    with pytest.raises(di.DeviceError, match=r"images.* is on a CUDA device, and torch sees none"):
        result(augment, images, 1)
    assert asked


def test_dlpack_on_a_device_that_torch_does_not_see(augment, asked):
    array = Exporting(torch.zeros(8, 9, 3, dtype=torch.uint8))
    array.__dlpack_device__ = lambda: (2, 0)
    with pytest.raises(di.DeviceError, match=r"images\[0\] is on a CUDA device, and torch sees none"):
        result(augment, [array], 1)
    assert asked


def test_dlpack_is_preferred(augment, photos, want):
    class Both(Exporting):
        def __init__(self, photo):
            super().__init__(torch.from_numpy(photo))
            self.__cuda_array_interface__ = OnCuda(photo.shape).__cuda_array_interface__

    assert torch.equal(result(augment, [Both(photo) for photo in photos]), want)


# ---------------------------------------------------------------------- on a GPU


class Interface:
    """A CUDA tensor with nothing but ``__cuda_array_interface__``, as Numba's arrays."""

    def __init__(self, tensor, stream=None, read_only=False):
        given = tensor.__cuda_array_interface__
        self._tensor = tensor
        self.__cuda_array_interface__ = {
            **given,
            "data": (given["data"][0], read_only),
            "strides": tuple(s * tensor.element_size() for s in tensor.stride()),
            "version": 3,
            "stream": stream,
        }


@pytest.fixture(scope="module")
def on_gpu():
    return di.DAICGAN(
        generator=di.load_generator("embedded", device="cuda"),
        extractor=di.load_extractor("embedded", device="cuda"),
        p=0.5,
    )


@pytest.mark.gpu
@pytest.mark.parametrize("read_only", [False, True])
@pytest.mark.parametrize("stream", [None, 1, 2])
def test_the_interface_on_a_gpu(on_gpu, photos, stream, read_only):
    tensors = [torch.from_numpy(photo).cuda() for photo in photos]
    torch.cuda.synchronize()
    want = result(on_gpu, tensors)
    got = result(on_gpu, [Interface(tensor, stream, read_only) for tensor in tensors])
    assert got.device == want.device
    assert torch.equal(got, want)


@pytest.mark.gpu
@pytest.mark.parametrize("kind", ["interface", "dlpack"])
def test_the_producers_stream_is_waited_for(on_gpu, photos, kind):
    sources = [torch.from_numpy(photo).cuda() for photo in photos]
    want = result(on_gpu, sources)
    targets = [torch.zeros_like(source) for source in sources]
    torch.cuda.synchronize()
    producer, consumer = torch.cuda.Stream(), torch.cuda.Stream()
    with torch.cuda.stream(producer):
        torch.cuda._sleep(200_000_000)  # a tenth of a second and more
        for source, target in zip(sources, targets, strict=True):
            target.copy_(source)
        if kind == "dlpack":
            cupy = pytest.importorskip("cupy")
            with cupy.cuda.ExternalStream(producer.cuda_stream):
                arrays_of = [cupy.from_dlpack(target) for target in targets]
                with torch.cuda.stream(consumer):
                    got = result(on_gpu, arrays_of)
        else:
            with torch.cuda.stream(consumer):
                got = result(on_gpu, [Interface(target, producer.cuda_stream) for target in targets])
    torch.cuda.synchronize()
    assert torch.equal(got, want)


@pytest.mark.gpu
def test_cupy(on_gpu, photos):
    cupy = pytest.importorskip("cupy")
    want = result(on_gpu, [torch.from_numpy(photo).cuda() for photo in photos])
    got = result(on_gpu, [cupy.asarray(photo) for photo in photos])
    assert torch.equal(got, want)
    out = cupy.from_dlpack(got)
    assert out.data.ptr == got.data_ptr()
    batch = np.stack([photo[:40, :40].transpose(2, 0, 1) for photo in photos])
    for values in (batch, (batch / 255).astype(np.float32)):
        assert torch.equal(result(on_gpu, cupy.asarray(values)), result(on_gpu, torch.from_numpy(values).cuda()))
    turned = cupy.asarray(photos[0])[::-1]
    with pytest.raises(ValueError, match=r"images\[0\] must have one stride a dimension, .* not negative"):
        result(on_gpu, [turned], 1)
