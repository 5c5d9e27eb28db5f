"""The augmentation as a node of anybody's DALI pipeline."""

import contextlib
import operator
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.dlpack import to_dlpack

from dali_icgan.augment import DAICGAN, EvalTransform, TrainTransform
from dali_icgan.augment.operator import Transform
from dali_icgan.data.decode import require_dali

try:
    from nvidia.dali.pipeline import do_not_convert
except ImportError:  # icgan_augment says so when it is called
    _Function = TypeVar("_Function")

    def do_not_convert(function: _Function) -> _Function:
        return function


if TYPE_CHECKING:
    from nvidia.dali.data_node import DataNode

Samples = Sequence[npt.NDArray[Any]]
Capsules = list[Any]

# More iterations than could ever be under way between the two nodes.
_SLOTS = 4096


@do_not_convert  # a pipeline with enable_conditionals would rewrite this function, and all that it calls
def icgan_augment(
    images: "DataNode",
    keys: "DataNode",
    *,
    epoch: "int | DataNode",
    labels: "DataNode | None" = None,
    transform: Transform,
    augment: DAICGAN,
    view: int = 0,
    dtype: torch.dtype | None = None,
) -> "DataNode | tuple[DataNode, DataNode]":
    """Augment a batch within a DALI pipeline: crop, flip and normalise each image, or what takes its place.

    The pixels are those of ``augment(images, keys, labels, epoch, transform)``, bit for bit, whatever the batch size.

    Args:
        images: as decoders give them, uint8 HWC of any sizes; or floating point ``[3, h, w]`` in [0, 1], all of one size. On the
            generator's device.
        keys: integers, one a sample (index), or two (index, repeat): what its random draws depend on, with seed, epoch and view.
            The index counts in the bank's dataset order. On the CPU, like epoch and labels: decisions are the host's.
        epoch: a number, or a node with one integer a sample, which may change within a batch.
        labels: integers, one a sample; a class-conditional generator needs them.
        transform: a TrainTransform or EvalTransform.
        augment: the operator; its ``seed`` is the one that counts. The node holds it as long as the pipeline lives.
        view: which of several views, 0..255.
        dtype: of the images returned, float32 or float16; None: float16 on the GPU, float32 on the CPU.

    Returns:
        images ``[3, s, s]`` a sample, layout CHW; with labels given (images, labels), labels int64 scalars, on the images' device.

    Raises:
        ValueError, TypeError: an argument is not as above, as far as that is known while the pipeline is being defined.
        DeviceError: DALI is not installed.
        RuntimeError: from the pipeline's ``run()``, whatever goes wrong there; its text has the error's type and message.

    Stream: the GPU's work goes to the stream on which DALI runs the node; the host does not wait, and nothing is copied back to it.
    """
    dali = require_dali()
    pipeline = dali.Pipeline.current()
    if pipeline is None:
        raise RuntimeError("icgan_augment must be called while a DALI pipeline is being defined")
    numbers = {"keys": keys}
    if labels is not None:
        numbers["labels"] = labels
    constant = None
    if isinstance(epoch, dali.data_node.DataNode):
        numbers["epoch"] = epoch
    else:
        constant = _epoch(epoch)
    for name, node in {"images": images, **numbers}.items():
        if not isinstance(node, dali.data_node.DataNode):
            raise TypeError(f"{name} must be a DataNode, got {type(node).__name__}")
    for name, node in numbers.items():
        if node.device != "cpu":
            raise ValueError(f"{name} must be on the CPU, where it is decided what happens to a row; got a GPU node")
    if not isinstance(augment, DAICGAN):
        raise TypeError(f"augment must be a DAICGAN, got {type(augment).__name__}")
    if not isinstance(transform, (TrainTransform, EvalTransform)):
        raise TypeError(f"transform must be a TrainTransform or EvalTransform, got {type(transform).__name__}")
    _check_device(images.device, pipeline.device_id, augment)
    if augment.generator is not None and augment.generator.class_conditional and labels is None:
        raise ValueError("labels must be given: the generator is class-conditional")
    if dtype not in (None, torch.float32, torch.float16):
        raise ValueError(f"dtype must be torch.float32 or torch.float16, which DALI has, or None, got {dtype}")
    augment([], [], [], constant or 0, transform, view=view)  # what else is wrong with them is seen on an empty batch
    on_gpu = images.device == "gpu"
    node = _Node(augment, transform, view, dtype, constant, list(numbers), pipeline.device_id if on_gpu else None)
    ticket = dali.fn.python_function(*numbers.values(), function=node.plan, batch_processing=True, device="cpu")
    outputs = dali.fn.dl_tensor_python_function(
        images,
        ticket.gpu() if on_gpu else ticket,
        function=node.pixels,
        device=images.device,
        batch_processing=True,
        synchronize_stream=False,
        num_outputs=1 if labels is None else 2,
        output_layouts=["CHW"],
    )
    return outputs if labels is None else tuple(outputs)


