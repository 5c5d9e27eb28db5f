"""Every block of docs/cluster.md is run, here or by tests/release/test_wheels.py, or says why not."""

import ast
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import dali_icgan as di
from dali_icgan._native import device_fault
from dali_icgan.cli import doctor
from release import toolkit
from tests.photos import make_folder
from tests.release.cluster_page import PAGE, Block, blocks

TEXT = PAGE.read_text()
BLOCKS = blocks(TEXT)
PROGRAMS = Path(sys.executable).parent


def block(how):
    """The one block that is run so."""
    (found,) = [each for each in BLOCKS if each.verb == "run" and each.how.startswith(how)]
    return found


def test_every_block_says_who_runs_it():
    assert len(BLOCKS) * 2 == len(re.findall(r"^```", TEXT, re.MULTILINE))
    known = ("make test-full", "file train.py", "with srun and scontrol played by the test")
    assert [each.how for each in BLOCKS if each.verb == "run" and not each.how.startswith(known)] == []


def test_a_block_without_a_comment_is_seen():
    assert blocks("<!-- run: x -->\n```sh\nls\n```\n") == [Block("run", "x", "sh", "ls\n")]
    for above in ("", "text", "<!-- run -->", "<!-- not run:  -->"):
        with pytest.raises(ValueError, match="must have <!-- run: how -->"):
            blocks(f"{above}\n```sh\nls\n```\n")


def test_shell_blocks_are_shell():
    for each in BLOCKS:
        if each.language == "sh":
            done = subprocess.run(["bash", "-n"], input=each.text, capture_output=True, text=True)
            assert done.returncode == 0, f"{each.text}\n{done.stderr}"


def test_the_script_names_what_is_there():
    for node in ast.walk(ast.parse(block("file train.py").text)):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "di":
            assert hasattr(di, node.attr), node.attr


def test_figures_are_the_sources():
    for cuda, driver in doctor._OLDEST_DRIVER.items():
        assert re.search(rf"CUDA {cuda} \({re.escape(driver)} and newer\)", TEXT)
    assert f"built with CUDA {toolkit.VERSION}" in TEXT
    assert f'"{device_fault("7.5", ["sm_80", "sm_90", "compute_90"])}"' in TEXT


def test_targets_of_make_are_there():
    makefile = (PAGE.parents[1] / "Makefile").read_text()
    targets = set(re.findall(r"make ([\w-]+)", TEXT))
    assert {"wheels", "wheelhouse", "test-full"} <= targets
    assert [name for name in targets if not re.search(rf"^{name}:", makefile, re.MULTILINE)] == []


def test_links_lead_somewhere():
    links = [link.split("#")[0] for link in re.findall(r"\]\(([^)]+)\)", TEXT) if not link.startswith("http")]
    assert [link for link in links if link and not (PAGE.parent / link).exists()] == []


@pytest.fixture
def submit(tmp_path):
    """Runs the page's job on one machine, as Slurm would a job of one node with two ranks; returns what it wrote."""
    (tmp_path / "train.py").write_text(block("file train.py").text)
    (tmp_path / "job.sh").write_text(block("with srun and scontrol").text)
    played = {"srun": 'exec "$@"', "scontrol": "echo localhost"}
    for name, body in played.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{body}\n")
        (tmp_path / name).chmod(0o755)
    make_folder(tmp_path / "images", 10)
    environment = {
        **os.environ,
        "PATH": f"{tmp_path}:{PROGRAMS}:{os.environ['PATH']}",
        "CUDA_VISIBLE_DEVICES": "",
        "SLURM_JOB_NUM_NODES": "1",
        "SLURM_JOB_NODELIST": "localhost",
        "SLURM_JOB_ID": "7",
        "SLURM_GPUS_ON_NODE": "2",
        "SLURM_CPUS_PER_TASK": "2",
        "SLURM_SUBMIT_DIR": str(tmp_path),
        "DATA": str(tmp_path / "images"),
        "PYTHONPATH": os.pathsep.join(filter(None, [str(PAGE.parents[1]), os.environ.get("PYTHONPATH")])),
    }

    def run(options):
        process = subprocess.Popen(
            ["bash", "job.sh"],
            cwd=tmp_path,
            env={**environment, "TRAIN_OPTIONS": options},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        try:
            said, _ = process.communicate(timeout=240)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
        assert process.returncode == 0, said
        return said

    return run


@pytest.mark.dali
def test_the_job_runs_and_goes_on(submit, tmp_path):
    assert "epochs 1, steps 2\n" in submit("--epochs 1 --batch-size 7 --save-every 1")
    assert (tmp_path / "state.pt").exists()
    assert not (tmp_path / "state.new").exists()
    assert "epochs 2, steps 4\n" in submit("--epochs 2 --batch-size 7 --save-every 100")  # the second epoch alone
