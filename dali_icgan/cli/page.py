"""A page of pictures in rows: each cell pixel for pixel, generations framed in colour."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageDraw, ImageFont

from dali_icgan.augment.transform import EvalTransform, TrainTransform

Pixels = npt.NDArray[np.uint8]

GENERATED = (232, 89, 12)  # the frame of a generation
FRAME = 4  # its width in pixels; it lies outside the picture
_HAIR = (207, 213, 219)  # the border of anything else
_PAPER, _INK, _QUIET = "#ffffff", "#1b1f24", "#5c6670"
_WARNING_PAPER, _WARNING_INK = "#fff1cc", "#6b4300"
_MARGIN, _GAP, _SECTION_GAP, _GROUP_GAP = 32, 16, 36, 64
_TITLE, _TEXT = 25, 15


@dataclass(frozen=True)
class Cell:
    """A picture, uint8 ``[h, w, 3]``, whether it takes the photograph's place, and a few words below it."""

    pixels: Pixels
    generated: bool = False
    note: str = ""


@dataclass(frozen=True)
class Row:
    """One sample: its class, its file, and a cell a column; None leaves it empty."""

    label: str
    detail: str
    cells: Sequence[Cell | None]


@dataclass(frozen=True)
class Section:
    """Neighbouring columns under one heading."""

    heading: str
    columns: Sequence[str]


