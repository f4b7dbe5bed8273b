"""The paper's ablations on the toy: does step credit do what is claimed for it? (Tables 5, 6, 7, 9, 13 and Figure 2 in shape)

    python tools/ablation.py --jobs 2                    # the core table; run it again to go on where it was stopped
    python tools/ablation.py --arms lam group --seeds 3  # sweeps
    python tools/ablation.py --report                    # tables and figures of what is done by now
    python tools/ablation.py variant first-error --model ... --data ... --out ...    # bigrpo.py with one change

Every seed is a pipeline of its own: programs, initial weights, SFT, sampling. Its arms start from the same SFT checkpoint and get the
same number of rollouts and of updates; an arm that changes the data has an SFT of its own, of as many updates. Both tasks, output and
input prediction, are trained and tested together; a tenth of the SFT examples have no anchors. SFT sees one or two statements before
the return, RL and the test two or three, so RL also has longer programs to learn from: "SFT only, longer programs" is the control, and RL from
there has no programs of another kind than SFT had. A second test has about five statements, and more branches and loops.

RL only starts from an SFT of FORMAT epochs ("format SFT" in the table), because a random model never writes the format and so is never
rewarded. Prompts are bare, so without decoupled tasks only the form of the response is another: in output prediction it copies the input
first, as in input prediction. One learning rate for all arms and no KL, as in the demo, whose rate was chosen for bi-level: the sweep "gentle" has
terminal and bi-level at a third of the rate, and terminal with the KL of DeepSeekMath's GRPO. In the sweep over G the rollouts are as many,
so that fewer per prompt means more prompts: 4, 2, 1 and 0.5 epochs of them for G = 2, 4, 8 and 16. The variants are changes of bigrpo.py's functions, below.

The table gives means over seeds, with 95% t intervals over seeds. Differences between two arms are paired by seed: again mean and t interval,
and in brackets a bootstrap that draws seeds, then programs within each. With few seeds the bootstrap is mostly too narrow; believe the wider
of the two. The report counts how many intervals leave out 0, and prints in bold what Holm's correction leaves of the core table's differences.
"""

import argparse
import fcntl
import json
import os
import platform
import re
import signal
import subprocess
import sys
import time
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, median, stdev
from unittest import mock

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
import policy  # noqa: E402  # before torch: it says how OpenMP's threads wait

import numpy as np  # noqa: E402
import torch  # noqa: E402

import bigrpo  # noqa: E402
import evaluate  # noqa: E402

EPOCHS, FORMAT = 3, 1  # of SFT, over 4,000 programs of both tasks: 1,500 and 500 updates
TOY = ["--sft", 4000, "--rl", 1600, "--test", 400]
LONGER = ["--sft", 0, "--rl", 0, "--test", 200, "--difficulty", 5]
DROPPED = ("--drop-anchors", 0.2)  # in training only
LONG = ("--sft-difficulty", 3)  # SFT on programs as long as RL's
TESTS = {"plain": ("test", "--plain"), "longer": ("longer",), "sampled": ("test", "--temperature", 1), "test": ("test",)}  # on which examples, and how
RL = ["--steps", 100, "--beta", 0, "--dump-every", 1000, "--save-every", 30, "--keep", 1]


@dataclass(frozen=True)
class Arm:
    """How a model of the table is made: on which data, from which SFT, and how bigrpo.py is called (None: SFT only)."""

    label: str
    rl: tuple | None = ()
    data: tuple = ()  # flags of augment.py
    start: float = EPOCHS  # of SFT
    toy: tuple = ()  # flags of toy.py
    variant: str | None = None


CORE = {"format": Arm("format SFT", rl=None, start=FORMAT),
        "sft": Arm("SFT only", rl=None),
        "rl-only": Arm("format SFT + bi-level (RL only)", start=FORMAT),
        "terminal": Arm("SFT + terminal", ("--advantage", "terminal")),
        "step": Arm("SFT + step (lam = 0)", ("--lam", 0)),
        "bilevel": Arm("SFT + bi-level (lam = 0.3)"),
        "centred": Arm("bi-level, A_intra centred", ("--center-intra",)),
        "coupled": Arm("bi-level, one form of response for both tasks", data=("--no-decouple",))}
