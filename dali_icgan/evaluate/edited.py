"""Images that are changed between the file and the decoder."""

import io
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from PIL import Image

from dali_icgan.data import Samples

Pixels = npt.NDArray[np.uint8]
Edit = Callable[[Pixels, str], Pixels]


@dataclass(eq=False)
class EditedSamples(Samples):
    """Samples whose images pass through ``edit`` when they are read; keys, labels and classes stay.

    Attributes:
        edit: (uint8 ``[h, w, 3]``, the image's key) to uint8 ``[h, w, 3]``; called by several threads at once.
    """

    edit: Edit = field(kw_only=True)

    def read(self, index: int) -> bytes:
        """The edited image, as a BMP: what is decoded is what was edited, bit for bit.

        Raises:
            OSError: the file is missing or unreadable.
            ValueError: it is no image.
        """
        data = super().read(index)
        try:
            with Image.open(io.BytesIO(data)) as file:
                pixels = np.asarray(file.convert("RGB"))
        except OSError as error:  # Pillow's, of an image that is none
            raise ValueError(str(error)) from error
        memory = io.BytesIO()
        Image.fromarray(self.edit(pixels, self.keys[index])).save(memory, "BMP")
        return memory.getvalue()


def edited(samples: Samples, edit: Edit) -> EditedSamples:
    """The same samples through ``edit``."""
    return EditedSamples(samples.sources, samples.labels, samples.root, samples.classes, samples.name, edit=edit)


def without_border(pixels: Pixels, _: str, border: int = 2) -> Pixels:
    """Without the red frame of 2 pixels that ObjectNet's authors put around every image, so that it is not trained on.

    Raises:
        ValueError: nothing would be left.
    """
    if min(pixels.shape[:2]) <= 2 * border:
        raise ValueError(f"{pixels.shape[1]} x {pixels.shape[0]} pixels, no more than the border")
    return np.ascontiguousarray(pixels[border:-border, border:-border])
