"""Training runs for tests: a tiny checkpoint with examples, and sft.py or bigrpo.py in a process of its own that a test may kill.

The processes are forked from a server that has imported what is slow to import, so that a run starts in well under a second.
"""

import json
import multiprocessing
import os
import signal
import sys
import traceback
from pathlib import Path

import torch

import policy
import rewards
import toy

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["torch.distributed.checkpoint", "transformers.models.auto.modeling_auto", "transformers.models.auto.tokenization_auto",
                              "transformers.models.qwen2.modeling_qwen2", "bigrpo", "sft"])
WORDS = {"sft": ("--batch", 4, "--epochs", 6, "--lr", 2e-3),  # twelve steps each
         "bigrpo": ("--steps", 12, "--prompts", 4, "--group", 4, "--max-tokens", 8, "--lr", 1e-2, "--beta", 0)}


def tiny(path: Path) -> Path:
    """A folder with model/, a random model of one layer, and examples.jsonl, eight of output prediction."""
    rows = [{"id": str(i), "prompt": f"a = {i}\nassert f({i}) == ??", "response": f"<reasoning></reasoning><print>a: {i}</print><answer>{i}</answer>",
             "anchors": [["a", str(i)], ["b", str(i)]], "output": str(i), "task": "output", "instrumented": "", "call": "f()"} for i in range(8)]
    toy.write_jsonl(path / "examples.jsonl", rows)
    tokenizer = toy.make_tokenizer([row["prompt"] for row in rows])
    policy.save(toy.make_model(tokenizer, width=32, layers=1), tokenizer, path / "model")
    return path


def digits_are_right() -> None:
    """Reward every response that holds a digit: a random model gets nothing right, and without any reward the weights would never move."""

    def score_parsed(responses: list, examples: list[dict], traces: list) -> tuple[list, list, list]:
        finals = [float(any(letter.isdigit() for letter in response.answer)) for response in responses]
        return [[final, 0.0] for final in finals], [[True, True]] * len(finals), finals

    rewards.parse, rewards.score_parsed = lambda text: rewards.Response(answer=text), score_parsed


def _run(script: str, words: list[str], log: Path, rewarded: bool, prepare, *arguments) -> None:
    with log.open("a") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.argv = [script, *words]
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
    try:
        if rewarded:
            digits_are_right()
        if prepare:
            prepare(*arguments)
        __import__(script).main()
    except SystemExit:
        raise
    except BaseException:
        traceback.print_exc()
        sys.exit(1)


def start(folder: Path, script: str, out: Path, *words, rewarded: bool = True, prepare=None, arguments=()):
    """A running sft.py or bigrpo.py on the tiny model, its output appended to OUT.log; `prepare(*arguments)` runs in it first."""
    words = ["--model", folder / "model", "--data", folder / "examples.jsonl", "--out", out, "--save-every", 2, *WORDS[script], *words]
    return launch(script, out.with_suffix(".log"), *words, rewarded=rewarded, prepare=prepare, arguments=arguments)


def launch(script: str, log: Path, *words, rewarded: bool = False, prepare=None, arguments=()):
    """Any script of the project as a process, its output appended to a log."""
    process = FORKS.Process(target=_run, args=(script, [*map(str, words)], log, rewarded, prepare, *arguments))
    process.start()
    return process


def finish(process, timeout: float = 60) -> int:
    """Its exit code, negative for a signal; a process that does not end is a failure."""
    process.join(timeout)
    if process.exitcode is None:
        process.kill()
        raise AssertionError("the run hangs")
    return process.exitcode


def run(folder: Path, script: str, out: Path, *words, **more) -> int:
    return finish(start(folder, script, out, *words, **more))


def metrics(out: Path) -> list[dict]:
    """The lines of metrics.jsonl, without what depends on the machine."""
    return [{name: value for name, value in json.loads(line).items() if name not in ("timing", "memory_gb")} for line in (out / "metrics.jsonl").read_text().splitlines()]


def weights(out: Path) -> bytes:
    return (out / "model" / "model.safetensors").read_bytes()


def replace(target: str, call: int, action, *arguments) -> None:
    """Replace a function, named "module.function", by one whose call-th call does action(*arguments) first; for `prepare`."""
    module, _, name = target.rpartition(".")
    owner = __import__(module.partition(".")[0])
    for part in module.split(".")[1:]:
        owner = getattr(owner, part)
    real, calls = getattr(owner, name), [0]

    def replacement(*given, **more):
        calls[0] += 1
        if calls[0] == call:
            action(*arguments)
        return real(*given, **more)

    setattr(owner, name, replacement)


def send(*signals: int) -> None:
    for number in signals:
        os.kill(os.getpid(), number)


def kill_at(target: str, call: int) -> dict:
    """Keywords for `start`: SIGKILL at the call-th call of a function."""
    return {"prepare": replace, "arguments": (target, call, send, signal.SIGKILL)}
