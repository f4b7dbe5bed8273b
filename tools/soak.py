"""Does a long run stay what it was? 2,000 short RL steps on the toy, watched from outside; ends with 1 if something has grown.

    python tools/soak.py                     # makes a small toy, warms it up, watches bigrpo.py; ends with a table and soak.png
    python tools/soak.py --steps 50          # the same, short

The policy is small and half trained, and half of its programs ask for an input, so that the sandbox has work in every step.

The rule: of each quantity, the median over the second tenth of the looks (the first one warms up) against that over the last tenth. Too much is

    memory       of the training process: a twentieth more
    files        of the training process: more than 4 more
    processes    the training process and all below it: more than 4 more. Idle sandboxes come and go: one is 2 processes and 2 files
    CPU time     of the training process, a step: a quarter more

Wall time a step is in the table and in the plot, but other work on the machine moves it, so it decides nothing. Linux only: it reads /proc.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
QUANTITIES = {"memory": "memory, MB", "files": "open files", "processes": "processes", "cpu": "CPU seconds a step", "seconds": "seconds a step"}
MOST = {"memory": lambda early: 1.05 * early, "files": lambda early: early + 4, "processes": lambda early: early + 4, "cpu": lambda early: 1.25 * early}


def command(script: str, *words) -> list[str]:
    return [sys.executable, str(ROOT / script), *map(str, words)]


def prepare(folder: Path) -> None:
    """Toy, examples of both tasks, and a warm start, made by the scripts themselves."""
    subprocess.run(command("toy.py", "--out", folder / "toy", "--sft", 400, "--rl", 200, "--test", 1, "--difficulty", 1, "--width", 64, "--layers", 1), check=True)
    for part in ("sft", "rl"):
        subprocess.run(command("augment.py", "--programs", folder / f"toy/{part}.jsonl", "--out", folder / f"{part}.jsonl", "--task", "both",
                               "--prompt", "bare"), check=True)
    subprocess.run(command("sft.py", "--model", folder / "toy/model", "--data", folder / "sft.jsonl", "--out", folder / "sft", "--epochs", 6), check=True)


def look(pid: int) -> dict[str, float]:
    """What a process holds now: resident memory in MB, open files, the processes below it and itself, and its CPU seconds so far."""
    status = Path(f"/proc/{pid}/status").read_text()
    after_name = {}  # the fields of /proc/PID/stat from the third on, of every process
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            after_name[int(path.parent.name)] = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue  # it ended in between
    family, size = {pid}, 0
    while len(family) > size:
        size = len(family)
        family |= {child for child, fields in after_name.items() if int(fields[1]) in family}
    ticks = sum(map(int, after_name[pid][11:13]))
    return {"memory": int(status.split("VmRSS:")[1].split()[0]) / 1024, "files": len(list(Path(f"/proc/{pid}/fd").iterdir())), "processes": size,
            "cpu_total": ticks / os.sysconf("SC_CLK_TCK")}


def watch(pid: int, runs, metrics: Path, pause: float = 0.1) -> list[dict[str, float]]:
    """Look at a training process every `pause` seconds while runs() holds: a row for each step after which it was seen, but for the last."""
    looks = {}
    while runs():
        time.sleep(pause)
        try:
            looks[metrics.read_text().count("\n") if metrics.exists() else 0] = look(pid)
        except (OSError, IndexError, KeyError):
            continue  # it has just ended
    records = [json.loads(line) for line in metrics.read_text().splitlines()] if metrics.exists() else []
    rows, before = [], (0, looks.get(0, {"cpu_total": 0})["cpu_total"])
    for step, row in looks.items():
        if 0 < step < len(records):  # after the last one it is ending
            cpu, before = (row["cpu_total"] - before[1]) / (step - before[0]), (step, row["cpu_total"])
            rows.append(row | {"step": step, "cpu": cpu, "seconds": sum(records[step - 1]["timing"].values())})
    return rows


def tenths(rows: list[dict[str, float]], name: str) -> tuple[float, float]:
    """The median of a quantity over the second tenth of the rows, and over the last."""
    size = max(1, len(rows) // 10)
    return tuple(statistics.median(row[name] for row in part) for part in (rows[size:2 * size], rows[-size:]))


def grown(rows: list[dict[str, float]]) -> list[str]:
    """The quantities that have grown more than the rule allows."""
    return [name for name, most in MOST.items() if tenths(rows, name)[1] > most(tenths(rows, name)[0])]


def plot(rows: list[dict[str, float]], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(QUANTITIES), figsize=(16, 2.6), layout="constrained")
    for axis, (name, label) in zip(axes, QUANTITIES.items()):
        axis.plot([row["step"] for row in rows], [row[name] for row in rows], linewidth=0.8)
        axis.set(xlabel="step", title=label, ylim=(0, 1.1 * max(row[name] for row in rows)))
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description="Watch memory, open files, processes and step time of a long run.")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--out", type=Path, default=Path("runs/soak"), help="folder for the toy, the run, soak.json and soak.png")
    args = parser.parse_args()
    if not (args.out / "sft/model").exists():
        prepare(args.out)
    (args.out / "rl/metrics.jsonl").unlink(missing_ok=True)  # of an earlier time
    process = subprocess.Popen(command("bigrpo.py", "--model", args.out / "sft/model", "--data", args.out / "rl.jsonl", "--out", args.out / "rl", "--fresh",
                                       "--steps", args.steps, "--prompts", 2, "--group", 4, "--max-tokens", 64, "--lr", 1e-4, "--beta", 0))
    rows = watch(process.pid, lambda: process.poll() is None, args.out / "rl" / "metrics.jsonl")
    if process.returncode:
        sys.exit(f"bigrpo.py ended with {process.returncode}")
    if len(rows) < 20:
        sys.exit(f"{args.steps} steps were seen {len(rows)} times: too few to tell whether anything grows")
    (args.out / "soak.json").write_text(json.dumps(rows))
    plot(rows, args.out / "soak.png")
    print(f"{args.steps} steps, {len(rows)} looks   second tenth   last tenth")
    for name, label in QUANTITIES.items():
        early, late = tenths(rows, name)
        print(f"  {label:<24}{early:>10.3f}{late:>13.3f}{'   has grown' * (name in grown(rows))}")
    sys.exit(1 if grown(rows) else 0)


if __name__ == "__main__":
    main()
