"""Whatever goes wrong ends in continued training, counted and logged, or in one clear line and a non-zero exit: never in wrong numbers."""

import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import types
from pathlib import Path

import pytest
import torch

import bigrpo
import policy
import sandbox
from runs import finish, kill_at, metrics, replace, run, send, start, tiny, weights
from tools import soak

SCRIPTS = ["sft", "bigrpo"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The tiny model, and an uninterrupted run of each script in `sft` and `bigrpo`."""
    path = tiny(tmp_path_factory.mktemp("faults"))
    for script in SCRIPTS:
        assert run(path, script, path / script) == 0, (path / f"{script}.log").read_text()
    return path


def same(folder, script, out):
    assert metrics(out) == metrics(folder / script) and weights(out) == weights(folder / script)


def said(out: Path) -> str:
    """The one line with which a run says why it ended; there must be no traceback."""
    text = out.with_suffix(".log").read_text()
    assert "Traceback" not in text, text
    return re.findall("(?:error: |stopped after ).*", text)[-1]


def saved(out: Path) -> list[str]:
    return [path.name for path in policy.checkpoints(out / "checkpoints")]


# ---------------------------------------------------------------------------------------------------------------------
# Signals


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize("number, code", [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_finishes_the_step_saves_and_leaves(folder, script, number, code):
    out = folder / f"{script}-{code}"
    assert run(folder, script, out, prepare=replace, arguments=("policy.optimizer_step", 5, send, number)) == code
    assert "stopped after 5 of 12 steps" in said(out) and len(metrics(out)) == 5 and saved(out) == ["step-000004", "step-000005"]
    assert run(folder, script, out) == 0
    same(folder, script, out)


def test_a_fresh_run_that_is_stopped_says_that_fresh_goes(folder):
    out = folder / "fresh"
    assert run(folder, "sft", out, "--fresh", prepare=replace, arguments=("policy.optimizer_step", 5, send, signal.SIGTERM)) == 143
    assert "the same command, without --fresh, goes on from there" in said(out)
    assert run(folder, "sft", out) == 0
    same(folder, "sft", out)
    model = out / "checkpoints/step-000012/model"  # what --fresh would delete before it is loaded
    assert run(folder, "sft", out, "--fresh", "--model", model) == 2
    assert f"--fresh would delete {model}" in said(out) and (model / "config.json").exists()


def test_a_second_signal_stops_at_once(folder):
    out = folder / "twice"
    assert run(folder, "sft", out, prepare=replace, arguments=("policy.optimizer_step", 5, send, signal.SIGTERM, signal.SIGTERM)) == -signal.SIGTERM
    assert saved(out) == ["step-000002", "step-000004"]


# ---------------------------------------------------------------------------------------------------------------------
# Settings


def test_other_settings_are_refused_by_name_and_fresh_starts_again(folder):
    out = folder / "settings"
    assert run(folder, "bigrpo", out, **kill_at("policy.optimizer_step", 6)) == -signal.SIGKILL
    assert run(folder, "bigrpo", out, "--lam", 0.5, "--seed", 1) == 2
    assert "lam 0.5 (was 0.3), seed 1 (was 0)" in said(out) and "--fresh" in said(out)
    assert run(folder, "bigrpo", out, "--keep", 5, "--save-every", 3, "--dump-every", 1, "--max-gap", 1, "--sampler-memory", 0.3) == 0  # these change no result
    same(folder, "bigrpo", out)
    rollouts = [json.loads(line)["step"] for line in (out / "rollouts.jsonl").read_text().splitlines()]
    assert rollouts == sorted(rollouts) and set(map(rollouts.count, {0, *range(4, 12)})) == {16}
    assert run(folder, "bigrpo", out, "--seed", 1, "--fresh") == 0
    assert metrics(out) != metrics(folder / "bigrpo") and len(metrics(out)) == 12


def test_other_data_or_another_model_under_the_same_name_is_refused(folder, tmp_path):
    for name in ("model", "examples.jsonl"):
        (shutil.copytree if name == "model" else shutil.copy)(folder / name, tmp_path / name)
    assert run(tmp_path, "sft", tmp_path / "out") == 0
    (tmp_path / "examples.jsonl").write_text((tmp_path / "examples.jsonl").read_text().replace("a = 1", "a = 2"))
    assert run(tmp_path, "sft", tmp_path / "out") == 2
    assert "other settings: data (what it holds has changed)" in said(tmp_path / "out") and "model" not in said(tmp_path / "out").partition("Repeat")[0]


# ---------------------------------------------------------------------------------------------------------------------
# Files


def damage(out: Path, kind: str) -> None:
    """Truncate, or change one byte of, the optimizer's state in the newest checkpoint; or remove its list of digests."""
    newest = policy.checkpoints(out / "checkpoints")[-1]
    [path] = newest.glob("state/*.distcp")
    content = path.read_bytes()
    if kind == "list":
        (newest / "SHA256SUMS").unlink()
    else:
        path.write_bytes(content[:len(content) // 2] if kind == "truncated" else content[:1000] + bytes([content[1000] ^ 1]) + content[1001:])


@pytest.mark.parametrize("kind", ["truncated", "changed", "list"])
def test_a_damaged_checkpoint_falls_back_to_the_one_before_and_says_so(folder, kind):
    out = folder / kind
    assert run(folder, "sft", out, **kill_at("policy.optimizer_step", 8)) == -signal.SIGKILL
    damage(out, kind)
    assert run(folder, "sft", out) == 0
    text = out.with_suffix(".log").read_text()
    assert "step-000006 is damaged" in text and "going on after step 4" in text
    same(folder, "sft", out)


def test_a_step_whose_checkpoint_is_damaged_twice_falls_back_twice(folder):
    out = folder / "again"
    for number, call in enumerate((8, 4), 1):  # both in step 7, the second time on the way from step 4
        assert run(folder, "sft", out, **kill_at("policy.optimizer_step", call)) == -signal.SIGKILL
        damage(out, "truncated")
        assert out.with_suffix(".log").read_text().count("step-000006 is damaged") == number - 1
    assert run(folder, "sft", out) == 0
    assert out.with_suffix(".log").read_text().count("step-000006 is damaged") == 2
    same(folder, "sft", out)


def test_a_run_whose_checkpoints_are_all_damaged_begins_again(folder):
    out = folder / "all"
    assert run(folder, "sft", out, **kill_at("policy.optimizer_step", 4)) == -signal.SIGKILL
    damage(out, "truncated")
    assert run(folder, "sft", out) == 0
    same(folder, "sft", out)


@pytest.fixture
def small_disk(tmp_path, folder):
    """A file system with room for two and a half checkpoints of sft.py."""
    size = sum(path.stat().st_size for path in (folder / "sft" / "checkpoints" / "step-000012").rglob("*"))
    (tmp_path / "disk").mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={int(2.5 * size)}", "none", tmp_path / "disk"]
    if sys.platform != "linux" or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("needs the right to mount a file system")
    yield tmp_path / "disk"
    subprocess.run(["umount", tmp_path / "disk"], check=True)


def test_a_full_disk_ends_with_a_line_and_spares_the_checkpoints(folder, small_disk):
    out = small_disk / "out"
    assert run(folder, "sft", out) == 2
    assert "could not be written" in said(out) and "No space left" in said(out)
    assert saved(out) and all(policy.newest_checkpoint(path.parent) for path in policy.checkpoints(out / "checkpoints"))
    subprocess.run(["mount", "-o", "remount,size=100m", small_disk], check=True)
    assert run(folder, "sft", out) == 0
    same(folder, "sft", out)


def test_a_read_only_folder_ends_with_a_line(folder, small_disk):
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    assert run(folder, "sft", folder / "ro", "--out", small_disk / "out") == 2
    assert "could not be written: " in said(folder / "ro") and "Read-only file system" in said(folder / "ro")


def test_an_out_that_is_a_file_ends_with_a_line(folder):
    (folder / "file").touch()
    assert run(folder, "sft", folder / "below", "--out", folder / "file" / "out") == 2
    assert "could not be written: " in said(folder / "below")


def test_an_out_that_is_not_utf8_ends_with_a_line(folder):
    assert run(folder, "sft", folder / "bytes", "--out", folder / "\udcff") == 2
    assert "could not be written: 'utf-8' codec" in said(folder / "bytes")


def test_a_corrupted_line_in_the_middle_is_named(folder, tmp_path):
    lines = (folder / "examples.jsonl").read_text().splitlines()
    lines[4] = lines[4][:50]
    (tmp_path / "examples.jsonl").write_text("\n".join(lines) + "\n")
    assert run(folder, "bigrpo", tmp_path / "out", "--data", tmp_path / "examples.jsonl") == 2
    assert f"{tmp_path}/examples.jsonl: line 5: " in said(tmp_path / "out")


# ---------------------------------------------------------------------------------------------------------------------
# Numbers


def poison(target: str, call: int, spoil) -> None:
    """From its call-th call on, a function's result goes through `spoil`."""
    module, _, name = target.partition(".")
    owner, calls = __import__(module), [0]
    real = getattr(owner, name)

    def replacement(*given, **more):
        calls[0] += 1
        return spoil(real(*given, **more)) if calls[0] >= call else real(*given, **more)

    setattr(owner, name, replacement)


def nan_logprobs(result):
    return result[0] * math.nan, result[1]


def nan_without_gradient(result):
    """Spoils what a micro-batch without any advantage gives, which is read for the health line only."""
    return result if result[0].requires_grad else nan_logprobs(result)


def nan_rewards(result):
    return result[0], result[1], [math.nan, *result[2][1:]]


@pytest.mark.parametrize("script, target, call, spoil, line", [  # a step of RL reads the rollouts without advantage apart: two calls
    ("sft", "policy.token_logprobs", 5, nan_logprobs, "the gradient is not finite"),
    ("bigrpo", "policy.token_logprobs", 9, nan_without_gradient, "a log-probability or the loss is not finite"),
    ("bigrpo", "rewards.score_parsed", 5, nan_rewards, "a reward is not finite")])
def test_a_number_that_is_none_stops_the_run_and_spares_the_weights(folder, script, target, call, spoil, line):
    out = folder / f"{script}-{spoil.__name__}"
    assert run(folder, script, out, prepare=poison, arguments=(target, call, spoil)) == 2
    assert line in said(out) and len(metrics(out)) == 4 and saved(out) == ["step-000002", "step-000004"]
    assert run(folder, script, out) == 0
    same(folder, script, out)


def test_a_model_of_nans_is_not_sampled_from(folder, tmp_path):
    model, tokenizer = policy.load(str(folder / "model"))
    with torch.no_grad():
        model.lm_head.weight.fill_(math.nan)
    policy.save(model, tokenizer, tmp_path / "model")
    for temperature in (0.0, 1.0):
        with pytest.raises(SystemExit):
            policy.sample(model, tokenizer, [[1, 2]], temperature=temperature, seeds=[(0,)], max_tokens=4)
    assert run(folder, "bigrpo", tmp_path / "out", "--model", tmp_path / "model") == 2
    assert "logits are not finite" in said(tmp_path / "out")


# ---------------------------------------------------------------------------------------------------------------------
# The sandbox


def kill_workers() -> None:
    """SIGKILL to every child of this process: the sandbox's servers."""
    for path in Path("/proc/self/task").glob("*/children"):
        for child in path.read_text().split():
            os.kill(int(child), signal.SIGKILL)


def commit(result):
    """Every response says `<input>1</input>`, right for one of the eight examples."""
    return "<input>1</input><print>a: 1</print><answer>1</answer>", [0] * len(result[1])


def commit_and(target: str = "", call: int = 0, action=None) -> None:
    """`prepare` of a run whose responses all commit to an input, and in which action() comes before the call-th call of a function."""
    poison("policy.decode", 1, commit)
    if action:
        replace(target, call, action)


def of_inputs(folder: Path, path: Path) -> Path:
    """The tiny model's examples as input prediction: the sandbox has work in every step."""
    program = "def f(a):\n    print(f'a: {a}')\n    return a\n"
    rows = [json.loads(line) | {"task": "input", "instrumented": program, "call": "f(1)"} for line in (folder / "examples.jsonl").read_text().splitlines()]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.skipif(sys.platform != "linux", reason="finds the workers in /proc")
def test_a_sandbox_that_is_killed_in_the_middle_changes_no_reward(folder, tmp_path):
    words = ("--data", of_inputs(folder, tmp_path / "examples.jsonl"), "--steps", 4)
    for name, arguments in (("whole", ()), ("killed", ("rewards.traces_of_inputs", 3, kill_workers))):
        assert run(folder, "bigrpo", tmp_path / name, *words, rewarded=False, prepare=commit_and, arguments=arguments) == 0, said(tmp_path / name)
    assert metrics(tmp_path / "whole") == metrics(tmp_path / "killed") and not any(record["lost"] for record in metrics(tmp_path / "whole"))
    assert 0 < sum(record["final_reward"] for record in metrics(tmp_path / "whole")) < 4


def commit_and_lose(call: int) -> None:
    commit_and()
    poison("sandbox.trace_inputs", call, lambda traces: [sandbox.Trace(sandbox.Status.LOST, error="the worker died")] * len(traces))


def test_runs_that_the_sandbox_loses_are_counted_and_warned_of(folder, tmp_path):
    words = ("--data", of_inputs(folder, tmp_path / "examples.jsonl"), "--steps", 3)
    assert run(folder, "bigrpo", tmp_path / "out", *words, rewarded=False, prepare=commit_and_lose, arguments=(3,)) == 0  # one call a step: all have one program
    assert [record["lost"] for record in metrics(tmp_path / "out")] == [0, 0, 16] and metrics(tmp_path / "out")[2]["final_reward"] == 0
    assert f"step 2: {bigrpo.WARNINGS['lost']}" in (tmp_path / "out.log").read_text()


# ---------------------------------------------------------------------------------------------------------------------
# The engine

DEAD = "EngineCore encountered an issue. See stack trace (above) for the root cause."  # what vLLM's EngineDeadError says


class EngineDeadError(Exception):
    pass


class DyingEngine:
    """Stands in for vLLM's LLM: it runs out of memory when it takes over weights, or dies when it is to generate."""

    def __init__(self, problem: str):
        self.problem = problem

    def collective_rpc(self, name, kwargs):
        if self.problem == "memory":
            raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 2 GiB")

    def reset_prefix_cache(self):
        pass

    def generate(self, prompts, settings, use_tqdm):
        raise EngineDeadError(DEAD)


def dying_engine(problem: str) -> None:
    def make_sampler(kind, path, model, tokenizer, *more):
        sampler = policy.VllmSampler.__new__(policy.VllmSampler)
        sampler.engine, sampler.shares, sampler.ends = DyingEngine(problem), False, [tokenizer.eos_token_id]
        return sampler

    def no_engine(*words, **more):
        raise ValueError("Free memory on device is less than desired")

    sys.modules["vllm"] = types.SimpleNamespace(SamplingParams=dict, LLM=no_engine)
    policy.choose_sampler = lambda kind: "vllm"
    if problem != "start":
        policy.make_sampler = make_sampler


@pytest.mark.parametrize("problem, line", [
    ("dead", f"vLLM's engine failed (EngineDeadError: {DEAD})"), ("start", "(ValueError: Free memory on device is less than desired)"), ("memory", "(OutOfMemoryError: CUDA out of memory.). Give the command again")])
def test_an_engine_that_fails_ends_with_a_line(folder, problem, line):
    out = folder / f"engine-{problem}"
    assert run(folder, "bigrpo", out, prepare=dying_engine, arguments=(problem,)) == 2
    assert line in said(out) and ("--sampler-memory" in said(out)) == (problem == "memory")


# ---------------------------------------------------------------------------------------------------------------------
# Memory


def no_memory() -> None:
    raise torch.OutOfMemoryError("the test says so")


@pytest.mark.parametrize("script, target, words, line", [
    ("sft", "policy.token_logprobs", (), "this step is done at half the token budget"),
    ("bigrpo", "bigrpo.policy_loss", ("--updates", 2, "--beta", 0.1), "this step is done at half the token budget"),
    ("bigrpo", "bigrpo.prepare", ("--updates", 2, "--beta", 0.1), "this step is done at half the token budget"),
    ("bigrpo", "policy._decode_loop", ("--sample-rows", 8), "8 responses at a time do not fit into memory: from now on 4")])
def test_what_does_not_fit_into_memory_is_done_again_in_halves(folder, script, target, words, line):
    plain, out = folder / f"{script}-plain-{len(words)}", folder / f"{script}-{target.replace('.', '-')}-memory"
    assert plain.exists() or run(folder, script, plain, "--token-budget", 50, *words) == 0
    # the failing call comes after others of its step have left their share of the gradient
    assert run(folder, script, out, "--token-budget", 50, *words, prepare=replace, arguments=(target, 18, no_memory)) == 0
    assert out.with_suffix(".log").read_text().count(line) == 1
    assert sum(record["retries"] for record in metrics(out)) == 1 and not any(record["retries"] for record in metrics(plain))
    for one, other in zip(metrics(out), metrics(plain)):
        assert one.pop("warnings", []) == other.pop("warnings", [])
        assert one | {"retries": 0} == pytest.approx(other, abs=1e-4)


def test_memory_that_does_not_suffice_for_halves_or_for_several_ranks_ends_with_a_line(monkeypatch, capsys):
    calls = []

    def gradient(parts):
        calls.append(parts)
        no_memory()

    with pytest.raises(SystemExit):
        policy.accumulate(gradient, torch.nn.Linear(1, 1))
    assert calls == [1, 2] and "at half the token budget either" in capsys.readouterr().err
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(SystemExit):
        policy.accumulate(gradient, torch.nn.Linear(1, 1))
    assert calls == [1, 2, 1] and "lower --token-budget" in capsys.readouterr().err


def no_main_memory() -> None:
    torch.empty(1 << 60)


@pytest.mark.parametrize("script, target, call, action, line", [
    ("sft", "policy.optimizer_step", 4, no_memory, "the test says so. Take a smaller model"),
    ("bigrpo", "policy.make_optimizers", 1, no_main_memory, "DefaultCPUAllocator: can't allocate memory"),
    ("bigrpo", "policy.load", 1, no_memory, "the test says so. Take a smaller model")])
def test_memory_that_does_not_suffice_elsewhere_ends_with_a_line(folder, script, target, call, action, line):
    out = folder / f"{script}-{target}-{action.__name__}"
    assert run(folder, script, out, prepare=replace, arguments=(target, call, action)) == 2 and line in said(out)
    assert run(folder, script, out) == 0
    same(folder, script, out)


def test_another_runtime_error_keeps_its_traceback():
    with pytest.raises(RuntimeError, match="shapes"), policy.memory_errors():
        raise RuntimeError("shapes")


def test_a_sampler_halves_its_rows_down_to_one_prompt_and_then_ends_with_a_line(monkeypatch, capsys):
    tried = []
    monkeypatch.setattr(policy, "sample", lambda *words: tried.append(words[-1]) or no_memory())
    with pytest.raises(SystemExit):
        policy.TransformersSampler(None, None, max_rows=256)([[1]] * 5, 3, 8, 1.0, [(0,)] * 5)
    assert tried == [256, 7, 3] and "3 responses to one prompt do not fit into memory; lower --max-tokens" in capsys.readouterr().err


# ---------------------------------------------------------------------------------------------------------------------
# A long run stays what it was


def leak() -> None:
    """A file that is opened in every step and never closed."""
    real, kept = bigrpo.score, []
    bigrpo.score = lambda groups: kept.append(open(os.devnull)) or real(groups)


def commit_and_leak(leaks: bool) -> None:
    commit_and()
    if leaks:
        leak()


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("leaks", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_open_files_processes_and_memory_stay_flat_and_a_leak_is_found(folder, tmp_path, leaks):
    words = ("--data", of_inputs(folder, tmp_path / "examples.jsonl"), "--steps", 40)
    process = start(folder, "bigrpo", tmp_path / "out", *words, rewarded=False, prepare=commit_and_leak, arguments=(leaks,))
    rows = soak.watch(process.pid, process.is_alive, tmp_path / "out" / "metrics.jsonl", pause=0.01)
    assert finish(process) == 0 and len(rows) >= 10
    assert [name for name in soak.grown(rows) if name != "cpu"] == ["files"] * leaks  # so short a step has no CPU time to speak of
    assert max(row["processes"] for row in rows) > 1  # the sandbox's are among them


@pytest.mark.parametrize("name", soak.MOST)
def test_whatever_grows_in_a_long_run_is_named(name):
    flat = [{"memory": 400.0, "files": 5, "processes": 3, "cpu": 0.1} for _ in range(100)]
    steep = [row | {name: row[name] * (1 + step / 50)} for step, row in enumerate(flat)]
    spike = [row | {name: row[name] * 9} if step % 10 == 0 else row for step, row in enumerate(flat)]
    assert soak.grown(flat) == soak.grown(spike) == soak.grown(steep[::-1]) == [] and soak.grown(steep) == [name]


# ---------------------------------------------------------------------------------------------------------------------
# Health: a run that dies says of what

HEALTHY = {"first_ratio": 1.0, "sampler_gap": 1e-6, "equal_groups": 0.4, "entropy": 0.05, "cut": 0.0, "kl": 0.01, "lost": 0,
           "final_reward": 0.5, "step_reward": 0.6}


def trend(steps, **changes):
    """`steps` healthy records, of which the last twenty have these values."""
    return [HEALTHY | (changes if step >= steps - 20 else {}) for step in range(steps)]


@pytest.mark.parametrize("name, changes", [
    ("no_spread", {"equal_groups": 0.97}), ("no_entropy", {"entropy": 0.004}), ("cut", {"cut": 0.11}), ("kl", {"kl": 0.6}), ("ratio", {"first_ratio": 1.02}),
    ("ratio", {"first_ratio": 0.98}), ("sampler_gap", {"sampler_gap": 0.06}),
    ("lost", {"lost": 1}), ("hacking", {"final_reward": 0.56, "step_reward": 0.54})])
def test_each_way_to_die_has_its_warning(name, changes):
    assert bigrpo.warnings(trend(40, **changes)) == [name] and len(bigrpo.WARNINGS) == 8


def test_a_healthy_run_and_two_rewards_that_move_together_warn_of_nothing():
    assert bigrpo.warnings(trend(1)) == bigrpo.warnings(trend(40)) == []
    for both in (0.3, 0.9):
        assert bigrpo.warnings(trend(40, final_reward=both, step_reward=both)) == []
    assert bigrpo.warnings(trend(9, entropy=0.0, equal_groups=1.0)) == []  # a few steps prove nothing
    demo = [json.loads(line) for line in (Path(__file__).parent.parent / "results/demo/rl_metrics.jsonl").read_text().splitlines()]
    assert not any(bigrpo.warnings(demo[:step + 1]) for step in range(len(demo)))


def test_a_warning_is_said_once_also_across_a_resume_and_stands_in_the_metrics(folder):
    out = folder / "warned"  # the random model's responses of eight tokens never end
    for more in (kill_at("policy.optimizer_step", 12), {}):
        run(folder, "bigrpo", out, rewarded=False, **more)
    assert [record["warnings"] for record in metrics(out)] == [[]] * 9 + [["no_spread", "cut"]] * 3
    text = out.with_suffix(".log").read_text()
    assert text.count(bigrpo.WARNINGS["cut"]) == 1 and f"step 9: {bigrpo.WARNINGS['cut']}" in text


def test_the_readme_explains_each_warning():
    text = (Path(__file__).parent.parent / "README.md").read_text()
    assert all(f"| `{name}` |" in text for name in bigrpo.WARNINGS)