SWEEPS = {
    "lam": {f"lam-{lam}": Arm(f"bi-level, lam = {lam}", ("--lam", lam)) for lam in (0.1, 1, 3)},
    "group": {f"group-{g}": Arm(f"bi-level, {256 // g} prompts x G = {g}", ("--group", g, "--prompts", 256 // g)) for g in (2, 4, 16)},
    "dropout": {"dropout": Arm("bi-level, 20% of anchors dropped", data=DROPPED)},
    "loops": {"loops": Arm("bi-level, two iterations of a loop anchored", data=("--loop-anchors", 2))},  # its steps are others: compare answers
    "longer": {"sft-longer": Arm("SFT only, longer programs", rl=None, toy=LONG),  # then RL sees the distribution that SFT saw
               "terminal-longer": Arm("SFT on longer programs + terminal", ("--advantage", "terminal"), toy=LONG),
               "step-longer": Arm("SFT on longer programs + step", ("--lam", 0), toy=LONG),
               "bilevel-longer": Arm("SFT on longer programs + bi-level", toy=LONG)},
    "gentle": {"terminal-slow": Arm("SFT + terminal, a third of the rate", ("--advantage", "terminal", "--lr", 3e-4)),  # is terminal's fall one of the rate?
               "terminal-kl": Arm("SFT + terminal, KL (beta = 0.04)", ("--advantage", "terminal", "--beta", 0.04)),
               "bilevel-slow": Arm("SFT + bi-level, a third of the rate", ("--lr", 3e-4))},
    "size": {f"{kind}-{size}{'-sft' * (rl is None)}": Arm(f"{'SFT only' if rl is None else 'bi-level'}, {kind} {size}", rl, toy=(flag, size), start=epochs)
             for kind, flag, size, epochs in (("width", "--width", 32, EPOCHS), ("width", "--width", 128, EPOCHS),
                                              ("programs", "--sft", 1000, 4 * EPOCHS), ("programs", "--sft", 2000, 2 * EPOCHS)) for rl in (None, ())},
    "variants": {name: Arm(f"bi-level, {label}", variant=name) for name, label in (
        ("equal-state", "compared at equal state"), ("first-error", "masked after the first error"), ("right-only", "all steps of a wrong answer wrong"),
        ("length-free", "step advantage free of length"), ("no-return", "no step credit for the return"))}}
ARMS = CORE | {name: arm for sweep in SWEEPS.values() for name, arm in sweep.items()}
NEIGHBOURS = [("sft", "terminal"), ("sft", "bilevel"), ("sft", "step"), ("terminal", "step"), ("terminal", "bilevel"), ("step", "bilevel"), ("bilevel", "centred"), ("coupled", "bilevel"),
              ("format", "rl-only"), ("sft", "rl-only"), ("rl-only", "bilevel"), ("sft", "sft-longer"), ("sft-longer", "bilevel"),
              *(("sft-longer", f"{name}-longer") for name in ("terminal", "step", "bilevel")), ("terminal-longer", "bilevel-longer"), ("step-longer", "bilevel-longer"),
              ("terminal", "terminal-slow"), ("terminal-slow", "bilevel"), ("sft", "terminal-slow"), ("sft", "terminal-kl"), ("terminal-slow", "bilevel-slow"),
              ("bilevel", "bilevel-slow"), ("terminal", "terminal-kl"), ("terminal-kl", "bilevel"),
              *((f"{name}-sft", name) for name in SWEEPS["size"] if f"{name}-sft" in SWEEPS["size"]),
              *(("bilevel", name) for key, sweep in SWEEPS.items() if key not in ("longer", "gentle") for name in sweep if not name.endswith("-sft"))]


# ---------------------------------------------------------------------------------------------------------------------
# Variants: one change of bigrpo.py each


@contextmanager
def instead(group: list, name: str, values: list):
    """The rollouts with other values of a field, for a while."""
    before = [getattr(rollout, name) for rollout in group]
    for rollout, value in zip(group, values):
        setattr(rollout, name, value)
    yield
    for rollout, value in zip(group, before):
        setattr(rollout, name, value)


def equal_state(credit, group: list, args) -> None:
    """Eq. 10 among those rollouts only that wrote the same states before this anchor, on the same input: what differs is this step alone.

    In input prediction hardly any two rollouts of a group have one input and other rewards, so that little but Eq. 11 is left there."""
    written = [(rollout.parsed.input, *(block.text for block in rollout.parsed.blocks)) for rollout in group]

    def advantage(step, mask, lam, norm, center):
        found = lam * bigrpo.intra_advantage(step, mask, center)
        for i in range(step.shape[1]):
            histories = [states[:i + 1] for states in written]
            for history in set(histories):
                rows = [g for g, other in enumerate(histories) if other == history]
                if len(rows) > 1:
                    found[rows, i] += bigrpo.group_advantage(step[rows, i:i + 1], mask[rows, i:i + 1], norm=norm)[:, 0]
        return found

    with mock.patch.object(bigrpo, "bilevel_advantage", advantage):
        credit(group, args)


def first_error(credit, group: list, args) -> None:
    """Steps after a rollout's first wrong one are masked: they start from a state that is wrong already.

    After a wrong commitment in input prediction all steps are wrong; the first keeps its penalty."""
    right = [[r > 0 for r in rollout.step_rewards] for rollout in group]
    with instead(group, "mask", [[shown and all(some[:i]) for i, shown in enumerate(rollout.mask)] for some, rollout in zip(right, group)]):
        credit(group, args)


def right_only(credit, group: list, args) -> None:
    """A right step counts as right only where the answer is right too, else as wrong."""
    with instead(group, "step_rewards", [[r * rollout.final for r in rollout.step_rewards] for rollout in group]):
        credit(group, args)


def no_return(credit, group: list, args) -> None:
    """In output prediction the last anchor repeats the answer: without step credit of its own, and out of Eq. 11's mean, the answer is
    not counted twice. In input prediction the answer repeats the input, and nothing changes."""
    last = group[0].example["task"] != "output"
    with instead(group, "mask", [[*rollout.mask[:-1], rollout.mask[-1] and last] for rollout in group]):
        credit(group, args)


def length_free(credit, group: list, args) -> None:
    """A step's advantage is shared by its tokens, so that a long block weighs no more than a short one (all together about as before)."""
    token_advantage, n = bigrpo.token_advantage, len(group[0].step_rewards)

    def tokens(block):
        return torch.bincount(block, minlength=n + 1)[:n]  # of each step

    spans = [[(block.start, block.end) for block in rollout.parsed.blocks] for rollout in group]
    sizes = torch.stack([tokens(bigrpo.token_blocks(torch.tensor(rollout.starts), some, n)) for rollout, some in zip(group, spans)])  # [G, n]
    usual = sizes.sum() / (sizes > 0).sum().clamp(min=1)

    def shared(step, final, rollout, block):
        scale = torch.cat([usual / tokens(block).clamp(min=1), torch.zeros(1)])
        return final[rollout] + token_advantage(step, 0 * final, rollout, block) * scale[block]

    with mock.patch.object(bigrpo, "token_advantage", shared):
        credit(group, args)


VARIANTS = {"equal-state": equal_state, "first-error": first_error, "right-only": right_only, "length-free": length_free, "no-return": no_return}


def train_variant(name: str, words: list[str]) -> None:
    """bigrpo.py with one change, which stands among the run's settings."""
    credit, parser = bigrpo.assign_credit, bigrpo.build_parser()
    parser.set_defaults(variant=name)
    sys.argv = [f"bigrpo.py ({name})", *words]
    with mock.patch.multiple(bigrpo, assign_credit=lambda group, args: VARIANTS[name](credit, group, args), build_parser=lambda: parser):
        bigrpo.main()


# ---------------------------------------------------------------------------------------------------------------------
# Jobs


@dataclass(frozen=True)
class Job:
    """Commands in order, each with the file that it leaves when it is done; a job waits for the files it needs."""

    name: str
    commands: tuple  # ((product, [word, ...]), ...)
    needs: tuple = ()


def script(name: str, *words) -> list[str]:
    return [sys.executable, str(ROOT / name), *map(str, words)]


def tag(words: tuple) -> str:
    return "".join(f"_{str(word).strip('-')}" for word in words)


def jobs_of(seed: int, names: list[str], out: Path) -> list[Job]:
    """The jobs of one seed, each once: programs, examples, SFT models, then training and tests of every arm."""
    folder, jobs = out / f"seed-{seed}", {}

    def add(name: str, needs: tuple, *commands) -> tuple:
        jobs.setdefault(name, Job(f"seed {seed}: {name}", commands, needs))
        return tuple(product for product, _ in commands)

    def programs(name: str, *words) -> tuple:
        return add(name, (), (folder / name / "model/tokenizer.json", script("toy.py", "--out", folder / name, "--seed", seed, *words)))

    longer = programs("longer", *LONGER)
    for name in names:
        arm = ARMS[name]
        kind = tag(arm.data + arm.toy)
        toy, data, start = folder / f"toy{tag(arm.toy)}", folder / f"data{kind}", folder / f"sft_{arm.start}{kind}"
        parts = {"sft": toy / "sft.jsonl", "rl": toy / "rl.jsonl", "test": toy / "test.jsonl", "longer": folder / "longer/test.jsonl"}
        flags = {"sft": (*arm.data, "--no-anchors", 0.1), "rl": arm.data} | dict.fromkeys(("test", "longer"), arm.data if arm.data != DROPPED else ())
        examples = add(data.name, programs(toy.name, *TOY, *arm.toy) + longer, *(
            (data / f"{part}.card.json", script("augment.py", "--programs", path, "--out", data / f"{part}.jsonl", "--task", "both", "--prompt", "bare",
                                                "--seed", seed + 1, *flags[part])) for part, path in parts.items()))
        warm = add(start.name, examples, (start / "model/config.json", script(
            "sft.py", "--model", toy / "model", "--data", data / "sft.jsonl", "--out", start, "--epochs", arm.start, "--seed", seed, "--keep", 1)))
        model, train = start, ()
        if arm.rl is not None:
            model, program = folder / name, ("tools/ablation.py", "variant", arm.variant) if arm.variant else ("bigrpo.py",)
            train = ((model / "model/config.json", script(*program, "--model", start / "model", "--data", data / "rl.jsonl", "--out", model, "--seed", seed,
                                                          *RL, *arm.rl)),)
        add(name, warm, *train, *(
            (folder / f"results/{name}/{test}.json", script("evaluate.py", "--model", model / "model", "--data", data / f"{part}.jsonl", "--prompt", "bare",
                                                            "--out", folder / f"results/{name}/{test}.json", "--seed", seed, *words))
            for test, (part, *words) in TESTS.items()))
    return list(jobs.values())


def stamp(product: Path) -> Path:
    """Where the command that made a product is kept: beside its folder, since a model's folder is digested by the runs that start from it."""
    return product.parent.with_name(f".{product.parent.name}-{product.name}.command")


def shown(command: str, out: Path) -> str:
    """A command as it stands in a stamp: without the folders of the project and of the runs, which may move."""
    return command.replace(f"{out}/", "").replace(f"{ROOT}/", "")


def is_done(job: Job, out: Path) -> bool:
    """True if all its products are there; ends the program if one was made by another command."""
    for product, command in job.commands:
        if product.exists():
            made = shown(stamp(product).read_text(), out) if stamp(product).exists() else "(not known)"
            if made != shown(" ".join(command[1:]), out):
                policy.fail(f"{product} was made by another command, {made}; take another --out, or remove its seed's folder")
    return all(product.exists() for product, _ in job.commands)


def run_job(job: Job, out: Path, started: list) -> str:
    """Do what is not done yet; "" or what failed. The processes are added to `started`."""
    log = out / "logs" / (job.name.replace(": ", "-").replace(" ", "-") + ".log")
    for product, command in job.commands:
        if not product.exists():
            for path in (log, stamp(product)):
                path.parent.mkdir(parents=True, exist_ok=True)
            stamp(product).write_text(shown(" ".join(command[1:]), out))
            with log.open("a") as file:
                process = subprocess.Popen(command, stdout=file, stderr=file, env=os.environ | {"OMP_NUM_THREADS": "1"})
                started.append(process)
                if code := process.wait():
                    return f"{job.name}: exit code {code}, see {log}"
    return ""


def run_all(jobs: list[Job], count: int, out: Path) -> list[str]:
    """Do the jobs in order, `count` at a time; one whose needs failed is left out. What failed, a line each."""
    from tqdm import tqdm

    waiting = [job for job in jobs if not is_done(job, out)]
    failed, running, started = [], {}, []
    with ThreadPoolExecutor(count) as pool, tqdm(total=len(jobs), initial=len(jobs) - len(waiting), desc="ablation", smoothing=0) as bar:
        try:
            while waiting or running:
                ready = [job for job in waiting if all(path.exists() for path in job.needs)]
                for job in ready[:count - len(running)]:
                    waiting.remove(job)
                    running[pool.submit(run_job, job, out, started)] = job
                if not running:
                    failed += [f"{job.name}: not begun, what it needs is missing" for job in waiting]
                    break
                bar.set_postfix_str(", ".join(job.name for job in running.values()))
                for done in wait(running, return_when=FIRST_COMPLETED).done:
                    failed += filter(None, [done.result()])
                    del running[done]
                    bar.update()
        finally:  # Ctrl-C or SIGTERM: training saves before it ends
            for process in started:
                process.terminate()
    return failed


# ---------------------------------------------------------------------------------------------------------------------
# Tables and figures

COLUMNS = {"final_output": "final O", "final_input": "final I", "step": "step", "step_output": "step O", "gap": "gap", "wrong_trace": "right answer, wrong trace", "tokens": "tokens",
           "sampled_final": "sampled: final", "sampled_step": "sampled: step", "longer_final": "longer: final", "longer_step": "longer: step",
           "plain_final": "no anchors: final", "minutes": "minutes"}
COMPARED = {"test": {"final_output": "final O", "final_input": "final I", "final": "final, both", "step": "step", "step_output": "step O", "gap": "gap",
                     "wrong_trace": "right answer, wrong trace"},
            "sampled": {"final": "sampled: final", "wrong_trace": "sampled: right answer, wrong trace"},
            "longer": {"final": "longer: final", "step": "longer: step"}}  # test -> what differs between two arms -> its column
TRAINING = {"final_reward": "answers right", "step_reward": "steps right", "entropy": "entropy", "equal_groups": "equal groups",
            "equal_columns": "equal columns"}  # of metrics.jsonl
T95 = {1: 12.71, 2: 4.30, 3: 3.18, 4: 2.78, 5: 2.57, 6: 2.45, 7: 2.36, 8: 2.31, 9: 2.26}  # Student's t, 97.5%, by degrees of freedom


def numbers(folder: Path, name: str, seed: int) -> dict | None:
    """One line of runs.jsonl: what an arm reached under one seed; None if it is not done."""
    results = folder / "results" / name
    if not all((results / f"{test}.json").exists() for test in TESTS):
        return None
    found = {test: json.loads((results / f"{test}.json").read_text()) for test in TESTS}
    value = {test: {metric: result["summary"][metric]["value"] for metric in evaluate.METRICS} for test, result in found.items()}
    row = {"arm": name, "label": ARMS[name].label, "seed": seed}
    row |= {f"final_{task}": 100 * mean(item["final"] for item in found["test"]["items"] if item["task"] == task) for task in ("output", "input")}
    row["step_output"] = 100 * mean(step for item in found["test"]["items"] if item["task"] == "output" for step in item["steps"])
    row |= {metric: value["test"][metric] for metric in ("step", "gap", "wrong_trace")} | {"tokens": found["test"]["tokens"]["value"]}
    row |= {f"{test}_{metric}": value[test][metric] for test, metric in (("sampled", "final"), ("sampled", "step"), ("longer", "final"), ("longer", "step"), ("plain", "final"))}
    trained = folder / (name if ARMS[name].rl is not None else f"sft_{ARMS[name].start}{tag(ARMS[name].data + ARMS[name].toy)}")
    seconds = [sum(record["timing"].values()) for record in read_lines(trained / "metrics.jsonl")]
    return row | {"minutes": median(seconds) * len(seconds) / 60}


def read_lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def interval(values: list[float | None], sign: str = "") -> str:
    """Mean ± half the width of the 95% t interval over seeds, without those that have no value; sign "+" for differences."""
    known = [value for value in values if value is not None and np.isfinite(value)]
    count = f" (of {len(known)})" * (len(known) < len(values))
    if len(known) < 2:
        return f"{known[0]:{sign}.1f}{count}" if known else "none"
    freedom = len(known) - 1
    return f"{mean(known):{sign}.1f} ± {T95.get(freedom, 1.96 + 2.5 / freedom) * stdev(known) / len(known) ** 0.5:.1f}{count}"


def table(rows: list[list[str]]) -> str:
    return "\n".join("| " + " | ".join(row) + " |" for row in [rows[0], ["---"] * len(rows[0]), *rows[1:]])


def p_value(differences: list[float]) -> float:
    """Two-sided, of Student's t test that their mean is 0: the share of t's density beyond, written as an integral of powers of a cosine."""
    freedom, spread = len(differences) - 1, stdev(differences)
    start = np.arctan2(abs(mean(differences)) * len(differences) ** 0.5, spread * freedom ** 0.5)
    density = [np.cos(np.linspace(low, np.pi / 2, 10_001)) ** (freedom - 1) for low in (start, 0)]
    return float(density[0].mean() * (np.pi / 2 - start) / density[1].mean() / (np.pi / 2))


def holm(p_values: list[float], level: float = 0.05) -> list[bool]:
    """Which hypotheses fall if the chance that any true one falls is to be `level` (Holm 1979)."""
    order, falls = sorted(range(len(p_values)), key=p_values.__getitem__), [False] * len(p_values)
    for k, i in enumerate(order):
        if p_values[i] > level / (len(order) - k):
            break
        falls[i] = True
    return falls


DIFFERENCES = {"output": ("final", "step"), "input": ("final",), "both": ("final", "step", "gap", "wrong_trace")}  # of which task's examples


def paired(first: list[Path], second: list[Path], draws: int = 2000) -> dict[str, tuple]:
    """{metric: ([difference of each seed], low, high)}, second minus first, of result files of the same seeds, on the examples both have.

    low and high: the bootstrap over seeds and, within each, over programs with both their tasks."""
    rng, values, spreads = np.random.default_rng(0), [], []  # of each seed
    for pair in zip(first, second):
        found = [{item["id"]: item for item in evaluate.read_result(path)["items"]} for path in pair]
        common = [name for name in found[0] if name in found[1]]  # with anchors in loops a program may have too many
        if len(common) < 0.9 * max(map(len, found)):
            policy.fail(f"{pair[0]} and {pair[1]} are not about the same examples")
        programs = {name: place for place, name in enumerate(dict.fromkeys(name.rpartition("-")[0] for name in common))}
        drawn = evaluate.resamples(len(programs), int(rng.integers(2**31)), draws)
        value, spread = {}, {}
        for task, kinds in DIFFERENCES.items():
            ids = [name for name in common if task in ("both", found[0][name]["task"])]
            data = [evaluate.columns([some[name] for name in ids]) for some in found]
            times = drawn[:, [programs[name.rpartition("-")[0]] for name in ids]]
            whole, parts = ([evaluate.percentages(sums) for sums in some] for some in ([d.sum(0) for d in data], [times @ d for d in data]))
            for kind in kinds:
                name = kind if task == "both" else f"{kind}_{task}"
                value[name], spread[name] = float(whole[1][kind] - whole[0][kind]), parts[1][kind] - parts[0][kind]
        values.append(value)
        spreads.append(spread)
    chosen, result = rng.integers(len(values), size=(draws, len(values))), {}
    for name in values[0]:
        every = np.stack([spread[name] for spread in spreads])  # [seeds, draws]
        mixed = every[chosen, rng.integers(draws, size=chosen.shape)].mean(1)
        mixed = mixed[np.isfinite(mixed)]
        ends = np.percentile(mixed, [2.5, 97.5]).tolist() if len(mixed) else (np.nan, np.nan)
        result[name] = ([value[name] for value in values], *ends)
    return result


def over(runs: list[list[dict]], key: str, steps: slice) -> float:
    """Mean of a metric over these steps of all runs."""
    return mean(record[key] for run in runs for record in run[steps])


def change(differences: list[float], low: float, high: float) -> str:
    return "none" if np.isnan(differences).any() else f"{interval(differences, '+')} [{low:+.1f}, {high:+.1f}]"


def report(out: Path, folder: Path) -> None:
    """runs.jsonl, report.md and curves.png of what is done by now."""
    seeds = sorted(int(path.name.removeprefix("seed-")) for path in out.glob("seed-*") if path.name.removeprefix("seed-").isdecimal())
    rows = [row for name in ARMS for seed in seeds if (row := numbers(out / f"seed-{seed}", name, seed))]
    if not rows:
        policy.fail(f"{out}: no arm is done yet")
    with policy.writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    (folder / "runs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    by_arm = {name: [row for row in rows if row["arm"] == name] for name in ARMS}
    lines = [["", "seeds", *COLUMNS.values()]]
    lines += [[ARMS[name].label, str(len(some)), *(interval([row[column] for row in some]) for column in COLUMNS)] for name, some in by_arm.items() if some]
    anchors = [f"{ARMS[name].label}: {interval([(row['final_output'] + row['final_input']) / 2 - row['plain_final'] for row in some], '+')}"
               for name, some in by_arm.items() if some]
    found = {}  # (arm, other arm) -> their seeds, and for each column the differences with the ends of their bootstrap
    for a, b in NEIGHBOURS:
        if both := sorted({row["seed"] for row in by_arm[a]} & {row["seed"] for row in by_arm[b]}):
            parts = {test: paired(*([out / f"seed-{seed}/results/{name}/{test}.json" for seed in both] for name in (a, b))) for test in COMPARED}
            found[a, b] = both, [parts[test][name] for test, names in COMPARED.items() for name in names]
    chance = {(pair, k): p_value(cell[0]) for pair, (both, cells) in found.items() for k, cell in enumerate(cells) if len(both) > 1 and np.isfinite(cell[0]).all()}
    core = [key for key in chance if CORE.keys() >= set(key[0])]
    bold = dict(zip(core, holm([chance[key] for key in core])))
    differences = [["", "seeds", *(head for names in COMPARED.values() for head in names.values())]]
    for (a, b), (both, cells) in found.items():
        marks = ["**" * bold.get(((a, b), k), False) for k in range(len(cells))]
        differences.append([f"{ARMS[b].label} minus {ARMS[a].label}", str(len(both)), *(mark + change(*cell) + mark for mark, cell in zip(marks, cells))])
    counted = f"{sum(p < 0.05 for p in chance.values())} of these {len(chance)} intervals leave out 0, where chance alone gives some {len(chance) / 20:.0f}"
    trained = {name: [read_lines(out / f"seed-{row['seed']}" / name / "metrics.jsonl") for row in some]
               for name, some in by_arm.items() if some and ARMS[name].rl is not None}
    draw({name: runs for name, runs in trained.items() if name in CORE}, folder / "curves.png")
    ends = [["", "seeds", *TRAINING.values()]]
    ends += [[ARMS[name].label, str(len(runs)), *(f"{over(runs, key, slice(10)):.3f} to {over(runs, key, slice(-20, None)):.3f}" for key in TRAINING)]
             for name, runs in trained.items()]
    made = "\n".join(dict.fromkeys("`{command}`, commit {git}, {hardware}, torch {torch}".format(**line) for line in read_lines(out / "commands.jsonl")))
    (folder / "report.md").write_text(f"""{made}

Percent, greedy unless a column says sampled (at temperature 1), mean over seeds ± half of the 95% t interval over seeds; {TOY[-1]} test programs a seed, {LONGER[5]}
longer ones, both tasks of each. O, I: output and input prediction. Step: of both; all steps of a wrong input count as wrong, so step O says what more right inputs do not. tokens: of a response. No anchors:
the same test asked without them. minutes: of the arm's own training (RL where it has one) on one thread, median step times steps.

{table(lines)}

Differences, paired by seed: mean ± half of the 95% t interval over seeds [95% bootstrap over seeds and, within each, over programs: mostly too narrow with few seeds].
{counted}. In bold: of the {len(core)} differences between arms of the core table, what Holm's correction for their number leaves at 5%.

{table(differences)}

While training, mean over seeds of the first 10 steps and of the last 20: shares of sampled rollouts, entropy in nats a token, and the share of groups, and of
anchors' columns, whose rewards are all equal and so teach nothing by Eq. 10.

{table(ends)}

What anchors in the prompt add to the answers, mean of O and I with them minus without: {"; ".join(anchors)}.

![learning curves](curves.png)
""")
    print((folder / "report.md").read_text())


def note_command(out: Path) -> None:
    """What is running where, appended to commands.jsonl: the report says how its numbers were made."""
    words = re.sub(r" --(out|results) \S+", "", " ".join(["python tools/ablation.py", *sys.argv[1:]]))
    line = {"command": words, "git": policy.git_commit(), "hardware": hardware(), "torch": torch.__version__}
    with policy.writing(out), (out / "commands.jsonl").open("a") as file:
        file.write(json.dumps(line | {"started": time.strftime("%Y-%m-%d %H:%M")}) + "\n")


def hardware() -> str:
    cpu = [line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")] if Path("/proc/cpuinfo").exists() else []
    return f"{os.cpu_count()} CPU cores ({cpu[0] if cpu else platform.processor()})"


def draw(curves: dict[str, list[list[dict]]], path: Path) -> None:
    """Rewards in training, mean over seeds of a running mean of ten steps (the paper's Figure 2 in shape)."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained", sharey=True)
    for axes, (name, title) in zip(panels, (("final_reward", "answers right while training"), ("step_reward", "steps right while training"))):
        for k, (arm, runs) in enumerate(curves.items()):
            length = min(map(len, runs))
            values = np.array([[record[name] for record in run[:length]] for run in runs]).mean(0)
            smooth = np.convolve(values, np.full(10, 0.1), "valid")
            axes.plot(np.arange(len(smooth)) + 5, 100 * smooth, label=f"{ARMS[arm].label} ({len(runs)})", color=plt.cm.tab10(k))
        axes.set_title(title, loc="left")
        axes.set(xlabel="RL step", ylabel="percent" if axes is panels[0] else None)
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    panels[1].legend(frameon=False, loc="upper left", bbox_to_anchor=(1, 1), title="arm (seeds)")
    figure.savefig(path, dpi=130)
    plt.close(figure)


def main() -> None:
    if sys.argv[1:2] == ["variant"]:
        if sys.argv[2:3] and sys.argv[2] in VARIANTS:
            return train_variant(sys.argv[2], sys.argv[3:])
        policy.fail(f"variant: one of {', '.join(VARIANTS)}, then bigrpo.py's flags")
    parser = argparse.ArgumentParser(description="The paper's ablations on the toy.", epilog=f"Groups of arms: core, {', '.join(SWEEPS)}. Arms: {', '.join(ARMS)}.")
    parser.add_argument("--arms", nargs="+", default=["core"], metavar="NAME", help="arms or groups of arms, in the order in which they are wanted")
    parser.add_argument("--seeds", type=policy.positive(int), default=8, help="how many seeds, from --first-seed on")
    parser.add_argument("--first-seed", type=policy.positive(int, or_zero=True), default=0)
    parser.add_argument("--jobs", type=policy.positive(int), default=2, help="processes at a time, of one thread each")
    parser.add_argument("--out", type=Path, default=Path("runs/ablation"), help="folder of all runs")
    parser.add_argument("--results", type=Path, default=Path("results/ablation"), help="folder of tables and figures")
    parser.add_argument("--report", action="store_true", help="only tables and figures, of what is done")
    args = parser.parse_args()
    groups = {"core": CORE} | SWEEPS
    names = list(dict.fromkeys(name for word in args.arms for name in groups.get(word, [word])))
    if unknown := [name for name in names if name not in ARMS]:
        parser.error(f"--arms: {unknown[0]!r} is no arm; there are {', '.join([*groups, *ARMS])}")
    failed = []
    if not args.report:
        jobs = [job for seed in range(args.first_seed, args.first_seed + args.seeds) for job in jobs_of(seed, names, args.out)]
        with policy.writing(args.out):
            args.out.mkdir(parents=True, exist_ok=True)
            lock = (args.out / "lock").open("w")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            policy.fail(f"{args.out}: another ablation works in this folder")
        note_command(args.out)
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
        failed = run_all(jobs, args.jobs, args.out)
        print(*failed, sep="\n", end="\n" * bool(failed), file=sys.stderr)
    report(args.out, args.results)
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
