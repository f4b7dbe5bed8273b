"""The paper's ablations on the toy: does step credit do what is claimed for it? (Tables 5, 6, 7, 9, 13 and Figure 2 in shape)

    python tools/ablation.py --jobs 2                    # the core table; run it again to go on where it was stopped
    python tools/ablation.py --arms lam group --seeds 3  # sweeps
    python tools/ablation.py --report                    # tables and figures of what is done by now
    python tools/ablation.py variant first-error --model ... --data ... --out ...    # bigrpo.py with one change

Every seed is a pipeline of its own: programs, initial weights, SFT, sampling. Its arms start from the same SFT checkpoint and get the
same number of rollouts and of updates; an arm that changes the data has an SFT of its own, on as many examples. SFT sees one or two
statements before the return, RL and the test two or three; a second test has about five, more than any program seen in training. Both
tasks, output and input prediction, are trained and tested together; a tenth of the SFT examples have no anchors.

The table gives means over seeds with 95% t intervals over seeds. Differences between two arms are paired: a bootstrap that draws
seeds, then examples within each, both arms together; its interval is narrow for few seeds.

RL only starts from a format-only SFT of FORMAT epochs, because a random model never writes the format and so is never rewarded.
Some variants are changes of bigrpo.py's functions, made below in `VARIANTS`.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from unittest import mock

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
import policy  # noqa: E402  # before torch: it says how OpenMP's threads wait

import numpy as np  # noqa: E402
import torch  # noqa: E402

import bigrpo  # noqa: E402
import evaluate  # noqa: E402
import rewards  # noqa: E402

EPOCHS, FORMAT = 3, 1  # of SFT
TOY = ["--sft", 4000, "--rl", 1600, "--test", 400]
LONGER = ["--sft", 0, "--rl", 0, "--test", 200, "--difficulty", 5]
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


SFT = Arm("SFT only", rl=None)
CORE = {"sft": SFT,
        "rl-only": Arm("RL only, bi-level", start=FORMAT),
        "terminal": Arm("SFT + terminal", ("--advantage", "terminal")),
        "step": Arm("SFT + step (lam = 0)", ("--lam", 0)),
        "bilevel": Arm("SFT + bi-level (lam = 0.3)"),
        "centred": Arm("bi-level, A_intra centred", ("--center-intra",)),
        "coupled": Arm("bi-level, tasks not decoupled", data=("--no-decouple",))}
SWEEPS = {
    "lam": {f"lam-{lam}": Arm(f"bi-level, lam = {lam}", ("--lam", lam)) for lam in (0.1, 1, 3)},
    "group": {f"group-{g}": Arm(f"bi-level, {256 // g} prompts x G = {g}", ("--group", g, "--prompts", 256 // g)) for g in (2, 4, 16)},
    "dropout": {"dropout": Arm("bi-level, 20% of anchors dropped", data=("--drop-anchors", 0.2))},
    "size": {f"{kind}-{size}{'-sft' * (rl is None)}": Arm(f"{'SFT only' if rl is None else 'bi-level'}, {kind} {size}", rl, toy=(f"--{flag}", size))
             for kind, flag, sizes in (("width", "width", (32, 128)), ("programs", "sft", (1000, 2000))) for size in sizes for rl in (None, ())},
    "variants": {name: Arm(f"bi-level, {label}", variant=name) for name, label in (
        ("equal-state", "compared at equal state"), ("first-error", "masked after the first error"), ("right-only", "steps of right answers only"),
        ("length-free", "step advantage free of length"), ("no-return", "return anchor without step credit"))}}
ARMS = CORE | {name: arm for sweep in SWEEPS.values() for name, arm in sweep.items()}
NEIGHBOURS = [("sft", "terminal"), ("sft", "bilevel"), ("terminal", "step"), ("step", "bilevel"), ("bilevel", "centred"), ("coupled", "bilevel"),
              ("rl-only", "bilevel"), *(("bilevel", name) for sweep in SWEEPS.values() for name in sweep if not name.endswith("-sft"))]


# ---------------------------------------------------------------------------------------------------------------------
# Variants: one change of bigrpo.py each


@contextmanager
def instead(group: list, name: str, values: list):
    """The rollouts with other values of a field, for a while."""
    before = [getattr(rollout, name) for rollout in group]
    for now in (values, before):
        for rollout, value in zip(group, now):
            setattr(rollout, name, value)
        if now is values:
            yield


def equal_state(credit, group: list, args) -> None:
    """Eq. 10 among those rollouts only that wrote the same states before this anchor: what differs is this step alone."""
    written = [[block.text for block in rewards.parse(rollout.text).blocks] for rollout in group]

    def advantage(step, mask, lam, norm, center):
        found = lam * bigrpo.intra_advantage(step, mask, center)
        for i in range(step.shape[1]):
            histories = [tuple(states[:i]) for states in written]
            for history in set(histories):
                rows = [g for g, other in enumerate(histories) if other == history]
                if len(rows) > 1:
                    found[rows, i] += bigrpo.group_advantage(step[rows, i:i + 1], mask[rows, i:i + 1], norm=norm)[:, 0]
        return found

    with mock.patch.object(bigrpo, "bilevel_advantage", advantage):
        credit(group, args)


def first_error(credit, group: list, args) -> None:
    """Steps after a rollout's first wrong one are masked: they start from a state that is wrong already."""
    right = [[r > 0 for r in rollout.step_rewards] for rollout in group]
    with instead(group, "mask", [[shown and all(some[:i]) for i, shown in enumerate(rollout.mask)] for some, rollout in zip(right, group)]):
        credit(group, args)


