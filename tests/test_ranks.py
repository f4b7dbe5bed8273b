"""Several ranks, on CPU with gloo: the same run as one process, whoever is killed on the way; and one that fails ends them all."""

import os
import re
import signal
import socket
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
import policy, runs
def slow_seal(folder, seal=policy.seal):
    time.sleep(2)
    seal(folder)
runs.digits_are_right()
if os.environ.get("STOP"):
    policy.seal = slow_seal
    if os.environ["RANK"] == "0":
        runs.replace("policy.optimizer_step", 2, runs.send, signal.SIGTERM)
if kill := os.environ.get("KILL"):  # rank, function, call
    rank, target, call = kill.split()
    if rank == os.environ["RANK"]:
        runs.replace(target, int(call), runs.send, signal.SIGKILL)
script = __import__(sys.argv.pop(1))
script.main()
"""


def torchrun(count: int, *words, timeout=240, **more):
    """The finished process of `torchrun --nproc_per_node COUNT WORDS`."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"} | more
    return subprocess.run([sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(count), *map(str, words)],
                          env=environment, cwd=ROOT, timeout=timeout, capture_output=True, text=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = runs.tiny(tmp_path_factory.mktemp("ranks"))
    (path / "run.py").write_text(RUN)
    return path


def as_rank(rank: int, count: int, port: int, kill: tuple) -> None:
    """What torchrun does for a process that it starts; and SIGKILL for the rank kill[0] at the kill[2]-th call of the function kill[1]."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count),
                   "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    if kill and kill[0] == rank:
        runs.replace(*kill[1:], runs.send, signal.SIGKILL)


def forked(count: int, folder: Path, script: str, out: Path, *words, kill: tuple = ()) -> list[int]:
    """The exit codes of the ranks of a run, started without torchrun: at once, where that takes seconds to import."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = [runs.start(folder, script, out, "--token-budget", 60, *words, prepare=as_rank, arguments=(rank, count, port, kill)) for rank in range(count)]
    return [runs.finish(process) for process in processes]


def weights(path):
    return policy.load(str(path / "model"))[0].state_dict()


def agree(one, other, steps):
    """Both runs have every step once, and metrics and weights that are equal but for rounding."""
    assert [record["step"] for record in runs.metrics(one)] == [record["step"] for record in runs.metrics(other)] == list(range(steps))
    for a, b in zip(runs.metrics(one), runs.metrics(other)):
        assert a.get("warnings") == b.get("warnings")
        assert {**b, "warnings": 0} == pytest.approx({**a, "warnings": 0}, rel=1e-4, abs=1e-5)
    for name, value in weights(one).items():
        torch.testing.assert_close(weights(other)[name], value, rtol=0, atol=1e-3)  # Muon computes in bf16


@pytest.mark.parametrize("script, words", [("sft", ["--epochs", 2, "--lr", 4e-3]), ("bigrpo", ["--steps", 4, "--beta", 0.1, "--prompts", 5])])
def test_two_ranks_end_where_one_process_does_also_when_they_are_stopped_on_the_way(folder, tmp_path, script, words):
    # five prompts on two ranks: three and two. Muon and AdamW, a reference model, checkpoints gathered from both; in RL's third
    # run SIGTERM reaches rank 0 only, which stops both once the checkpoint is sealed, and one process goes on from there
    for count in (1, 2):
        assert forked(count, folder, script, tmp_path / str(count), *words) == [0] * count, (tmp_path / f"{count}.log").read_text()
    if script == "bigrpo":
        given = ["--model", folder / "model", "--data", folder / "examples.jsonl", *runs.WORDS[script], *words, "--token-budget", 60]
        done = torchrun(2, folder / "run.py", script, *given, "--out", tmp_path / "3", STOP="1")
        assert done.returncode and done.stderr.count("stopped after 2 of 4 steps") == 1, done.stderr[-3000:]
        assert [path.name for path in policy.checkpoints(tmp_path / "3" / "checkpoints")] == ["step-000002"]
        assert forked(1, folder, script, tmp_path / "3", *words) == [0]
        assert "going on after step 2" in (tmp_path / "3.log").read_text()
    one, before = runs.metrics(tmp_path / "1"), weights(folder)
    assert len(one) == 4 and all(record["grad_norm"] > 1e-3 for record in one)
    for out in ("2", "3")[:1 + (script == "bigrpo")]:
        agree(tmp_path / "1", tmp_path / out, 4)
    for name, value in weights(tmp_path / "1").items():
        assert (value - before[name]).abs().max() > 2e-3 or value.ndim == 1  # it learns something


@pytest.mark.slow
@pytest.mark.parametrize("script", ["sft", "bigrpo"])
def test_two_kills_on_two_ranks_change_nothing_but_the_rounding(folder, tmp_path, script):
    words = [folder / "run.py", script, "--model", folder / "model", "--data", folder / "examples.jsonl", *runs.WORDS[script], "--save-every", 2]
    for out, kills in (("whole", []), ("killed", ["1 policy.optimizer_step 4", "0 policy.seal 2"])):
        for kill in kills:
            done = torchrun(2, *words, "--out", tmp_path / out, KILL=kill)
            assert done.returncode and "Signal 9 (SIGKILL)" in done.stderr, done.stderr[-3000:]
        done = torchrun(2, *words, "--out", tmp_path / out)
        assert done.returncode == 0 and ("going on after step 4" in done.stderr) == bool(kills), done.stderr[-3000:]
    agree(tmp_path / "whole", tmp_path / "killed", 12)


@pytest.mark.parametrize("script", [pytest.param("sft", marks=pytest.mark.slow), "bigrpo"])
def test_a_run_whose_ranks_are_killed_goes_on_also_with_another_number_of_them(folder, tmp_path, script):
    assert forked(1, folder, script, tmp_path / "whole") == [0]
    out = tmp_path / "killed"
    first = forked(2, folder, script, out, kill=(1, "policy.optimizer_step", 4))  # in step 3, after the checkpoint of two steps
    second = forked(2, folder, script, out, kill=(0, "policy.seal", 2))  # while the checkpoint of six steps is written
    assert first[1] == second[0] == -signal.SIGKILL and first[0] and second[1], out.with_suffix(".log").read_text()
    assert [path.name for path in policy.checkpoints(out / "checkpoints")] == ["step-000002", "step-000004"]
    assert forked(1, folder, script, out, kill=(0, "policy.optimizer_step", 4)) == [-signal.SIGKILL]  # 2 -> 1, up to step 7
    assert forked(2, folder, script, out) == [0, 0]  # 1 -> 2
    assert [int(step) for step in re.findall("going on after step (.*)", out.with_suffix(".log").read_text())] == [2, 4, 6]
    agree(tmp_path / "whole", out, 12)


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
