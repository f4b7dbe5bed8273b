"""Measure what the README says is fast. Each section is one function; `--only NAME` runs one.

    python tools/bench.py                                       everything, on toy programs
    STEPCODE_DATA=folder python tools/bench.py --only sandbox   also CRUXEval's 800 programs (folder/cruxeval.jsonl)

The sandbox section runs every way of executing programs in turn, several rounds in one process, because figures of a shared machine
drift; it prints the median of each, and of the rounds' ratios. Nothing else should run meanwhile; where something does, trust the
CPU time per program (of all its processes), which a busy machine changes less. Two of the ways are ceilings, made with copies of
sandbox.py in which a child ends early: a bare fork and exit; and a fork that compiles and runs the program, before it takes on its
limits and its last filter, and reports nothing. Of what ours loses against the first, the second has lost what any isolation would.

The endurance section runs 100,000 programs, some of them hostile, and prints what the sandbox and its caller hold meanwhile."""
import argparse
import contextlib
import functools
import importlib.util
import io
import itertools
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
import sandbox  # noqa: E402

WORKERS = os.cpu_count() or 1

# The way of the official scorers: for each program a manager and a forked process, some functions set to None.
OFFICIAL = """
import builtins, json, multiprocessing, os, shutil, subprocess, sys
from concurrent.futures import ThreadPoolExecutor
def unsafe(program, result):
    os.kill = os.fork = os.remove = os.system = os.rename = shutil.rmtree = shutil.move = builtins.exit = builtins.quit = None
    subprocess.Popen = None
    try:
        exec(program, {})
        result.append("passed")
    except BaseException as problem:
        result.append(f"failed: {problem}")
def check(program):
    with multiprocessing.Manager() as manager:
        result = manager.list()
        process = multiprocessing.Process(target=unsafe, args=(program, result))
        process.start()
        process.join(timeout=4)
        process.kill()
        return list(result) == ["passed"]
programs, workers = json.load(sys.stdin)
with ThreadPoolExecutor(workers) as pool:
    print(sum(pool.map(check, programs)))
"""


FIRST = "    os.setsid()\n"       # the first step of a child in sandbox.py
ENDS = {    # what a copy of sandbox.py does instead
    "bare": "    _exit(0)\n",
    "inner": """    names = {}
    exec(compile(task["program"], "<program>", "exec", dont_inherit=True), names)
    repr(eval(compile(task["call"].strip(), "<call>", "eval", dont_inherit=True), names))
    _exit(0)
""",
}


@functools.cache
def ending(name):
    """A copy of sandbox.py, as a module, whose children end early."""
    folder = tempfile.TemporaryDirectory()
    path, text = pathlib.Path(folder.name, "sandbox.py"), pathlib.Path(sandbox.__file__).read_text()
    assert text.count(FIRST) == 1
    path.write_text(text.replace(FIRST, ENDS[name]))
    spec = importlib.util.spec_from_file_location(f"sandbox_{name}", path)
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.folder = folder      # as long as the module is there
    return module


def ours(jobs, layers=sandbox.LAYERS):
    """trace_many with these layers of isolation; the number of programs that ran."""
    sandbox.LAYERS = layers
    with contextlib.redirect_stderr(io.StringIO()):     # it says which layers are missing
        return sum(result.status == "ok" for result in sandbox.trace_many(jobs))


def ceiling(name, jobs):
    """The same server, with children that end early and report nothing; the number that came to that end."""
    return sum(result.error == "left with exit code 0" for result in ending(name).trace_many(jobs))


def fresh(jobs, flags):
    """A fresh interpreter for each program."""
    def run(job):
        return subprocess.run([sys.executable, *flags, "-c", "\n".join(job)], capture_output=True, timeout=9).returncode == 0
    with ThreadPoolExecutor(WORKERS) as pool:
        return sum(pool.map(run, jobs))


def official(jobs):
    """multiprocessing for each program, as the benchmarks' own scorers do."""
    text = json.dumps([["\n".join(job) for job in jobs], WORKERS])
    return int(subprocess.run([sys.executable, "-c", OFFICIAL], input=text, capture_output=True, text=True).stdout)