def right_only(credit, group: list, args) -> None:
    """A right step counts only where the answer is right too."""
    with instead(group, "step_rewards", [[r * rollout.final for r in rollout.step_rewards] for rollout in group]):
        credit(group, args)


def no_return(credit, group: list, args) -> None:
    """The last anchor repeats the answer: without step credit of its own the answer is not counted twice."""
    with instead(group, "mask", [[*rollout.mask[:-1], False] for rollout in group]):
        credit(group, args)


def length_free(credit, group: list, args) -> None:
    """A step's advantage is shared by its tokens, so that a long block weighs no more than a short one (all together as before)."""
    token_advantage = bigrpo.token_advantage

    def shared(step, final, rollout, block):
        n = step.shape[1]
        sizes = torch.bincount(block, minlength=n + 1)[:n]  # tokens of each step
        usual = sizes.sum() / (sizes > 0).sum().clamp(min=1)
        scale = torch.cat([usual / sizes.clamp(min=1), torch.zeros(1)])
        return final[rollout] + token_advantage(step, 0 * final, rollout, block) * scale[block]

    with mock.patch.object(bigrpo, "token_advantage", shared):
        credit(group, args)


VARIANTS = {"equal-state": equal_state, "first-error": first_error, "right-only": right_only, "length-free": length_free, "no-return": no_return}


def train_variant(name: str, words: list[str]) -> None:
    """bigrpo.py with one change."""
    credit = bigrpo.assign_credit
    sys.argv = [f"bigrpo.py ({name})", *words]
    with mock.patch.object(bigrpo, "assign_credit", lambda group, args: VARIANTS[name](credit, group, args)):
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
    """The jobs of one seed: programs, examples, SFT models, then an arm each."""
    folder, found = out / f"seed-{seed}", {}

    def add(name: str, *commands, needs=()) -> Path:
        found.setdefault(name, Job(f"seed {seed}: {name}", commands, tuple(needs)))
        return commands[-1][0]

    longer = add("longer programs", (folder / "longer/model/config.json", script("toy.py", *LONGER, "--seed", seed, "--out", folder / "longer")))
    for name in names:
        arm = ARMS[name]
        toy = folder / f"toy{tag(arm.toy)}"
        made = add(f"programs{tag(arm.toy)}", (toy / "model/config.json", script("toy.py", *TOY, *arm.toy, "--seed", seed, "--out", toy)))
        data = folder / f"data{tag(arm.data)}{tag(arm.toy)}"
        ready = add(f"examples{tag(arm.data)}{tag(arm.toy)}", *(
            (data / f"{part}.card.json", script("augment.py", "--programs", programs, "--out", data / f"{part}.jsonl", "--task", "both", "--prompt", "bare", "--seed", seed + 1,
                                                *(arm.data if part in ("sft", "rl") or "--drop-anchors" not in arm.data else ()),
                                                *(("--no-anchors", 0.1) if part == "sft" else ())))
            for part, programs in (("sft", toy / "sft.jsonl"), ("rl", toy / "rl.jsonl"), ("test", toy / "test.jsonl"),
                                   ("longer", folder / "longer/test.jsonl"))), needs=(made, longer))
        start = folder / f"sft{tag((arm.start,))}{tag(arm.data)}{tag(arm.toy)}"
        warm = add(f"SFT{tag((arm.start,))}{tag(arm.data)}{tag(arm.toy)}", (start / "model/config.json", script(
            "sft.py", "--model", toy / "model", "--data", data / "sft.jsonl", "--out", start, "--epochs", arm.start, "--seed", seed, "--keep", 1)), needs=(ready,))
        model, train = start, ()
        if arm.rl is not None:
            model, program = folder / name, ("bigrpo.py",) if arm.variant is None else ("tools/ablation.py", "variant", arm.variant)
            train = ((model / "model/config.json", script(*program, "--model", start / "model", "--data", data / "rl.jsonl", "--out", model, "--seed", seed,
                                                          *RL, *arm.rl)),)
        results = folder / "results" / name
        add(name, *train, *(
            (results / f"{test}.json", script("evaluate.py", "--model", model / "model", "--data", data / f"{part}.jsonl", "--out", results / f"{test}.json",
                                              "--prompt", "bare", "--seed", seed, *words))
            for test, part, words in (("plain", "test", ("--plain",)), ("longer", "longer", ()), ("test", "test", ()))), needs=(warm,))
    return list(found.values())


