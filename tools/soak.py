"""Does a long run stay what it was? 2,000 short RL steps on the toy, watched from outside: memory, open files, processes, step time.

    python tools/soak.py                     # makes a small toy, warms it up, watches bigrpo.py; ends with a table and soak.png
    python tools/soak.py --steps 50          # the same, short

The policy is small and half trained, and half of its programs ask for an input, so that the sandbox has work in every step. The table
compares the second quarter of the run with the last one. Linux only: it reads /proc.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
QUANTITIES = {"memory": "memory, MB", "files": "open files", "processes": "processes", "seconds": "seconds a step"}


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
    """What a process holds now: its resident memory in MB, its open files, and the processes below it and itself."""
    status = Path(f"/proc/{pid}/status").read_text()
    parents = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(path.parent.name)] = int(path.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue  # it ended in between
    family, size = {pid}, 0
    while len(family) > size:
        size = len(family)
        family |= {child for child, parent in parents.items() if parent in family}
    return {"memory": int(status.split("VmRSS:")[1].split()[0]) / 1024, "files": len(list(Path(f"/proc/{pid}/fd").iterdir())), "processes": size}


def watch(folder: Path, steps: int, pause: float = 0.5) -> list[dict[str, float]]:
    """Run bigrpo.py for `steps` steps, looking at it every `pause` seconds; a row for each step that was seen."""
    metrics, rows = folder / "rl" / "metrics.jsonl", {}
    process = subprocess.Popen(command("bigrpo.py", "--model", folder / "sft/model", "--data", folder / "rl.jsonl", "--out", folder / "rl", "--fresh",
                                       "--steps", steps, "--prompts", 2, "--group", 4, "--max-tokens", 64, "--lr", 1e-4, "--beta", 0))
    while process.poll() is None:
        time.sleep(pause)
        try:
            rows[metrics.read_text().count("\n") if metrics.exists() else 0] = look(process.pid)
        except (OSError, IndexError):
            continue  # it has just ended
    if process.returncode:
        sys.exit(f"bigrpo.py ended with {process.returncode}")
    records = [json.loads(line) for line in metrics.read_text().splitlines()]
    return [row | {"step": step, "seconds": sum(records[step - 1]["timing"].values())} for step, row in rows.items() if step]


def quarters(rows: list[dict[str, float]], steps: int, name: str) -> tuple[float, float]:
    """The median of a quantity in the second quarter of the run and in the last."""
    parts = ([row[name] for row in rows if low * steps < row["step"] <= high * steps] for low, high in ((0.25, 0.5), (0.75, 1)))
    return tuple(statistics.median(part) for part in parts)


def plot(rows: list[dict[str, float]], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 4, figsize=(13, 2.6), layout="constrained")
    for axis, (name, label) in zip(axes, QUANTITIES.items()):
        axis.plot([row["step"] for row in rows], [row[name] for row in rows], linewidth=0.8)
        axis.set(xlabel="step", title=label, ylim=(0, None))
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description="Watch memory, open files, processes and step time of a long run.")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--out", type=Path, default=Path("runs/soak"), help="folder for the toy, the run, soak.json and soak.png")
    args = parser.parse_args()
    if not (args.out / "sft/model").exists():
        prepare(args.out)
    rows = watch(args.out, args.steps)
    (args.out / "soak.json").write_text(json.dumps(rows))
    plot(rows, args.out / "soak.png")
    print(f"{args.steps} steps             second quarter   last quarter")
    for name, label in QUANTITIES.items():
        early, late = quarters(rows, args.steps, name)
        print(f"  {label:<20}{early:>14.2f}{late:>15.2f}")


if __name__ == "__main__":
    main()
