"""Official files to safetensors of our own."""

import os
from typing import Any

from dali_icgan.models.checkpoint import Checkpoint, read_checkpoint, write_checkpoint


def convert(in_path: str | os.PathLike[str], out_path: str | os.PathLike[str]) -> Checkpoint[Any]:
    """Write a generator or an extractor, whichever ``in_path`` holds, as safetensors: nothing is rounded, and it loads back with
    the same fingerprint. What no inference needs (classifier, projection head) is left out.

    Args:
        in_path: any file that ``load_generator`` or ``load_extractor`` takes; ``"embedded"``: the generator of that pair.
        out_path: the file to write, ending in ``.safetensors``.

    Returns:
        What was written: kind, architecture, tensors, fingerprint, and the notice on the weights' licence.

    Raises:
        ValueError: ``in_path`` is neither, or does not fit; ``out_path`` ends differently.
    """
    checkpoint = read_checkpoint(in_path)
    write_checkpoint(out_path, checkpoint)
    return checkpoint