def run_job(job: Job, log: Path) -> str:
    """Do what is not done yet; "" or what failed."""
    for product, command in job.commands:
        if not product.exists():
            log.parent.mkdir(parents=True, exist_ok=True)
            with log.open("a") as file:
                code = subprocess.run(command, stdout=file, stderr=file, env=os.environ | {"OMP_NUM_THREADS": "1"}).returncode
            if code:
                return f"{job.name}: exit code {code}, see {log}"
    return ""


def run_all(jobs: list[Job], count: int, out: Path) -> list[str]:
    """Do the jobs in order, `count` at a time; one whose needs failed is left out. What failed, a line each."""
    from tqdm import tqdm

    waiting = [job for job in jobs if not all(product.exists() for product, _ in job.commands)]
    failed, running = [], {}
    with ThreadPoolExecutor(count) as pool, tqdm(total=len(jobs), initial=len(jobs) - len(waiting), desc="ablation", smoothing=0) as bar:
        while waiting or running:
            ready = [job for job in waiting if all(path.exists() for path in job.needs)]
            for job in ready[:count - len(running)]:
                waiting.remove(job)
                running[pool.submit(run_job, job, out / "logs" / (job.name.replace(": ", "-").replace(" ", "-") + ".log"))] = job
            if not running:
                failed += [f"{job.name}: not begun, what it needs is missing" for job in waiting]
                break
            bar.set_postfix_str(", ".join(job.name for job in running.values()))
            for done in wait(running, return_when=FIRST_COMPLETED).done:
                failed += filter(None, [done.result()])
                del running[done]
                bar.update()
    return failed


# ---------------------------------------------------------------------------------------------------------------------
# Tables and figures

COLUMNS = {"final_output": "final O", "final_input": "final I", "step": "step", "gap": "gap", "wrong_trace": "right answer, wrong trace", "tokens": "tokens",
           "longer_final": "longer: final", "longer_step": "longer: step", "plain_final": "no anchors: final", "minutes": "minutes"}
T95 = {1: 12.71, 2: 4.30, 3: 3.18, 4: 2.78, 5: 2.57, 6: 2.45, 7: 2.36, 8: 2.31, 9: 2.26}  # Student's t, 97.5%, by degrees of freedom


def numbers(folder: Path, name: str, seed: int) -> dict | None:
    """One line of runs.jsonl: what an arm reached under one seed; None if it is not done."""
    results = folder / "results" / name
    if not (results / "test.json").exists():
        return None
    found = {test: json.loads((results / f"{test}.json").read_text()) for test in ("test", "longer", "plain")}
    value = {test: {metric: result["summary"][metric]["value"] for metric in evaluate.METRICS} for test, result in found.items()}
    row = {"arm": name, "label": ARMS[name].label, "seed": seed}
    row |= {f"final_{task}": 100 * mean(item["final"] for item in found["test"]["items"] if item["task"] == task) for task in ("output", "input")}
    row |= {metric: value["test"][metric] for metric in ("step", "gap", "wrong_trace")} | {"tokens": found["test"]["response_tokens"]}
    row |= {"longer_final": value["longer"]["final"], "longer_step": value["longer"]["step"], "plain_final": value["plain"]["final"]}
    seconds = [record["timing"] for path in {Path(found["test"]["settings"]["model"]).parent} for record in read_lines(path / "metrics.jsonl")]
    return row | {"minutes": sum(sum(timing.values()) for timing in seconds) / 60}


def read_lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def interval(values: list[float]) -> str:
    """Mean and half the width of the 95% t interval over seeds."""
    values = [value for value in values if value is not None]
    if len(values) < 2:
        return f"{values[0]:.1f}" if values else "none"
    return f"{mean(values):.1f} ± {T95.get(len(values) - 1, 1.96) * stdev(values) / len(values) ** 0.5:.1f}"