class Page:
    """Lays rows of cells out under headings, and draws them.

    Args:
        title: one line.
        lines: what is shown, in plain sentences.
        warning: said in a box of its own; "" for none.
        legend: what the frame and what the plain border mean.
        sections: the columns.
        rows: the samples, each with a cell a column.
        side: pixels of a cell. A square picture that fits a whole number of times is repeated pixel by pixel, any other is resized
            to touch the cell's border.
        groups: how many blocks of rows stand side by side.
    """

    def __init__(
        self,
        title: str,
        lines: Sequence[str],
        warning: str,
        legend: tuple[str, str],
        sections: Sequence[Section],
        rows: Sequence[Row],
        *,
        side: int,
        groups: int = 1,
    ) -> None:
        self._sections = sections
        self.rows = rows
        self._side = side
        self._per_group = math.ceil(len(rows) / groups)
        self._group_width = self._columns[-1] + side
        body = groups * self._group_width + (groups - 1) * _GROUP_GAP
        self.width = 2 * _MARGIN + max(body, 720)
        self._legend = legend
        inner = self.width - 2 * _MARGIN
        self._title = _shortened(title, _font(_TITLE, bold=True), inner)
        self._lines = [piece for line in lines for piece in _wrapped(line, _font(_TEXT), inner)]
        self._warning = _wrapped(warning, _font(_TEXT, bold=True), inner - 24) if warning else []
        self._noted = any(cell is not None and cell.note for row in rows for cell in row.cells)
        self._row_height = 24 + side + FRAME + 12 + (16 if self._noted else 0)
        head = _MARGIN + 42 + 22 * len(self._lines) + 40 + (22 * len(self._warning) + 32 if warning else 0)
        self._headings_top = head + 8
        self._top = self._headings_top + (56 if any(section.heading for section in sections) else 30)
        self.height = self._top + self._per_group * self._row_height + _MARGIN - 12

    @cached_property
    def _columns(self) -> list[int]:
        """The left edge of each column within a group."""
        lefts, left = [], 0
        for section in self._sections:
            for _ in section.columns:
                lefts.append(left)
                left += self._side + _GAP
            left += _SECTION_GAP - _GAP
        return lefts

    def place(self, row: int, column: int) -> tuple[int, int, int, int]:
        """Where a cell's picture lies: left, top, right, bottom, the last two excluded."""
        cell = self.rows[row].cells[column]
        height, width = (self._side, self._side) if cell is None else self._scaled_size(cell.pixels)
        left = self._group_left(row // self._per_group) + self._columns[column] + (self._side - width) // 2
        top = self._row_top(row) + 24 + (self._side - height) // 2
        return left, top, left + width, top + height

    def draw(self) -> Image.Image:
        """The page, RGB."""
        page = Image.new("RGB", (self.width, self.height), _PAPER)
        pen = ImageDraw.Draw(page)
        self._draw_head(pen)
        for group in range(math.ceil(len(self.rows) / self._per_group)):
            self._draw_headings(pen, self._group_left(group))
        for number, row in enumerate(self.rows):
            left, top = self._group_left(number // self._per_group), self._row_top(number)
            label = _shortened(row.label, _font(_TEXT, bold=True), self._group_width)
            pen.text((left, top), label, _INK, _font(_TEXT, bold=True))
            begin = left + _font(_TEXT, bold=True).getlength(label) + 10
            room = left + self._group_width - begin
            pen.text((begin, top + 1), _shortened(row.detail, _font(13), room), _QUIET, _font(13))
            for column, cell in enumerate(row.cells):
                if cell is not None:
                    self._draw_cell(page, pen, cell, self.place(number, column))
                    note = _shortened(cell.note, _font(11), self._side + _GAP - 4)
                    pen.text((left + self._columns[column], top + 24 + self._side + FRAME + 1), note, _QUIET, _font(11))
        return page

    def _group_left(self, group: int) -> int:
        return _MARGIN + group * (self._group_width + _GROUP_GAP)

    def _row_top(self, row: int) -> int:
        return self._top + row % self._per_group * self._row_height

    def _scaled_size(self, pixels: Pixels) -> tuple[int, int]:
        height, width = pixels.shape[:2]
        scale = self._side / max(height, width)
        return max(round(height * scale), 1), max(round(width * scale), 1)

    def _draw_head(self, pen: ImageDraw.ImageDraw) -> None:
        left, y = _MARGIN, _MARGIN - 6
        pen.text((left, y), self._title, _INK, _font(_TITLE, bold=True))
        y += 42
        for line in self._lines:
            pen.text((left, y), line, _QUIET, _font(_TEXT))
            y += 22
        y += 10
        for text, colour, width in zip(self._legend, (GENERATED, _HAIR), (FRAME, 1), strict=True):
            pen.rectangle((left, y, left + 25, y + 19), "#e9ecef", colour, width)
            pen.text((left + 36, y + 1), text, _INK, _font(_TEXT))
            left += 36 + int(_font(_TEXT).getlength(text)) + 36
        y += 34
        if self._warning:
            bottom = y + 22 * len(self._warning) + 16
            pen.rounded_rectangle((_MARGIN, y, self.width - _MARGIN - 1, bottom), 6, _WARNING_PAPER)
            for number, line in enumerate(self._warning):
                pen.text((_MARGIN + 12, y + 10 + 22 * number), line, _WARNING_INK, _font(_TEXT, bold=True))

    def _draw_headings(self, pen: ImageDraw.ImageDraw, left: int) -> None:
        y, column = self._headings_top, 0
        names = self._top - 26
        for section in self._sections:
            begin = left + self._columns[column]
            end = begin + len(section.columns) * (self._side + _GAP) - _GAP
            if section.heading:
                pen.text((begin, y), _shortened(section.heading, _font(14), end - begin), _QUIET, _font(14))
                pen.line((begin, y + 22, end - 1, y + 22), _HAIR)
            for name in section.columns:
                x = left + self._columns[column]
                pen.text((x, names), _shortened(name, _font(14), self._side), _INK, _font(14))
                column += 1

    def _draw_cell(
        self, page: Image.Image, pen: ImageDraw.ImageDraw, cell: Cell, place: tuple[int, int, int, int]
    ) -> None:
        left, top, right, bottom = place
        picture = Image.fromarray(cell.pixels)
        if picture.size != (right - left, bottom - top):
            whole = (right - left) % picture.width == 0 and (bottom - top) % picture.height == 0
            how = Image.Resampling.NEAREST if whole else Image.Resampling.LANCZOS
            picture = picture.resize((right - left, bottom - top), how)
        if cell.generated:
            pen.rectangle((left - FRAME, top - FRAME, right + FRAME - 1, bottom + FRAME - 1), GENERATED)
        else:
            pen.rectangle((left - 1, top - 1, right, bottom), None, _HAIR)
        page.paste(picture, (left, top))


def displayed(images: torch.Tensor, transform: TrainTransform | EvalTransform) -> list[Pixels]:
    """What a training step was given, as pixels: the normalisation undone.

    Args:
        images: ``[n, 3, s, s]``, any device and floating-point type.
    """
    values = images.detach().float().cpu().permute(0, 2, 3, 1) * torch.tensor(transform.std) + torch.tensor(
        transform.mean
    )
    return list((values.clamp(0, 1) * 255).round().to(torch.uint8).contiguous().numpy())


def _font(size: int, bold: bool = False) -> Any:
    # The only scalable fonts that every installation has are matplotlib's.
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name), size)


def _shortened(text: str, font: Any, width: float) -> str:
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text + "…" if text else ""


def _wrapped(text: str, font: Any, width: float) -> list[str]:
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return [_shortened(line, font, width) for line in lines if line]
