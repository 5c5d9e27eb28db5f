import numpy as np
import pytest
import torch
from PIL import Image

from dali_icgan.augment.transform import EvalTransform, TrainTransform
from dali_icgan.cli.page import FRAME, GENERATED, Cell, Page, Row, Section, displayed


def square(colour, side=32):
    return np.full((side, side, 3), colour, np.uint8)


def make(rows, *, side=96, groups=1, title="title", lines=("a line",), warning="", columns=("original", "epoch 0")):
    sections = [Section("", columns[:1]), Section("seen", columns[1:])]
    return Page(title, lines, warning, ("generated", "real"), sections, rows, side=side, groups=groups)


def two_cells(n):
    return [
        Row(f"class {i}", f"{i}.jpg", [Cell(square((9, 9, i))), Cell(square((i, 9, 9)), i % 2 == 1)]) for i in range(n)
    ]


@pytest.mark.parametrize("groups", [1, 2, 3])
@pytest.mark.parametrize("n", [1, 2, 5])
def test_cells_lie_apart_inside_the_page_and_hold_their_pixels(n, groups):
    rows = two_cells(n)
    page = make(rows, groups=groups)
    drawn = np.asarray(page.draw())
    assert drawn.shape == (page.height, page.width, 3)
    taken = np.zeros(drawn.shape[:2], int)
    for i, row in enumerate(rows):
        for j, cell in enumerate(row.cells):
            left, top, right, bottom = page.place(i, j)
            assert left >= FRAME
            assert right + FRAME <= page.width
            assert top >= FRAME
            assert bottom + FRAME <= page.height
            taken[top - FRAME : bottom + FRAME, left - FRAME : right + FRAME] += 1
            assert (drawn[top:bottom, left:right] == cell.pixels[0, 0]).all()
    assert taken.max() == 1


def test_only_generations_are_framed_and_the_frame_covers_none_of_them():
    page = make(two_cells(4))
    drawn = np.asarray(page.draw())
    for i in range(4):
        left, top, right, bottom = page.place(i, 1)
        ring = drawn[top - FRAME : bottom + FRAME, left - FRAME : right + FRAME].copy()
        ring[FRAME:-FRAME, FRAME:-FRAME] = GENERATED
        assert (ring == GENERATED).all() == (i % 2 == 1)
        assert not (drawn[top:bottom, left:right] == GENERATED).all(-1).any()


def test_a_picture_that_fits_a_whole_number_of_times_is_repeated_pixel_by_pixel():
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    page = make([Row("", "", [Cell(pixels), Cell(pixels)])])
    left, top, right, bottom = page.place(0, 1)
    shown = np.asarray(page.draw())[top:bottom, left:right]
    assert (shown == pixels.repeat(3, 0).repeat(3, 1)).all()


@pytest.mark.parametrize(
    ("height", "width", "shown"), [(200, 100, (96, 48)), (50, 200, (24, 96)), (7, 7, (96, 96)), (1, 500, (1, 96))]
)
def test_an_original_keeps_its_shape_and_touches_the_cell(height, width, shown):
    page = make([Row("", "", [Cell(np.zeros((height, width, 3), np.uint8)), Cell(square(0))])])
    left, top, right, bottom = page.place(0, 0)
    assert (bottom - top, right - left) == shown
    page.draw()


def test_long_words_stay_on_the_page():
    rows = [Row("n" * 300, "f" * 300, [Cell(square(0)), Cell(square(0))])]
    page = make(
        rows, title="t" * 300, lines=["l" * 300, "word " * 100], warning="w" * 300, columns=("o" * 90, "e" * 90)
    )
    drawn = np.asarray(page.draw())
    assert (drawn[:, -16:] == 255).all()
    assert (drawn[:, :16] == 255).all()
    # Nor do they reach under the picture beside them: between heading and neighbour there is paper.
    _, top, right, _ = page.place(0, 0)
    assert (drawn[top - 50 : top - 30, right + 1 : right + 8] == 255).all()


def test_a_warning_is_seen_and_moves_the_rows_down():
    plain, warned = make(two_cells(1)), make(two_cells(1), warning="UNTRAINED")
    assert warned.place(0, 0)[1] > plain.place(0, 0)[1]
    colours = {tuple(c) for c in np.asarray(warned.draw()).reshape(-1, 3)}
    assert (255, 241, 204) in colours
    assert (255, 241, 204) not in {tuple(c) for c in np.asarray(plain.draw()).reshape(-1, 3)}


@pytest.mark.parametrize(
    "transform", [TrainTransform(8), EvalTransform(8, 8, mean=(0.5, 0.1, 0.2), std=(1.0, 0.3, 0.2))]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_displayed_undoes_the_normalisation(transform, dtype):
    pixels = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3), np.uint8)
    values = (pixels / 255 - transform.mean) / transform.std
    images = torch.from_numpy(values).permute(0, 3, 1, 2).to(dtype)
    shown = np.stack(displayed(images, transform))
    assert shown.dtype == np.uint8
    assert np.abs(shown.astype(int) - pixels).max() <= (0 if dtype == torch.float32 else 1)


def test_displayed_clamps():
    transform = TrainTransform(1, mean=(0, 0, 0), std=(1, 1, 1))
    assert displayed(torch.tensor([[[[-1.0]], [[0.5]], [[2.0]]]]), transform)[0].tolist() == [[[0, 128, 255]]]


def test_the_page_is_a_png_as_it_was_drawn(tmp_path):
    drawn = make(two_cells(3)).draw()
    drawn.save(tmp_path / "page.png")
    with Image.open(tmp_path / "page.png") as read:
        assert (np.asarray(read) == np.asarray(drawn)).all()


@pytest.mark.parametrize("noted", [False, True])
def test_notes_stand_below_their_cells_and_rows_make_room(noted):
    note = "n" * 300 if noted else ""
    rows = [Row("", "", [Cell(square(0)), Cell(square(9), True, note)]) for _ in range(2)]
    page, plain = make(rows), make(two_cells(2))
    assert page.height - plain.height == (32 if noted else 0)
    drawn = np.asarray(page.draw())
    left, top, right, bottom = page.place(0, 1)
    below = drawn[bottom + FRAME : page.place(1, 1)[1] - 24, left : right + 8]
    assert (below < 200).any() == noted
    assert (drawn[top:bottom, left:right] == 9).all()
    assert (drawn[bottom + FRAME :, right + 14 :] == 255).all()  # it ends before the next column would begin


def test_an_empty_cell_is_paper():
    page = make([Row("", "", [None, Cell(square(0))])])
    left, top, right, bottom = page.place(0, 0)
    assert (right - left, bottom - top) == (96, 96)
    assert (np.asarray(page.draw())[top:bottom, left:right] == 255).all()