def inputs(jobs):
    """trace_inputs: as many inputs of one trusted program as there are jobs."""
    sandbox.LAYERS = ALL_LAYERS
    texts = [f"{n}, 'a'" for n in range(len(jobs))]
    return sum(result.status == "ok" for result in sandbox.trace_inputs("def f(n, s):\n    return [n, s * 3]", "f", texts))


ALL_LAYERS = sandbox.LAYERS
FULL, BARE, INNER = "ours, full isolation", "bare fork and exit of the same server", "fork, compile and run, no more"
WAYS = {    # name -> (function, share of the programs that each round runs: the slow ways take fewer)
    FULL: (ours, 1),
    BARE: (lambda jobs: ceiling("bare", jobs), 1),
    INNER: (lambda jobs: ceiling("inner", jobs), 1),
    "ours, limits only": (lambda jobs: ours(jobs, ()), 1),
    "ours, inputs of one program": (inputs, 1),
    "fresh python -I -S": (lambda jobs: fresh(jobs, ["-I", "-S"]), 1 / 4),
    "fresh python -I": (lambda jobs: fresh(jobs, ["-I"]), 1 / 10),
    "official: multiprocessing": (official, 1 / 10),
}


def tree(pid):
    """A process and all below it."""
    children = pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid] + [below for child in children for below in tree(child)]


def cpu():
    """Seconds of CPU so far of this process, of the processes it has waited for and of the sandbox's servers (0 for these but on Linux)."""
    below = tree(os.getpid())[1:] if sys.platform == "linux" else []
    stats = [pathlib.Path(f"/proc/{pid}/stat").read_text() for pid in below]
    ticks = sum(int(number) for stat in stats for number in stat.rpartition(")")[2].split()[11:15])
    return sum(os.times()[:4]) + ticks / os.sysconf("SC_CLK_TCK")


def measure(title, jobs, rounds):
    """Programs per second, and CPU time per program, of every way, on a list of (program, call)."""
    print(f"\n{title}: {len(jobs)} programs, {WORKERS} workers, {rounds} rounds")
    speeds, costs = {name: [] for name in WAYS}, {name: [] for name in WAYS}
    ours(jobs[:WORKERS]), ours(jobs[:WORKERS], ()), ceiling("bare", jobs[:WORKERS]), ceiling("inner", jobs[:WORKERS])    # start the servers
    for _ in range(rounds):
        for name, (way, share) in WAYS.items():
            some = jobs[:max(1, round(len(jobs) * share))]
            start, used = time.perf_counter(), cpu()
            done = way(some)
            speeds[name].append(len(some) / (time.perf_counter() - start))
            costs[name].append((cpu() - used) / len(some))
            if done < 0.9 * len(some):
                raise SystemExit(f"{name}: only {done} of {len(some)} programs ran")

    def ratio(table, one, other):
        return statistics.median(a / b for a, b in zip(table[one], table[other]))

    for name in WAYS:
        spread = f"({min(speeds[name]):.0f} to {max(speeds[name]):.0f})"
        print(f"{name:38} {statistics.median(speeds[name]):6.0f} /s {spread:14} {1000 * statistics.median(costs[name]):6.2f} ms of CPU; full isolation is "
              f"{ratio(speeds, FULL, name):5.2f} x as fast, by CPU {ratio(costs, name, FULL):5.2f} x")
    print(f"Fork, compile and run alone reach {ratio(speeds, INNER, BARE):.2f} of a bare fork (by CPU {ratio(costs, BARE, INNER):.2f}), which no isolation "
          f"can exceed. Full isolation reaches {ratio(speeds, FULL, INNER):.2f} of that (by CPU {ratio(costs, INNER, FULL):.2f})")


