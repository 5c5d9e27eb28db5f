"""How all plots of reports look."""

import io

from matplotlib.axes import Axes
from matplotlib.figure import Figure


def axes(width: float, height: float) -> tuple[Figure, Axes]:
    """A drawing of so many inches, at 120 dpi, with one pair of axes."""
    drawing = Figure(figsize=(width, height), dpi=120, layout="constrained")
    pair = drawing.add_subplot()
    plain(pair)
    return drawing, pair


def plain(pair: Axes) -> None:
    """A faint grid behind what is drawn, no frame above and to the right."""
    pair.grid(True, alpha=0.3)
    pair.set_axisbelow(True)
    pair.spines[["top", "right"]].set_visible(False)


def png(drawing: Figure) -> bytes:
    """The drawing as a PNG file's bytes."""
    memory = io.BytesIO()
    drawing.savefig(memory, format="png")
    return memory.getvalue()