def table(rows: list[list[str]]) -> str:
    return "\n".join("| " + " | ".join(row) + " |" for row in [rows[0], ["---"] * len(rows[0]), *rows[1:]])


def paired(first: list[Path], second: list[Path], draws: int = 2000) -> dict[str, tuple]:
    """{metric: (difference, low, high)} of second minus first, two result files for each seed: seeds drawn, then examples within."""
    rng, values, spreads = np.random.default_rng(0), [], []
    for a, b in zip(first, second):
        items = [{item["id"]: item for item in json.loads(path.read_text())["items"]} for path in (a, b)]
        if items[0].keys() != items[1].keys():
            policy.fail(f"{a} and {b} are not about the same examples")
        split = [{task: evaluate.columns([some[name] for name in items[0] if task in (some[name]["task"], "both")]) for task in ("both", "output", "input")}
                 for some in items]
        value, spread = {}, {}
        for task, kinds in (("both", ("step", "gap", "wrong_trace")), ("output", ("final",)), ("input", ("final",))):
            drawn = evaluate.resamples(len(split[0][task]), int(rng.integers(2**31)), draws)
            whole, parts = ([evaluate.percentages(rows) for rows in (some[0][task], some[1][task])]
                            for some in ([{t: d.sum(0) for t, d in one.items()} for one in split], [{task: drawn @ one[task]} for one in split]))
            for kind in kinds:
                name = f"final_{task}" if kind == "final" else kind
                value[name], spread[name] = whole[1][kind] - whole[0][kind], parts[1][kind] - parts[0][kind]
        values.append(value)
        spreads.append(spread)
    chosen, found = rng.integers(len(values), size=(draws, len(values))), {}
    for name in values[0]:
        every = np.stack([spread[name] for spread in spreads])  # [seeds, draws]
        mixed = every[chosen, rng.integers(draws, size=chosen.shape)].mean(1)
        found[name] = (float(np.mean([value[name] for value in values])), *np.percentile(mixed, [2.5, 97.5]).tolist())
    return found


def report(out: Path, folder: Path) -> None:
    """runs.jsonl, report.md and curves.png of what is done by now."""
    seeds = sorted(int(path.name.split("-")[1]) for path in out.glob("seed-*"))
    rows = [row for name in ARMS for seed in seeds if (row := numbers(out / f"seed-{seed}", name, seed))]
    if not rows:
        policy.fail(f"{out}: no arm is done yet")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "runs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    by_arm = {name: [row for row in rows if row["arm"] == name] for name in ARMS}
    lines = [["", "seeds", *COLUMNS.values()]]
    lines += [[ARMS[name].label, str(len(some)), *(interval([row[column] for row in some]) for column in COLUMNS)] for name, some in by_arm.items() if some]
    names = ("final_output", "final_input", "step", "gap", "wrong_trace")
    differences = [["", "seeds", *(COLUMNS[name] for name in names)]]
    for a, b in NEIGHBOURS:
        both = sorted({row["seed"] for row in by_arm[a]} & {row["seed"] for row in by_arm[b]})
        if both:
            found = paired(*([out / f"seed-{seed}/results/{name}/test.json" for seed in both] for name in (a, b)))
            differences.append([f"{ARMS[b].label} minus {ARMS[a].label}", str(len(both)), *("{:+.1f} [{:+.1f}, {:+.1f}]".format(*found[name]) for name in names)])
    draw({name: [read_lines(out / f"seed-{row['seed']}" / name / "metrics.jsonl") for row in by_arm[name]] for name in CORE if name != "sft" and by_arm[name]},
         folder / "curves.png")
    git = policy.describe(argparse.Namespace(data="", model=""))
    (folder / "report.md").write_text(f"""`{' '.join(["python tools/ablation.py", *sys.argv[1:]])}`, commit {git['git']}, {hardware()}, torch {git['versions']['torch']}

Greedy, percent, mean over seeds ± half of the 95% t interval over seeds; 400 test programs a seed, 200 longer ones, both tasks of each. tokens: of a response.
minutes: of the arm's own training (RL where it has one) on one thread. No anchors: the same test asked without them.

{table(lines)}

Paired differences, 95% bootstrap over seeds and, within each, over examples:

{table(differences)}

![learning curves](curves.png)
""")
    print((folder / "report.md").read_text())


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
        start = time.time()
        failed = run_all(jobs, args.jobs, args.out)
        print(f"{(time.time() - start) / 60:.0f} minutes", file=sys.stderr)
    report(args.out, args.results)
    if failed:
        policy.fail("; ".join(failed))


if __name__ == "__main__":
    main()