def scaling(jobs, rounds):
    """Programs per second by number of workers. The caller is one more process, which sends and reads."""
    sandbox.LAYERS = ALL_LAYERS
    counts = sorted({1, 2, WORKERS // 2, WORKERS} - {0})
    speeds = {workers: [] for workers in counts}
    list(sandbox.trace_many(jobs, workers=max(counts)))     # start the servers
    for _ in range(rounds):
        for workers in counts:
            start = time.perf_counter()
            list(sandbox.trace_many(jobs, workers=workers))
            speeds[workers].append(len(jobs) / (time.perf_counter() - start))
    print(f"\nby workers, on {os.cpu_count()} cores")
    for workers, some in speeds.items():
        speed = statistics.median(some)
        print(f"{workers} workers: {speed:.0f} programs/s ({min(some):.0f} to {max(some):.0f}), {speed / statistics.median(speeds[1]):.2f} x one worker's")


def bench_sandbox(args):
    import toy
    jobs = [(row["code"], row["call"]) for row in toy.programs(400, False, 2, 0)]
    measure("toy", jobs, args.rounds)
    path = pathlib.Path(args.data or os.environ.get("STEPCODE_DATA", "data"), "cruxeval.jsonl")
    if not path.exists():
        return print(f"CRUXEval: skipped, there is no {path} (set STEPCODE_DATA or --data)")
    rows = [json.loads(line) for line in path.open()]
    jobs = [(row["code"], f"f({row['input']})") for row in rows]
    measure("CRUXEval", jobs, args.rounds)
    scaling(jobs, args.rounds)


HOSTILE = ["x = []\nwhile True: x.append([0] * 1_000_000)", "print('x' * 100_000_000)", "import os\nos.abort()", "import os\nwhile True: os.fork()"]
WARM_UP, PARTS = 2000, 10


def endurance(count):
    """Run `count` programs, one in 500 of them hostile. Yields (programs so far, MB of this process, MB of the largest server, processes below
    this one, its open files, entries in the folder for temporary files) after WARM_UP programs and then after each tenth of the rest."""
    import toy
    honest, hostile = itertools.cycle([(row["code"], row["call"]) for row in toy.programs(400, False, 2, 0)]), itertools.cycle(HOSTILE)
    jobs = ((next(hostile), "") if n % 500 == 499 else next(honest) for n in itertools.count())
    done = 0
    sandbox.LAYERS = ALL_LAYERS
    sandbox._close_idle()
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        before, tempfile.tempdir = tempfile.gettempdir(), folder
        try:
            for part in (WARM_UP, *[(count - WARM_UP) // PARTS] * PARTS):
                done += sum(1 for _ in sandbox.trace_many(itertools.islice(jobs, part)))
                sizes = [int(pathlib.Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6 for pid in tree(os.getpid())]
                yield done, sizes[0], max(sizes[1:]), len(sizes) - 1, len(os.listdir("/proc/self/fd")), len(os.listdir(folder))
        finally:
            tempfile.tempdir = before


def bench_endurance(args):
    """Does anything grow, or stay behind, over 100,000 programs?"""
    if sys.platform != "linux":
        return print("\nendurance: skipped, it reads /proc")
    print(f"\nendurance: toy programs, one in 500 hostile, {WORKERS} workers\n"
          "programs   caller   largest server   processes   open files   temporary files   programs/s")
    then, start = 0, time.perf_counter()
    for done, caller, server, processes, files, left in endurance(100_000):
        now = time.perf_counter()
        print(f"{done:8,} {caller:5.1f} MB {server:13.1f} MB {processes:11} {files:12} {left:17} {(done - then) / (now - start):12.0f}", flush=True)
        then, start = done, now


# ---------------------------------------------------------------------------------------------------------------------
# Training: one step of Bi-Level GRPO on the toy, beside TRL's GRPOTrainer where trl is installed; the memory of log-probabilities

PROMPTS, GROUP, LENGTH = 24, 8, 64


def toy_checkpoint(folder):
    """A random toy model and examples of output prediction: (model, tokenizer, rows)."""
    import policy
    import toy
    rows = list(toy.programs(400, False, 2, 0))
    tokenizer = toy.make_tokenizer(list(toy.tokenizer_texts(rows)))
    policy.save(toy.make_model(tokenizer), tokenizer, pathlib.Path(folder, "model"))
    for row in rows:
        row |= {"prompt": f"{row['code']}\nassert {row['call']} == ??", "anchors": [["a", "1"], ["return_val", "1"]], "output": "1", "task": "output",
                "instrumented": row["code"]}
    return *policy.load(str(pathlib.Path(folder, "model"))), rows


def our_steps(model, tokenizer, rows, prompts=PROMPTS, length=LENGTH, budget=8192):
    """Yields (seconds of sampling, of scoring, of training, response tokens, all tokens trained on), a step each."""
    import bigrpo
    import policy
    args = bigrpo.build_parser().parse_args(["--beta", "0", "--max-tokens", str(length), "--group", str(GROUP), "--token-budget", str(budget)])
    sampler, optimizers = policy.TransformersSampler(model, tokenizer), policy.make_optimizers(model, "adamw", 1e-5)
    for step in itertools.count():
        times = [time.perf_counter()]
        chosen = [rows[i] for i in policy.batch_indices(step, prompts, len(rows), 0)]
        groups = bigrpo.roll_out(sampler, tokenizer, chosen, [(0, step, p) for p in range(prompts)], args)
        times.append(time.perf_counter())
        bigrpo.score(groups)
        batch = [rollout for group in groups for rollout in group]
        for g, rollout in enumerate(batch):     # a random model earns nothing: give every rollout an advantage, as a peer's reward below does
            rollout.advantage = bigrpo.torch.full((len(rollout.sample.ids),), (-1.0) ** g)
        times.append(time.perf_counter())
        bigrpo.update(model, optimizers, None, batch, 1e-5, args)
        times.append(time.perf_counter())
        yield *(b - a for a, b in zip(times, times[1:])), sum(len(r.sample.ids) for r in batch), sum(len(r.prompt + r.sample.ids) for r in batch)


def trl_steps(model, tokenizer, rows, steps, folder, length=LENGTH):
    """Seconds of each of `steps` steps of TRL's GRPOTrainer: same checkpoint, prompts a step, group, length; two micro-batches, one update."""
    import datasets
    import transformers
    import trl

    class Clock(transformers.TrainerCallback):
        times, start = [], 0.0

        def on_step_begin(self, *_, **__):
            self.start = time.perf_counter()

        def on_step_end(self, *_, **__):
            self.times.append(time.perf_counter() - self.start)

    clock = Clock()
    args = trl.GRPOConfig(output_dir=folder, per_device_train_batch_size=PROMPTS * GROUP // 2, gradient_accumulation_steps=2, num_generations=GROUP,
                          max_completion_length=length, beta=0.0, max_steps=steps, use_cpu=model.device.type == "cpu", bf16=model.device.type == "cuda", gradient_checkpointing=False, report_to=[],
                          save_strategy="no", disable_tqdm=True, learning_rate=1e-5, temperature=1.0)
    trainer = trl.GRPOTrainer(model=model, reward_funcs=lambda completions, **_: [float(len(text) % 2) for text in completions], args=args,
                              train_dataset=datasets.Dataset.from_list([{"prompt": row["prompt"]} for row in rows]), processing_class=tokenizer,
                              callbacks=[clock])
    with contextlib.redirect_stdout(io.StringIO()):
        trainer.train()
    return clock.times


def bench_step(args):
    """A step of the toy on the CPU, by phase."""
    with tempfile.TemporaryDirectory() as folder:
        compare_steps(folder, *toy_checkpoint(folder), args.rounds)


def compare_steps(folder, model, tokenizer, rows, rounds, **sizes):
    """A step by phase; with trl installed (in an environment of its own: pip install -r requirements.txt trl==1.16.*) the ratio to its step."""
    import policy
    import torch
    size, length = sum(weight.numel() for weight in model.parameters()), sizes.get("length", LENGTH)
    where = torch.cuda.get_device_name() if model.device.type == "cuda" else f"{torch.get_num_threads()} threads"
    print(f"\nstep: {size / 1e6:.2f}M parameters, {PROMPTS} x {GROUP} rollouts of at most {length} tokens, {where}. The floor: 2 FLOPs a "
          "parameter and sampled token, 6 a trained one, beside attention")
    ours, theirs, generator = [], [], our_steps(model, tokenizer, rows, **sizes)
    next(generator)     # the first step of either is not counted
    for _ in range(rounds):
        ours += [next(generator), next(generator)]
        if importlib.util.find_spec("trl"):
            theirs += trl_steps(*policy.load(str(pathlib.Path(folder, "model"))), rows, 3, folder, length)[1:]
    sample, score, train = (statistics.median(column) for column in list(zip(*ours))[:3])
    total, sampled, trained = sample + score + train, ours[-1][3], ours[-1][4]
    for name, seconds in (("sampling", sample), ("scoring", score), ("training", train)):
        print(f"{name:10} {seconds:6.2f} s  {seconds / total:4.0%}")
    print(f"sampling {sampled / sample:.0f} tokens/s, {2 * size * sampled / sample / 1e9:.1f} GFLOP/s; "
          f"training {trained / train:.0f} tokens/s, {6 * size * trained / train / 1e9:.1f} GFLOP/s (a prompt counted once for each of its rollouts)")
    if theirs:
        print(f"TRL's step {statistics.median(theirs):.2f} s; ours {total:.2f} s, {total / statistics.median(theirs):.2f} of it")
    else:
        print("TRL: skipped, trl is not installed")


MEMORY = """
import resource, sys, torch, policy, toy
class Words:
    eos_token_id = pad_token_id = 0
    def __len__(self): return 151_936
model = toy.make_model(Words(), width=64, layers=1)
prompts, responses = [[p + 1] * 256 for p in range(6)], [[7] * 256] * 6
def naive():
    ids = torch.tensor([a + b for a, b in zip(prompts, responses)])
    return model(input_ids=ids).logits.float().log_softmax(-1)[:, :-1].gather(-1, ids[:, 1:, None])[:, 255:].sum()
def ours():
    return policy.token_logprobs(model, prompts, responses)[0].sum()
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for weight in model.parameters(): weight.grad = torch.zeros_like(weight)
before = peak()
{"naive": naive, "ours": ours}[sys.argv[1]]().backward()
print(peak() - before)
"""


def bench_memory(args):
    """Peak memory of log-probabilities and their gradient at Qwen's vocabulary: chunks against logits of every position."""
    found = {}
    for name in ("naive", "ours"):
        done = subprocess.run([sys.executable, "-c", MEMORY, name], capture_output=True, text=True, check=True,
                              env=os.environ | {"PYTHONPATH": str(pathlib.Path(__file__).resolve().parent.parent)})
        found[name] = int(done.stdout) * (1 if sys.platform == "darwin" else 1024) / 1e9     # Linux counts in KiB
    print(f"\nlog-probabilities, vocabulary 151,936, 6 x (256 + 256) tokens, forward and backward: naive {found['naive']:.2f} GB, "
          f"ours {found['ours']:.2f} GB, {found['ours'] / found['naive']:.3f} of it")


FEW, SHORT = 6, 32      # prompts a step and tokens a response, where they are not what is varied
VARIED = {"rollouts": (48, 96, 192, 384), "length": (16, 32, 64, 128), "vocabulary": (None, 2_000, 8_000, 32_000),  # None: the toy's
          "ranks, with KL": (1, 2)}


def bench_growth(args):
    """How a step grows with one thing at a time: rollouts, their length, the vocabulary, and ranks that share this machine's cores."""
    import policy
    with tempfile.TemporaryDirectory() as folder:
        _, tokenizer, rows = toy_checkpoint(folder)
        print(f"\ngrowth: {FEW} x {GROUP} rollouts of at most {SHORT} tokens, vocabulary {len(tokenizer)}, but for what is varied; response tokens per second\n"
              f"{'':24}    step      sampling              training")
        for name, points in VARIED.items():
            for point in points:
                if name == "ranks, with KL":
                    steps = ranked_steps(folder, rows, point, args.rounds)
                else:
                    model, _ = policy.load(str(pathlib.Path(folder, "model")))
                    if name == "vocabulary" and point:
                        model.resize_token_embeddings(point, mean_resizing=False)
                    generator = our_steps(model, tokenizer, rows, point // GROUP if name == "rollouts" else FEW, point if name == "length" else SHORT)
                    steps = itertools.islice(generator, 1, args.rounds + 1)     # the first one is not counted
                sample, score, train, tokens = [statistics.median(column) for column in zip(*steps)][:4]
                print(f"{name:15} {point or len(tokenizer):6,} {sample + score + train:7.2f} s {sample:7.2f} s {tokens / sample:7.0f} /s "
                      f"{train:7.2f} s {tokens / train:7.0f} /s", flush=True)


def ranked_steps(folder, rows, ranks, rounds):
    """Yields what our_steps does, of bigrpo.py under torchrun. Its rewards for a random model are 0, so a KL is what there is to train on."""
    import toy
    root, data, out = pathlib.Path(__file__).resolve().parent.parent, pathlib.Path(folder, "examples.jsonl"), pathlib.Path(folder, str(ranks))
    toy.write_jsonl(data, rows)
    words = {"--model": pathlib.Path(folder, "model"), "--data": data, "--out": out, "--sampler": "transformers", "--beta": 0.001,
             "--steps": rounds + 1, "--prompts": FEW, "--group": GROUP, "--max-tokens": SHORT}
    subprocess.run([sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}", root / "bigrpo.py",
                    *(str(word) for pair in words.items() for word in pair)], check=True, stdout=subprocess.DEVNULL)
    for record in map(json.loads, (out / "metrics.jsonl").read_text().splitlines()[1:]):
        times = record["timing"]
        yield times["sample_s"], times["score_s"], times["train_s"], record["tokens"] * FEW * GROUP


# ---------------------------------------------------------------------------------------------------------------------
# A GPU


def random_qwen(folder):
    """(model, tokenizer, rows) as toy_checkpoint; the model has Qwen2.5-0.5B's shape and random weights."""
    import policy
    import torch
    import transformers
    _, tokenizer, rows = toy_checkpoint(folder)
    shape = {"vocab_size": 151_936, "hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24, "num_attention_heads": 14,
             "num_key_value_heads": 2, "max_position_embeddings": 4096, "tie_word_embeddings": True}
    torch.manual_seed(0)
    with policy.default_device():
        model = transformers.Qwen2ForCausalLM(transformers.Qwen2Config(**shape, bos_token_id=None, eos_token_id=tokenizer.eos_token_id))
    policy.save(model, tokenizer, pathlib.Path(folder, "model"))
    return model, tokenizer, rows


def clocked(work, rounds):
    """(median seconds of `work` on the GPU after two warm-ups, GB of memory that it takes at most)."""
    import torch
    torch.cuda.reset_peak_memory_stats()
    before, seconds = torch.cuda.memory_allocated(), []
    for _ in range(rounds + 2):
        torch.cuda.synchronize()
        start = time.perf_counter()
        work()
        torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[2:]), (torch.cuda.max_memory_allocated() - before) / 1e9


def training_flops(config, read, predicted, context):
    """Forward and backward: `read` tokens go through the layers, `predicted` ones through the head too; each attends to `context` on average."""
    wide, shared = config.hidden_size, config.num_key_value_heads / config.num_attention_heads
    layer = 2 * wide * wide * (1 + shared) + 3 * wide * config.intermediate_size    # its weights
    return 6 * (read * config.num_hidden_layers * (layer + 2 * wide * context) + predicted * wide * config.vocab_size)


def every_logit(model, prompts, responses):
    """Log-probabilities of the responses [B, T] the naive way: logits of every position, prompts included, at once."""
    import torch
    ids = torch.tensor([a + b for a, b in zip(prompts, responses)], device=model.device)
    with torch.autocast(model.device.type, torch.bfloat16):
        logprobs = model(input_ids=ids, use_cache=False).logits.float().log_softmax(-1)
    return logprobs[:, :-1].gather(-1, ids[:, 1:, None])[:, len(prompts[0]) - 1:, 0]


@contextlib.contextmanager
def one_rank():
    """A process group of one rank, and policy.py as it is where there are several: FSDP2 wraps the model."""
    import unittest.mock

    import policy
    import torch
    torch.distributed.init_process_group("nccl", store=torch.distributed.HashStore(), rank=0, world_size=1)
    with unittest.mock.patch.object(policy, "ranks", lambda: 2):
        yield
    torch.distributed.destroy_process_group()


def train_on_gpu(folder, model, tokens, rounds):
    """2 x GROUP rollouts of `tokens` + `tokens` tokens, forward and backward, in four ways."""
    import policy
    import torch
    side = 8192
    left, right = (torch.randn(side, side, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    peak = 2 * side ** 3 / clocked(lambda: left @ right, 20)[0]
    generator = torch.Generator().manual_seed(0)
    two, responses = (torch.randint(1, 250, (count, tokens), generator=generator).tolist() for count in (2, 2 * GROUP))
    prompts = [prompt for prompt in two for _ in range(GROUP)]
    alone = [prompt[:-1] + [250 + g % GROUP] for g, prompt in enumerate(prompts)]    # no two alike
    count = 2 * len(prompts) * tokens
    useful = training_flops(model.config, count, count / 2, tokens)
    shared = training_flops(model.config, count / 2 + 2 * tokens, count / 2, tokens)
    print(f"\ntraining on {torch.cuda.get_device_name()}, torch {torch.__version__}: {len(prompts)} rollouts of {tokens} + {tokens} tokens, forward and "
          f"backward, no optimizer. A product of bf16 matrices reaches {peak / 1e12:.0f} TFLOP/s")

    def line(name, logprobs, flops):
        seconds, memory = clocked(lambda: logprobs().sum().backward(), rounds)
        model.zero_grad()
        print(f"{name:50} {count / seconds:8.0f} tokens/s {flops / seconds / 1e12:5.0f} TFLOP/s {flops / seconds / peak:4.0%} of that {memory:6.1f} GB", flush=True)

    line("logits of every position", lambda: every_logit(model, alone, responses), useful)
    line("ours, chunks of the response's", lambda: policy.token_logprobs(model, alone, responses)[0], useful)
    line(f"the same, {GROUP} rollouts share a prompt", lambda: policy.token_logprobs(model, prompts, responses)[0], shared)
    with torch.no_grad():
        ours = policy.token_logprobs(model, alone, responses)[0]
    with one_rank():
        sharded = policy.shard(policy.load(folder)[0])
        line("ours under FSDP2, one rank", lambda: policy.token_logprobs(sharded, alone, responses)[0], useful)
        with torch.no_grad():
            gap = (policy.token_logprobs(sharded, alone, responses)[0] - ours).abs().mean()
        print(f"{'its log-probabilities differ from ours by':50} {gap:.1e} nats a token")


def sample_on_gpu(model, tokenizer, tokens):
    """32 x GROUP responses: tokens per second, and how far the sampler's log-probabilities are from the trainer's."""
    import policy
    import torch
    prompts = torch.randint(1, 250, (32, 128), generator=torch.Generator().manual_seed(0)).tolist()
    for _ in range(2):      # the first is a warm-up
        start = time.perf_counter()
        groups = policy.sample(model, tokenizer, prompts, GROUP, tokens, seeds=[(0, p) for p in range(32)])
        seconds = time.perf_counter() - start
    flat = [(prompt, one) for prompt, group in zip(prompts, groups) for one in group][::8]
    with torch.no_grad():
        trained = policy.token_logprobs(model, [prompt for prompt, _ in flat], [one.ids for _, one in flat])[0]
    gap = (trained - torch.tensor([value for _, one in flat for value in one.logprobs], device="cuda")).abs().mean()
    print(f"sampling {32 * GROUP} x {tokens} tokens: {sum(len(one.ids) for group in groups for one in group) / seconds:.0f} tokens/s, "
          f"{gap:.1e} nats a token from the trainer", flush=True)


def bench_gpu(args):
    """A model of Qwen2.5-0.5B's shape on a GPU: training, sampling, and a step beside TRL's."""
    import torch
    if not torch.cuda.is_available():
        return print("\ngpu: skipped, there is none")
    with tempfile.TemporaryDirectory() as folder:
        model, tokenizer, rows = random_qwen(folder)
        train_on_gpu(str(pathlib.Path(folder, "model")), model, 512, args.rounds)
        torch.cuda.empty_cache()    # what the naive way took
        sample_on_gpu(model, tokenizer, 256)
        compare_steps(folder, model, tokenizer, rows, args.rounds, length=256, budget=16_384)


SECTIONS = {"sandbox": bench_sandbox, "endurance": bench_endurance, "step": bench_step, "memory": bench_memory, "growth": bench_growth, "gpu": bench_gpu}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=SECTIONS, help="one section (default: all)")
    parser.add_argument("--data", help="folder with cruxeval.jsonl (default: $STEPCODE_DATA, then data)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of each measurement")
    args = parser.parse_args()
    for name, section in SECTIONS.items():
        if args.only in (None, name):
            section(args)


if __name__ == "__main__":
    main()
