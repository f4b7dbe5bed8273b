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


RUN = """
import os, signal, sys, time
import policy, rewards, runs
def slow_seal(folder, seal=policy.seal):
    time.sleep(2)
    seal(folder)
rewards.score_many = runs.digits_are_right
if os.environ.get("STOP"):
    policy.seal = slow_seal
    if os.environ["RANK"] == "0":
        runs.replace("policy.optimizer_step", 2, runs.send, signal.SIGTERM)
script = __import__(sys.argv.pop(1))
script.main()
"""


def torchrun(count: int, *words, timeout=240, **more):
    """The finished process of `torchrun --nproc_per_node COUNT WORDS`."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"} | more
    return subprocess.run([sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(count), *map(str, words)],
                          env=environment, cwd=ROOT, timeout=timeout, capture_output=True, text=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = runs.tiny(tmp_path_factory.mktemp("ranks"))
    (path / "run.py").write_text(RUN)
    return path


def weights(path):
    return policy.load(str(path / "model"))[0].state_dict()


@pytest.mark.parametrize("script, words", [("sft", ["--epochs", 2, "--lr", 0.05]), ("bigrpo", ["--steps", 4, "--beta", 0.1, "--prompts", 5])])
def test_two_ranks_end_where_one_process_does_also_when_they_are_stopped_on_the_way(folder, tmp_path, script, words):
    # five prompts on two ranks: three and two. Muon and AdamW, a reference model, checkpoints gathered from both; in RL's third
    # run SIGTERM reaches rank 0 only, which stops both once the checkpoint is sealed, and one process goes on from there
    words = [folder / "run.py", script, "--model", folder / "model", "--data", folder / "examples.jsonl", *runs.WORDS[script], *words, "--token-budget", 60]
    for count in (1, 2):
        done = torchrun(count, *words, "--out", tmp_path / str(count))
        assert done.returncode == 0, done.stderr[-3000:]
    if script == "bigrpo":
        done = torchrun(2, *words, "--out", tmp_path / "3", STOP="1")
        assert done.returncode and done.stderr.count("stopped after 2 of 4 steps") == 1, done.stderr[-3000:]
        assert [path.name for path in policy.checkpoints(tmp_path / "3" / "checkpoints")] == ["step-000002"]
        done = torchrun(1, *words, "--out", tmp_path / "3")
        assert done.returncode == 0 and "going on after step 2" in done.stderr, done.stderr[-3000:]
    one, before = runs.metrics(tmp_path / "1"), weights(folder)
    assert len(one) == 4 and all(record["grad_norm"] > 1e-3 for record in one)
    for out in ("2", "3")[:1 + (script == "bigrpo")]:
        assert len(runs.metrics(tmp_path / out)) == 4
        for a, b in zip(one, runs.metrics(tmp_path / out)):
            assert a.get("warnings") == b.get("warnings")
            assert {**b, "warnings": 0} == pytest.approx({**a, "warnings": 0}, rel=1e-4, abs=1e-5)
        for name, value in weights(tmp_path / "1").items():
            torch.testing.assert_close(weights(tmp_path / out)[name], value, rtol=0, atol=1e-3)  # Muon computes in bf16
            assert (value - before[name]).abs().max() > 2e-3 or value.ndim == 1  # it learns something


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