class _Node:
    """The two operators of one call: ``plan`` on the host has the numbers, ``pixels`` on the images' device makes the batch.

    A GPU operator sees the memory of its inputs on the device alone, where reading the numbers would be a wait. Their shapes it sees on
    the host: plan puts its numbers down in a slot, and the slot's own number travels as the length of a sample. So an iteration that
    fails between the two takes nobody else's numbers; its slot is written again after the others.
    """

    def __init__(
        self,
        augment: DAICGAN,
        transform: Transform,
        view: int,
        dtype: torch.dtype | None,
        epoch: int | None,
        names: list[str],
        gpu: int | None,
    ) -> None:
        self._augment = augment
        self._transform = transform
        self._view = view
        self._dtype = dtype
        self._epoch = epoch
        self._names = names
        self._gpu = gpu
        self._slots: dict[int, dict[str, npt.NDArray[Any]]] = {}
        self._count = 0
        # The weights may still be on their way, on the stream on which they were loaded.
        self._ready = None
        if augment.device.type == "cuda":
            self._ready = torch.cuda.current_stream(augment.device).record_event()

    def plan(self, *batches: Samples) -> list[npt.NDArray[np.uint8]]:
        """The numbers of a batch, one list of arrays a name, put down in a slot; its number + 1 is the length of the first result."""
        numbers = {name: _numbers(name, samples) for name, samples in zip(self._names, batches, strict=True)}
        slot = self._count % _SLOTS
        self._count += 1
        self._slots[slot] = numbers
        # Never empty: empty samples have had their faults on the way to the GPU, in DALI (#4254) and in torch (#41182).
        return [np.zeros(1 if i else 1 + slot, np.uint8) for i in range(len(batches[0]))]

    def pixels(self, images: Capsules, tickets: Capsules) -> Capsules | tuple[Capsules, Capsules]:
        """DLPack capsules of a finished batch, and of its labels where there are any."""
        numbers = self._slots.pop(len(torch.from_dlpack(tickets[0])) - 1)
        with torch.no_grad(), self._on_dali_stream():
            finished, labels = self._augmented([torch.from_dlpack(image) for image in images], **numbers)
            made = [to_dlpack(each) for each in finished]
            return (made, [to_dlpack(each) for each in labels]) if "labels" in numbers else made

    def _augmented(
        self,
        images: list[torch.Tensor],
        keys: npt.NDArray[Any],
        labels: npt.NDArray[Any] | None = None,
        epoch: npt.NDArray[Any] | None = None,
    ) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        of_row = np.full(len(images), self._epoch) if epoch is None else epoch
        rows: list[Any] = [None] * len(images)
        for each in np.unique(of_row):  # a reader may go on into the next epoch within a batch
            places = np.flatnonzero(of_row == each)
            made, classes, _ = self._augment(
                _as_given([images[i] for i in places]),
                keys[places],
                None if labels is None else labels[places],
                int(each),
                self._transform,
                view=self._view,
                dtype=self._dtype,
            )
            for place, *row in zip(places, made, classes, strict=True):
                rows[place] = row
        return [image for image, _ in rows], [label for _, label in rows]

    @contextlib.contextmanager
    def _on_dali_stream(self) -> Iterator[None]:
        if self._gpu is None:
            yield
            return
        address = require_dali().ops.PythonFunction.current_stream().ptr
        stream = torch.cuda.ExternalStream(address, device=self._gpu)
        with torch.cuda.stream(stream):
            if self._ready is not None:
                stream.wait_event(self._ready)
            yield


def _as_given(images: list[torch.Tensor]) -> list[torch.Tensor] | torch.Tensor:
    if not images[0].is_floating_point():
        return images
    sizes = {tuple(image.shape) for image in images}
    if len(sizes) > 1:
        raise ValueError(f"images must all have one size where they are floating point, got {sorted(sizes)[:3]}")
    return torch.stack(images)


def _numbers(name: str, samples: Samples) -> npt.NDArray[Any]:
    """One number a sample, or for keys perhaps two: integers ``[n]`` or ``[n, 2]``."""
    allowed = [(), (1,), (2,)] if name == "keys" else [(), (1,)]
    shapes = {sample.shape for sample in samples}
    if len(shapes) > 1 or not shapes <= set(allowed):
        two = ", or two (index, repeat)" if name == "keys" else ""
        raise ValueError(f"{name} must be one integer a sample{two}, got shapes {sorted(shapes)[:3]}")
    array = np.stack(samples)
    if array.dtype.kind not in "iu":
        raise TypeError(f"{name} must be integers, got {array.dtype}")
    return array if array.shape[1:] == (2,) else array.reshape(-1)


def _epoch(epoch: Any) -> int:
    try:
        return operator.index(epoch)
    except TypeError:
        raise TypeError(f"epoch must be an integer or a DataNode, got {type(epoch).__name__}") from None


def _check_device(device: str, device_id: int | None, augment: DAICGAN) -> None:
    if augment.source == "neighbour":
        return  # its images go where they are wanted
    where = "cpu" if device == "cpu" else f"cuda:{device_id}"
    if str(augment.device) != where:
        raise ValueError(f"images must be on the generator's device {augment.device}, got a node on {where}")
