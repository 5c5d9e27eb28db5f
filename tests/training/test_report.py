import errno
import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dali_icgan.training import report
from dali_icgan.training.quality import FIGURES
from dali_icgan.training.report import sample_grid, save_samples, write_report

FACTS = {
    "model": "32 px, 0.7M parameters",
    "dataset": "flowers",
    "images": 1234,
    "steps": 5000,
    "seconds": 4000.0,
    "device": "cpu",
}


def images(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def all_figures():
    """Different values, in the form that evaluate gives them."""
    names = [name for key, figure in FIGURES.items() for name in (key, figure.beside)]
    return {name: 0.125 + i for i, name in enumerate(names)} | {"instances": 1234.0, "samples": 600.0}


# ------------------------------------------------------------------ the grid


@pytest.mark.parametrize(("n", "z", "r"), [(1, 1, 1), (2, 5, 32), (3, 2, 100)])
def test_every_pixel_of_the_grid_is_where_it_belongs(n, z, r):
    photographs, generations = images(n, 3, r, r), images(n, z, 3, r, r, seed=1)
    page = np.asarray(sample_grid(photographs, generations))
    scale = -(-96 // r)
    side = scale * r
    expected = np.full_like(page, 255)

    def put(top, left, image):
        cell = ((image.numpy().transpose(1, 2, 0) + 1) * 127.5).round().astype(np.uint8)
        expected[top : top + side, left : left + side] = np.kron(cell, np.ones((scale, scale, 1), np.uint8))

    for i in range(n):
        top = 20 + i * (side + 14)
        expected[top - 4 : top + side + 4, 16 : 16 + side + 8] = (27, 31, 36)  # the frame, of the photograph alone
        put(top, 20, photographs[i])
        for j in range(z):
            put(top, 20 + side + 30 + j * (side + 6), generations[i, j])
    assert np.array_equal(page, expected)


def test_values_beyond_the_range_are_clipped_and_half_precision_is_taken():
    page = np.asarray(sample_grid(torch.full((1, 3, 1, 1), -9.0).bfloat16(), torch.full((1, 1, 3, 1, 1), 9.0)))
    assert (page[20, 20] == 0).all()
    assert (page[20, 20 + 96 + 30] == 255).all()


def test_grid_is_checked():
    for shape in ((3, 4, 4), (2, 1, 4, 4), (0, 3, 4, 4)):
        with pytest.raises(ValueError, match=r"photographs must have shape \[n, 3, h, w\], got"):
            sample_grid(torch.zeros(shape), images(2, 2, 3, 4, 4))
    for shape in ((2, 3, 4, 4), (3, 2, 3, 4, 4), (2, 2, 3, 4, 5), (2, 0, 3, 4, 4)):
        with pytest.raises(ValueError, match=r"generations must have shape \[2, z, 3, 4, 4\], got"):
            sample_grid(images(2, 3, 4, 4), torch.zeros(shape))


def test_samples_are_saved_whole_or_not_at_all(tmp_path, monkeypatch):
    photographs, generations = images(2, 3, 8, 8), images(2, 3, 3, 8, 8)
    path = save_samples(tmp_path / "run", 1500, photographs, generations)
    assert path == tmp_path / "run" / "samples" / "step_00001500.png"
    with Image.open(path) as saved:
        assert np.array_equal(np.asarray(saved), np.asarray(sample_grid(photographs, generations)))
    before = path.read_bytes()

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        save_samples(tmp_path / "run", 1500, -photographs, generations)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


# ------------------------------------------------------------------ the report


def written(tmp_path, **changes):
    arguments = {"config": {"seed": 1}, "figures": all_figures(), "history": [], "grids": {}} | FACTS | changes
    path = tmp_path / "report.md"
    write_report(path, **arguments)
    return path.read_text()


def test_every_figure_of_an_evaluation_is_in_the_table_with_its_yardstick_and_meaning(tmp_path):
    text = written(tmp_path)
    figures = all_figures()
    table = [line.split("|")[1:-1] for line in text.splitlines() if line.startswith("| ")][1:]
    assert len(table) == len(FIGURES)
    for (name, figure), cells in zip(FIGURES.items(), table, strict=True):
        assert [cell.strip() for cell in cells] == [
            figure.title,
            f"{figures[name]:.3g}",
            f"{figures[figure.beside]:.3g}",
            figure.better,
            figure.meaning,
        ]
    assert "600 generations, of 1,234 instances." in text
    assert "\n32 px, 0.7M parameters, trained on `flowers`, 1,234 images, for 5,000 steps in 1 h 07 min on cpu." in text


def test_nobody_can_take_the_figures_for_fid(tmp_path):
    text = written(tmp_path)
    assert text.index("These are not Inception figures: no FID") < text.index("| figure |")
    for name, figure in FIGURES.items():
        assert name.startswith(("feature_", "pixel_"))
        assert "FID" not in figure.title
    assert "extractor features" in FIGURES["feature_frechet_distance"].title


def test_grids_are_linked_from_the_report_and_settings_are_shown(tmp_path):
    grids = {"step 10": tmp_path / "samples" / "a b.png", "elsewhere": Path("/x/y.png")}
    text = written(tmp_path, grids=grids, config={"model": {"ch": 24, "names": ["a", "b"]}, "name": "Blüte"})
    assert "![step 10](samples/a%20b.png)" in text
    assert "![elsewhere](/x/y.png)" in text
    assert "```yaml\nmodel:\n  ch: 24\n  names:\n  - a\n  - b\nname: Blüte\n```" in text


def test_the_plot_has_the_distances_of_the_history(tmp_path, monkeypatch):
    drawn = []
    axes_plot = report.Drawing.add_subplot

    def watched(self):
        axes = axes_plot(self)
        drawn.append(axes)
        return axes

    monkeypatch.setattr(report.Drawing, "add_subplot", watched)
    history = [
        {"step": 0, "loss": 1.0},
        {"step": 100, "feature_frechet_distance": 0.5},
        {"step": 200, "feature_frechet_distance": 0.25, "feature_frechet_distance_real": 0.02},
    ]
    text = written(tmp_path, history=history)
    assert "(frechet_distance.png)" in text
    with Image.open(tmp_path / "frechet_distance.png") as plot:
        assert plot.size == (960, 540)
    (axes,) = drawn
    made, real = axes.get_lines()
    assert (list(made.get_xdata()), list(made.get_ydata())) == ([100, 200], [0.5, 0.25])
    assert (list(real.get_xdata()), list(real.get_ydata())) == ([200], [0.02])
    assert "not FID" in axes.get_title(loc="left")


def test_what_was_not_measured_is_not_shown(tmp_path):
    text = written(tmp_path, history=[{"step": 0, "loss": 1.0}], figures={})
    assert "None were computed." in text
    assert "frechet_distance.png" not in text
    assert "## Samples" not in text
    assert [file.name for file in tmp_path.iterdir()] == ["report.md"]
    text = written(tmp_path, figures={"feature_precision": 0.5})
    assert text.count("\n| ") == 2  # the head and one row
    assert "| 0.5 |  | higher |" in text


def test_durations_and_numbers_for_people():
    assert [report._duration(s) for s in (3.4, 119, 121, 3599, 3600, 36000)] == [
        "3 s",
        "119 s",
        "2 min",
        "1 h 00 min",
        "1 h 00 min",
        "10 h 00 min",
    ]
    assert [report._number(v) for v in (0.0, 1.23456e-5, 0.98765, 49.96, 12345.6)] == [
        "0",
        "1.23e-05",
        "0.988",
        "50",
        "12,346",
    ]


def test_report_is_checked(tmp_path):
    with pytest.raises(ValueError, match="figures must be those of evaluate, got fid, loss too"):
        written(tmp_path, figures={"loss": 1.0, "fid": 3.0, "feature_recall": 0.5})
    with pytest.raises(ValueError, match=r"config must hold plain values, got .*BytesIO"):
        written(tmp_path, config={"file": io.BytesIO()})
    assert not list(tmp_path.iterdir())
