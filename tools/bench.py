"""Measure what the README says is fast. Each section is one function; `--only NAME` runs one.

    python tools/bench.py                                       everything, on toy programs
    STEPCODE_DATA=folder python tools/bench.py --only sandbox   also CRUXEval's 800 programs (folder/cruxeval.jsonl)

The sandbox section runs every way of executing programs in turn, several rounds in one process, because figures of a shared machine
drift; it prints the median of each and the ratios of the medians. Nothing else should run meanwhile; where something does, trust the
CPU time per program (of all its processes), which a busy machine changes less."""
import argparse
import contextlib
import io
import itertools
import json
import os
import pathlib
import statistics
import subprocess
import sys
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


def ours(jobs, layers=sandbox.LAYERS):
    """trace_many with these layers of isolation; the number of programs that ran."""
    sandbox.LAYERS = layers
    with contextlib.redirect_stderr(io.StringIO()):     # it says which layers are missing
        return sum(result.status == "ok" for result in sandbox.trace_many(jobs))


def bare(jobs):
    """A fork of the same warm servers that exits at once: the ceiling."""
    sandbox.LAYERS = ALL_LAYERS
    tasks = ({"bare": True, "program": program, "call": call, "timeout": 3} for program, call in jobs)
    return sum(1 for _ in sandbox._run(tasks, None, 0))


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
WAYS = {    # name -> (function, share of the programs that each round runs: the slow ways take fewer)
    "ours, full isolation": (ours, 1),
    "bare fork and exit of the same server": (bare, 1),
    "ours, limits only": (lambda jobs: ours(jobs, ()), 1),
    "ours, inputs of one program": (inputs, 1),
    "fresh python -I -S": (lambda jobs: fresh(jobs, ["-I", "-S"]), 1 / 4),
    "fresh python -I": (lambda jobs: fresh(jobs, ["-I"]), 1 / 10),
    "official: multiprocessing": (official, 1 / 10),
}


def cpu():
    """Seconds of CPU so far of this process, of the processes it has waited for and of the sandbox's servers (0 for these but on Linux)."""
    def tree(pid):
        children = pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return [pid] + [below for child in children for below in tree(child)]
    servers = [server.process.pid for idle in sandbox._idle.values() for server in idle] if sys.platform == "linux" else []
    stats = [pathlib.Path(f"/proc/{pid}/stat").read_text() for server in servers for pid in tree(server)]
    ticks = sum(int(number) for stat in stats for number in stat.rpartition(")")[2].split()[11:15])
    return sum(os.times()[:4]) + ticks / os.sysconf("SC_CLK_TCK")


def measure(title, jobs, rounds):
    """Programs per second, and CPU time per program, of every way, on a list of (program, call)."""
    print(f"\n{title}: {len(jobs)} programs, {WORKERS} workers, {rounds} rounds")
    speeds, costs = {name: [] for name in WAYS}, {name: [] for name in WAYS}
    ours(jobs[:WORKERS]), ours(jobs[:WORKERS], ())      # start the servers
    for _ in range(rounds):
        for name, (way, share) in WAYS.items():
            some = jobs[:max(1, round(len(jobs) * share))]
            start, used = time.perf_counter(), cpu()
            done = way(some)
            speeds[name].append(len(some) / (time.perf_counter() - start))
            costs[name].append((cpu() - used) / len(some))
            if done < 0.9 * len(some):
                raise SystemExit(f"{name}: only {done} of {len(some)} programs ran")
    speed, cost = ({name: statistics.median(values) for name, values in table.items()} for table in (speeds, costs))
    full = "ours, full isolation"
    for name in WAYS:
        spread = f"({min(speeds[name]):.0f} to {max(speeds[name]):.0f})"
        print(f"{name:38} {speed[name]:6.0f} /s {spread:14} {1000 * cost[name]:6.2f} ms of CPU; full isolation is "
              f"{speed[full] / speed[name]:5.2f} x as fast, by CPU {cost[name] / cost[full]:5.2f} x")


def scaling(jobs):
    """Programs per second by number of workers."""
    sandbox.LAYERS = ALL_LAYERS
    print()
    for workers in sorted({1, 2, WORKERS // 2, WORKERS} - {0}):
        list(sandbox.trace_many(jobs[:workers], workers=workers))
        start = time.perf_counter()
        list(sandbox.trace_many(jobs, workers=workers))
        print(f"{workers} workers: {len(jobs) / (time.perf_counter() - start):.0f} programs/s")


def bench_sandbox(args):
    import toy
    jobs = [(row["code"], row["call"]) for row in itertools.islice(toy.programs(400, False, 2, 0), 400)]
    measure("toy", jobs, args.rounds)
    path = pathlib.Path(args.data or os.environ.get("STEPCODE_DATA", "data"), "cruxeval.jsonl")
    if not path.exists():
        return print(f"CRUXEval: skipped, there is no {path} (set STEPCODE_DATA or --data)")
    rows = [json.loads(line) for line in path.open()]
    jobs = [(row["code"], f"f({row['input']})") for row in rows]
    measure("CRUXEval", jobs, args.rounds)
    scaling(jobs)


SECTIONS = {"sandbox": bench_sandbox}


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
