"""Several ranks by torchrun, on CPU with gloo: the same run as one process, and one that fails ends them all."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import policy
import runs

ROOT = Path(__file__).resolve().parents[1]


def torchrun(count: int, *words, timeout=240):
    """The finished process of `torchrun --nproc_per_node COUNT WORDS`."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT)}
    return subprocess.run([sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(count), *map(str, words)],
                          env=environment, cwd=ROOT, timeout=timeout, capture_output=True, text=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return runs.tiny(tmp_path_factory.mktemp("ranks"))


@pytest.mark.parametrize("script, words", [("sft", ["--epochs", 2]), ("bigrpo", ["--steps", 4, "--beta", 0.1, "--prompts", 5])])
def test_two_ranks_end_where_one_process_does(folder, tmp_path, script, words):
    # five prompts on two ranks: three and two. Muon and AdamW, a reference model, checkpoints gathered from both
    common = ["--model", folder / "model", "--data", folder / "examples.jsonl", *runs.WORDS[script], *words, "--token-budget", 60]
    for count in (1, 2):
        done = torchrun(count, f"{script}.py", *common, "--out", tmp_path / str(count))
        assert done.returncode == 0, done.stderr[-3000:]
    one, two = runs.metrics(tmp_path / "1"), runs.metrics(tmp_path / "2")
    assert len(one) == len(two) == 4
    for a, b in zip(one, two):
        assert a.pop("warnings", None) == b.pop("warnings", None)
        assert b == pytest.approx(a, rel=1e-4, abs=1e-5)
    weights = [policy.load(str(tmp_path / count / "model"))[0].state_dict() for count in "12"]
    for name, value in weights[0].items():
        torch.testing.assert_close(weights[1][name], value, rtol=0, atol=5e-4)  # Muon computes in bf16; four steps move a weight by some 4e-2


FAILS = """
import sys, bigrpo, policy
score = bigrpo.score
def fails(groups):
    if policy.os.environ["RANK"] == "1":
        raise RuntimeError("the fault of rank 1")
    score(groups)
bigrpo.score = fails
bigrpo.main()
"""


def test_a_rank_that_fails_ends_the_run_with_its_error(folder, tmp_path):
    (tmp_path / "fails.py").write_text(FAILS)
    start = time.time()
    done = torchrun(2, tmp_path / "fails.py", "--model", folder / "model", "--data", folder / "examples.jsonl", *runs.WORDS["bigrpo"], "--out", tmp_path / "out")
    assert done.returncode != 0 and "RuntimeError: the fault of rank 1" in done.stderr
    assert time.time() - start < 200  # far below the 30 minutes after which gloo gives up
