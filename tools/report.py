"""A run for human eyes: tables beside the paper's, figures, and pages on which one sees the credit of tokens and browses responses.

    python tools/report.py --sft runs/sft --rl runs/rl --results runs/eval/sft.json runs/eval/rl.json --html --out runs/report

report.md       one row per result file of evaluate.py with 95% intervals, equal labels (seeds) averaged; faithfulness without what comes
                free; results on benchmarks beside the paper's rows (printed too); report.json holds the same numbers
curves.png      from the metrics.jsonl of sft.py and of bigrpo.py
faithfulness.png, positions.png, anchors.png    final against step accuracy; steps by position; both by number of anchors
credit.html     groups of rollouts from bigrpo.py's rollouts.jsonl, at the first and the last dumped step: true and predicted
                states, rewards and advantages, and each response coloured by the advantage of its tokens
credit.png      one of those groups small enough for a picture
examples.html   with --html: browse the responses of the result files (browse.py)

A folder that is not given, or holds no such file yet, leaves its part out and says so. Bad input ends with exit code 2.
"""

import argparse
import json
import re
import statistics
import sys
from html import escape
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import rewards  # noqa: E402
from tools import browse  # noqa: E402

NUMBER = int | float
METRICS = {"final": "final accuracy", "step": "step accuracy", "gap": "gap", "wrong_trace": "right answer, wrong trace"}
RESULT = {"n": int, "tokens": {"value": NUMBER}, "settings": {"model": str, "data": str, "temperature": str},
          "summary": {name: {"value": NUMBER | None, "interval": [NUMBER | None, NUMBER | None]} for name in METRICS}}
ITEM = {"id": str | int, "final": NUMBER | None, "steps": [NUMBER], "anchors": [[str, str]], "predicted": [str], "answer": str | None, "status": str,
        "failure": str, "tokens": int, "response": str, "program": str, "call": str, "output": str, "task": str}
SFT = {"step": int, "loss": NUMBER}
RL = {"step": int} | dict.fromkeys(("final_reward", "step_reward", "entropy", "equal_groups", "equal_columns"), NUMBER)
ROLLOUT = {"step": int, "id": str | int, "rollout": int, "prompt": str, "response": str, "starts": [int], "token_advantage": [NUMBER],
           "true": [[str, str]], "predicted": [str], "mask": [int], "step_rewards": [NUMBER], "final_reward": NUMBER,
           "step_advantage": [NUMBER], "final_advantage": NUMBER, "ended": bool}


# ---------------------------------------- Reading

def fail(message: str):
    """End with one line and exit code 2."""
    print(f"error: {message}", file=sys.stderr)
    sys.exit(2)


def fits(value, kind) -> bool:
    """True if a JSON value is of this kind: a type, [kind of every item], [kind, kind] of two, or {field: kind, ...} and more."""
    if isinstance(kind, list):
        return isinstance(value, list) and len(kind) in (1, len(value)) and all(map(fits, value, kind * len(value)))
    if isinstance(kind, dict):
        return isinstance(value, dict) and all(name in value and fits(value[name], kind[name]) for name in kind)
    return isinstance(value, kind)


def parse_json(text: bytes, kind: dict, place: str) -> dict:
    """The JSON object in text; fails, naming the place, unless it is of this kind."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        fail(f"{place}: not JSON ({error})")
    for name in kind:
        if not fits(value, {name: kind[name]}):
            fail(f"{place}: field {name!r} is missing or not of the expected form")
    return value


def read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        fail(f"{path}: {error.strerror}")


def read_jsonl(folder: Path | None, name: str, kind: dict):
    """Yield (place, row) of folder/name; nothing where there is no such file yet."""
    if folder and not folder.is_dir():
        fail(f"{folder}: no such folder")
    if folder and (folder / name).exists():
        for number, line in enumerate(read(folder / name).splitlines(), 1):
            place = f"{folder / name}:{number}"
            yield place, parse_json(line, kind, place)


def read_groups(folder: Path | None) -> list[list[list[dict]]]:
    """The groups of rollouts of the first and of the last dumped step (once if they are one): [[group, ...], ...]."""
    first, last = [], []
    for place, row in read_jsonl(folder, "rollouts.jsonl", ROLLOUT):
        n = len(row["true"])
        if not (n == len(row["mask"]) == len(row["step_rewards"]) == len(row["step_advantage"])
                and len(row["starts"]) == len(row["token_advantage"]) and row["starts"] == sorted(row["starts"])
                and row["starts"][:1] == [0] and row["starts"][-1] <= len(row["response"])):
            fail(f"{place}: the lists of this rollout do not fit together")
        if not last or row["step"] != last[0][0]["step"]:
            first, last = first or last, []
        if not last or row["rollout"] == 0 or (row["id"], row["true"]) != (last[-1][0]["id"], last[-1][0]["true"]):
            last.append([])
        last[-1].append(row)
    return [groups for groups in (first, last) if groups]


# ---------------------------------------- report.md

def percent(metric: dict) -> str:
    if metric["value"] is None:
        return "none"
    return f"{metric['value']:.1f}" + ("" if None in metric["interval"] else " [{:.1f}, {:.1f}]".format(*metric["interval"]))


def markdown(rows: list[list[str]]) -> str:
    """A table, its first row the head, aligned for the terminal."""
    rows = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows)]
    rows.insert(1, ["-" * width for width in widths])
    return "\n".join("| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths)) + " |" for row in rows)


def results_table(results: list[dict], paths: list[Path], labels: list[str]) -> str:
    """A row per result file, a row per label of several files (seeds), and where each comes from."""
    rows = [["", *METRICS.values(), "n", "temperature", "response tokens"]]
    for label, result in zip(labels, results):
        rows.append([label, *(percent(result["summary"][name]) for name in METRICS), str(result["n"]),
                     result["settings"]["temperature"], f"{result['tokens']['value']:.1f}"])
    for label in dict.fromkeys(label for label in labels if labels.count(label) > 1):
        seeds = [result for one, result in zip(labels, results) if one == label]
        rows.append([f"{label}: mean of {len(seeds)}", *(spread([seed["summary"][name]["value"] for seed in seeds]) for name in METRICS), "", "", ""])
    lines = [markdown(rows), "", "Percentages with their 95% intervals (bootstrap over the n examples); response tokens is a mean. Gap is final minus step;",
             "the last percentage is, of the right answers, those with a wrong step in their trace (none: no right answer).", ""]
    return "\n".join(lines + [f"- {label}: `{path}`, model `{result['settings']['model']}`, data `{result['settings']['data']}`"
                              for label, path, result in zip(labels, paths, results)])


def spread(values: list[float | None]) -> str:
    """Mean and standard deviation over seeds."""
    values = [value for value in values if value is not None]
    return f"{statistics.mean(values):.1f} (sd {statistics.stdev(values):.1f})" if len(values) > 1 else "none"


def faithfulness_table(results: list[dict], labels: list[str]) -> str:
    """Steps and wrong traces without the anchors that come free, and the reward budget; "" where no result has them."""
    rows = [["", "step accuracy", "no returns", "no repeats", "neither", "wrong trace", "no returns", "no repeats", "neither", "reward budget"]]
    for label, result in zip(labels, results):
        if "without" in result and result["summary"]["step"]["value"] is not None:
            parts = [result["summary"], *result["without"].values()]
            budget = result["reward_budget"]
            rows.append([label, *(percent(part["step"]) for part in parts), *(percent(part["wrong_trace"]) for part in parts),
                         f"{budget['value']:.2f} [{budget['interval'][0]:.2f}, {budget['interval'][1]:.2f}]"])
    note = ("\n\nWithout return anchors, which repeat the answer, and without anchors that repeat the value before them. "
            "The reward budget of a response is 1 shared by its anchors and 1 for its answer.")
    return "## Faithfulness\n\n" + markdown(rows) + note if len(rows) > 1 else ""


# ---------------------------------------- The paper's figures, in percent

COLUMNS = {"cruxeval-output": "CRUXEval-O", "cruxeval-input": "CRUXEval-I", "lcb-output": "LCB-O", "lcb-input": "LCB-I", "coverage": "REval coverage",
           "state": "REval state", "path": "REval path", "output": "REval output", "incremental consistency": "REval consistency",
           "humaneval": "HumanEval", "mbpp": "MBPP"}
PAPER = {"SFT": (77.0, 75.0, 73.0, 70.0, 74.2, 58.2, 42.1, 70.3), "RL only": (82.0, 80.5, 79.0, 76.0, 78.1, 64.1, 48.7, 74.6),
         "SFT + terminal RL": (88.0, 86.5, 84.5, 81.0, 82.3, 69.1, 53.2, 80.1),
         "without decoupled tasks": (90.0, 88.8, 86.0, 82.5, 90.2, 81.8, 62.5, 85.5),
         "full": (91.6, 90.5, 88.4, 84.5, 94.4, 82.3, 63.1, 91.8, None, 90.1, 85.0)}
PAPER_STEPS = {"Qwen2.5-Coder-7B": (51.2, 75.2), "CodeReasoner-7B": (63.5, 85.6), "SFT + terminal RL": (66.3, 84.5), "full": (80.7, 91.6)}
PAPER_ANCHORS = {"without anchors": (84.8, 77.0), "with anchors": (91.1, 86.5)}  # CRUXEval, LiveCodeBench; output and input averaged


def benchmark_metrics(result: dict) -> dict[str, dict]:
    """{column: metric} of a result on a benchmark: one, or REval's tasks."""
    return result.get("tasks") or {result.get("benchmark"): result["summary"]["final"]}


def paper_tables(results: list[dict]) -> str:
    """Our results on benchmarks beside the paper's rows: accuracy, steps, and anchors at inference; "" without such results."""
    ours, has_anchors = {}, {}
    for result in results:
        found = {name: metric for name, metric in benchmark_metrics(result).items() if name in COLUMNS}
        if found:
            key = result["settings"]["model"], "with anchors" if result["anchors"] else "without anchors"
            if twice := found.keys() & ours.get(key, {}).keys():
                fail(f"two results of {key[0]} {key[1]} on {min(twice)}: give one of them")
            ours.setdefault(key, {}).update(found)
            has_anchors[key] = result["anchors"]
    columns = [name for name in COLUMNS if any(name in row for row in ours.values())]
    if not columns:
        return ""
    rows = [["", *(COLUMNS[name] for name in columns)]]
    rows += [[f"{model}, {how}", *(percent(row[name]) if name in row else "" for name in columns)] for (model, how), row in ours.items()]
    for label, values in PAPER.items():
        known = {name: value for name, value in zip(COLUMNS, values) if value is not None}
        rows.append([f"paper: {label}", *(f"{known[name]:.1f}" if name in known else "" for name in columns)])
    parts = ["## Beside the paper", markdown(rows)]
    steps = [[f"{r['settings']['model']}", percent(r["summary"]["step"]), percent(r["summary"]["final"])] for r in results
             if r.get("benchmark") == "cruxeval-output" and r["anchors"]]
    if steps:
        steps += [[f"paper: {label}", *(f"{value:.1f}" for value in values)] for label, values in PAPER_STEPS.items()]
        parts += ["CRUXEval-O, steps against answers:", markdown([["", "step accuracy", "final accuracy"], *steps])]
    means = [[f"{model}, {how}", *(mean_of(row, f"{name}-output", f"{name}-input") for name in ("cruxeval", "lcb"))] for (model, how), row in ours.items()]
    if any(cell for row in means for cell in row[1:]):
        means += [[f"paper: {label}", *(f"{value:.1f}" for value in values)] for label, values in PAPER_ANCHORS.items()]
        parts += ["Anchors at inference, mean of output and input prediction:", markdown([["", "CRUXEval", "LiveCodeBench"], *means])]
    return "\n\n".join([*parts, "The paper's rows are of 7B models under its own sampling and prompts; its averages do not all match its rows, so columns are quoted."])


def mean_of(row: dict, *names: str) -> str:
    values = [row[name]["value"] for name in names if name in row and row[name]["value"] is not None]
    return f"{sum(values) / len(values):.1f}" if len(values) == len(names) else ""


# ---------------------------------------- faithfulness.png, positions.png, anchors.png

FEW = 10  # examples below which a point is not drawn
COLOURS = "#1f6fd1", "#d9730d", "#2e8b57", "#8e44ad", "#b3261e", "#59626d"


def error_bars(metrics: list[dict]):
    """(values, distances to the ends of the intervals) for matplotlib."""
    values = [metric["value"] for metric in metrics]
    ends = [[max(0, sign * (value - metric["interval"][side])) for metric, value in zip(metrics, values)] for side, sign in ((0, 1), (1, -1))]
    return values, ends


def draw_results(results: list[dict], labels: list[str], folder: Path) -> list[str]:
    """Write a PNG per figure for the results that have steps; the lines of the report that show them."""
    some = [(label, result) for label, result in zip(labels, results) if "by_position" in result and result["summary"]["step"]["value"] is not None]
    if not some:
        return []
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    def figure(title, xlabel, name, **fills):
        """A panel for each of `fills`, whose name is its heading where there are several."""
        drawing, panels = plt.subplots(1, len(fills), figsize=(3.5 + 4 * len(fills), 4.5), layout="constrained", sharey=True, squeeze=False)
        for axes, (heading, fill) in zip(panels[0], fills.items()):
            fill(axes)
            axes.set_title(f"{title}: {heading}" if len(fills) > 1 else title, loc="left", fontweight="bold")
            axes.set(xlabel=xlabel, ylim=(-2, 102))
            axes.grid(alpha=0.25, axis="y")
            axes.set_axisbelow(True)
            axes.spines[["top", "right"]].set_visible(False)
        panels[0, 0].set_ylabel("percent (bars: 95% interval)")
        axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
        drawing.savefig(folder / f"{name}.png", dpi=130)
        plt.close(drawing)
        return f"![{title}]({name}.png)"

    def bars(axes):
        for k, (name, label) in enumerate((("final", "final accuracy"), ("step", "step accuracy"))):
            values, ends = error_bars([result["summary"][name] for _, result in some])
            axes.bar([i + 0.4 * k - 0.2 for i in range(len(some))], values, 0.38, yerr=ends, color=COLOURS[k], label=label, capsize=3)
        axes.set_xticks(range(len(some)), [label for label, _ in some], rotation=20 if len(some) > 3 else 0)

    def lines(points):
        def fill(axes):
            for k, (label, result) in enumerate(some):
                found = {x + 0.06 * (k - (len(some) - 1) / 2): metric for x, metric in points(result).items() if metric["value"] is not None and metric["n"] >= FEW}
                values, ends = error_bars(list(found.values()))
                axes.errorbar(list(found), values, yerr=ends, marker="o", capsize=3, color=COLOURS[k % len(COLOURS)], label=label)
            axes.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(integer=True))
        return fill

    def by_anchors(name):
        return lines(lambda result: {int(n): part[name] for n, part in result["by_anchors"].items()})

    return [figure("Answers against traces", "", "faithfulness", all=bars),
            figure("Step accuracy by position of the anchor", "position in the trace", "positions", all=lines(lambda result: dict(enumerate(result["by_position"], 1)))),
            figure("By number of anchors", f"anchors in the trace (with {FEW} examples or more)", "anchors", final=by_anchors("final"), steps=by_anchors("step"))]


# ---------------------------------------- curves.png

def draw(axes, rows: list[dict], source: str, title: str, unit: str, names: dict[str, str]) -> None:
    """One panel: every step as a faint line, and over it the mean of the steps around."""
    import numpy as np

    axes.set_title(title, loc="left", fontweight="bold")
    if not rows:
        axes.text(0.5, 0.5, f"left out: {source}", ha="center", va="center", color="0.4", transform=axes.transAxes)
        return axes.set_axis_off()
    steps, window = [row["step"] for row in rows], max(1, min(50, len(rows) // 8))
    for (name, label), colour in zip(names.items(), ("#1f6fd1", "#d9730d")):
        values = np.array([row[name] for row in rows], float)
        mean = np.convolve(values, np.ones(window), "same") / np.convolve(np.ones(len(rows)), np.ones(window), "same")
        axes.plot(steps, values, color=colour, alpha=0.3, linewidth=0.8)
        axes.plot(steps, mean, color=colour, linewidth=2, label=label, marker="o" if len(rows) == 1 else None)
    axes.set(xlabel=f"step (bold: mean of {window})" if window > 1 else "step", ylabel=unit)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    if len(names) > 1:
        axes.set_ylim(-0.02, 1.02)
        axes.legend(frameon=False)


def draw_curves(sft: list[dict], rl: list[dict], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(2, 2, figsize=(11, 7), layout="constrained")
    no_sft, no_rl = "no metrics of a warm start (--sft)", "no metrics of reinforcement learning (--rl)"
    draw(panels[0, 0], sft, no_sft, "Warm start: loss", "nats per response token (log scale)", {"loss": "loss"})
    panels[0, 0].set_yscale("log")
    panels[0, 0].yaxis.set_major_formatter("{x:g}")
    draw(panels[0, 1], rl, no_rl, "RL: rewards", "share right", {"final_reward": "final answer", "step_reward": "steps"})
    draw(panels[1, 0], rl, no_rl, "RL: entropy", "nats per response token", {"entropy": "entropy"})
    draw(panels[1, 1], rl, no_rl, "RL: all rewards equal (nothing from Eq. 10)", "share",
         {"equal_groups": "groups (final answer)", "equal_columns": "columns (one step of a group)"})
    figure.savefig(path, dpi=130)


# ---------------------------------------- credit.html

STYLE = """
:root { color-scheme: light dark; --back: #fff; --text: #1b1f24; --dim: #59626d; --line: #d5dae0; --panel: #f5f7f9; --plus: 40 120 235; --minus: 235 125 10 }
@media (prefers-color-scheme: dark) { :root { --back: #15181c; --text: #e9ecef; --dim: #a3adb8; --line: #3a424b; --panel: #1e2328 } }
body { background: var(--back); color: var(--text); font: 16px/1.5 system-ui, sans-serif; max-width: 76rem; margin: 2rem auto; padding: 0 1rem }
pre, .state, .response { font-family: ui-monospace, monospace; font-size: .875rem; white-space: pre-wrap; overflow-wrap: anywhere; unicode-bidi: isolate; margin: 0 }
pre { max-height: 30rem } pre, .scroll { overflow: auto } pre { background: var(--panel); padding: .75rem; border-radius: 6px }
details { border-top: 1px solid var(--line); padding: .6rem 0 } summary { cursor: pointer; font-weight: 600 } h1, h2, h3 { line-height: 1.2 }
h3 { font-size: 1rem; margin: 1.2rem 0 .4rem } .dim, small { color: var(--dim); font-weight: 400; font-size: .85rem }
table { border-collapse: collapse } th, td { border: 1px solid var(--line); padding: .35rem .6rem; text-align: left; vertical-align: top }
th { background: var(--panel); font-weight: 600 } tbody th, td small { white-space: nowrap } .state { max-width: 18rem; max-height: 9rem; overflow: auto }
.wrong { box-shadow: inset 4px 0 rgb(var(--minus)) } .wrong .state { text-decoration: underline wavy rgb(var(--minus)) }
.response { line-height: 2.1; margin: .2rem 0 1rem; border-left: 3px solid var(--line); padding-left: .75rem }
.badge { border: 1px solid rgb(var(--minus)); border-radius: 4px; padding: 0 .4rem; font-size: .85rem; font-weight: 400 }
i { font-style: normal; padding: .15rem 0; border-radius: 2px } i:hover { outline: 1px solid var(--text) } .mark { color: var(--dim); font-size: .75rem }
.plus i { background: rgb(var(--plus) / var(--a)) } .minus i { background: rgb(var(--minus) / var(--a)) }
[data-a]::after { content: attr(data-a); color: var(--dim); font: .7rem system-ui, sans-serif; vertical-align: sub; margin: 0 .3rem 0 .1rem }
.legend { position: sticky; top: 0; background: var(--back); padding: .5rem 0; border-bottom: 1px solid var(--line) } .legend i { padding: .15rem .6rem }
"""
INTRO = """<p>A <b>group</b> is several rollouts of one prompt. Each predicts the state at every anchor, then the answer; r = 1 if it is what the interpreter found, else 0.<br>
The <b>advantage</b> of a token is how hard training makes it likelier (blue) or less likely (orange): A_final of the answer, plus A of its step.<br>
Look for a right answer with a wrong step: that step's block is paler than the rest, or orange, if some other rollout has it right (else it keeps the answer's colour). With a reward for the answer alone, all would be one blue.</p>"""
CONTROL = browse.CONTROL | {9: "\u2409"}


def visible(text: str) -> str:
    """Model text as HTML: escaped, with newlines marked and characters that draw nothing or turn the line around replaced."""
    return escape(str(text).translate(CONTROL)).replace("\n", '<span class="mark">&#x21B5;</span>\n')


def signed(value: float) -> str:
    return f"{value:+.2f}".replace("-0.00", "+0.00")


def shade(advantage: float, scale: float) -> str:
    """Class and style of a colour: the sign gives the hue, the root of |advantage| / scale the strength."""
    return f'class="{"plus" if advantage > 0 else "minus"}" style="--a:{0.7 * min(1, abs(advantage) / scale) ** 0.5:.2f}"'


def response_html(row: dict, scale: float) -> str:
    """The response with each token coloured; a stretch of tokens with one advantage ends with its number."""
    text, starts, parts = row["response"], row["starts"], []
    for t, (advantage, start, end) in enumerate(zip(row["token_advantage"], starts, [*starts[1:], len(text)])):
        if t == 0 or advantage != row["token_advantage"][t - 1]:
            parts.append(f'{"</span>" * (t > 0)}<span {shade(advantage, scale)} data-a="{signed(advantage)}">')
        last = row["ended"] and t == len(starts) - 1
        token = visible(text[start:end]) or f'<span class="mark">{"&#x25A0;" if last else "&middot;"}</span>'
        parts.append(f'<i title="{"end token" if last else f"token {t + 1}"}: {signed(advantage)}">{token}</i>')
    return f'<div class="response">{"".join(parts)}</span></div>'


def cell(text: str | None, right: bool, numbers: str) -> str:
    """A table cell: what a rollout wrote (None: nothing), whether it is right, and its numbers."""
    state = '<div class="dim">missing</div>' if text is None else f'<div class="state">{visible(text)}</div>'
    return f'<td{"" if right else " class=wrong"}>{state}<small>{"&check; right" if right else "&cross; wrong"}, {numbers}</small></td>'


def table_row(row: dict) -> str:
    """One rollout: a cell for each anchor, then the answer."""
    cells = []
    for i, (r, advantage, present) in enumerate(zip(row["step_rewards"], row["step_advantage"], row["mask"])):
        text = row["predicted"][i] if i < len(row["predicted"]) else None
        cells.append(cell(text, r > 0, f"r = {r:g}, A = {signed(advantage)}") if present
                     else '<td class="dim">its own run has no such anchor</td>')
    cells.append(cell(rewards.parse(row["response"]).answer, row["final_reward"] > 0,
                      f'r_final = {row["final_reward"]:g}, A_final = {signed(row["final_advantage"])}'))
    return f'<tr><th scope="row">rollout {row["rollout"]}</th>{"".join(cells)}</tr>'


def lucky(row: dict) -> bool:
    """A right answer at the end of a trace with a wrong step."""
    return row["final_reward"] > 0 and any(not r and present for r, present in zip(row["step_rewards"], row["mask"]))


def interest(group: list[dict]) -> tuple:
    """Sorts groups with something to see first: right answers on wrong traces, best with a step that is pushed down all the
    same; then those whose answers differ; then those where most steps are right for some rollouts only."""
    columns = [len(set(column)) > 1 for column in zip(*(row["step_rewards"] for row in group))]
    return (-max(lucky(row) + (lucky(row) and min(row["token_advantage"]) < 0) for row in group),
            len({row["final_reward"] for row in group}) < 2, -sum(columns) / max(1, len(columns)))


def lucky_credit(dumped: list[list[list[dict]]]) -> str:
    """Where the credit of wrong steps under a right answer goes, by whether some rollout of the group has the step right."""
    rows = [["wrong steps under a right answer", "number", "made less likely", "more likely", "neither"]]
    for name, known in (("some rollout of the group has the step right", True), ("none has: A_group is 0", False)):
        credit = [row["final_advantage"] + row["step_advantage"][i] for groups in dumped for group in groups for row in group if lucky(row)
                  for i, shown in enumerate(row["mask"]) if shown and row["step_rewards"][i] <= 0
                  and known == any(other["step_rewards"][i] > 0 for other in group)]
        shares = [sum(found) / len(credit) for found in zip(*((a < -1e-3, a > 1e-3, abs(a) <= 1e-3) for a in credit))] if credit else []
        rows.append([name, str(len(credit)), *(f"{100 * share:.0f}%" for share in shares)] + ["none"] * (3 - len(shares)))
    return "Rollouts of the first and of the last dumped step:\n\n" + markdown(rows)


def heading(row: dict) -> str:
    """Which rollout this is, and how it went at a glance."""
    marks = "".join("&check;" if r > 0 else "&cross;" if present else "&minus;" for r, present in zip(row["step_rewards"], row["mask"]))
    badges = ["right answer, wrong trace"] * lucky(row) + ["cut at the length limit"] * (not row["ended"])
    return (f'<h3>rollout {row["rollout"]} <small>steps {marks}, answer {"&check;" if row["final_reward"] > 0 else "&cross;"}</small>'
            f'{"".join(f" <span class=badge>{badge}</span>" for badge in badges)}</h3>')


def group_html(group: list[dict], scale: float, opened: bool) -> str:
    """The program, a table of all rollouts by anchors, and each response."""
    first, answers = group[0], sum(row["final_reward"] > 0 for row in group)
    note = "What each rollout predicted; the interpreter's states stand in the head of the table."
    if any("<input>" in row["response"] for row in group):
        note += " Those are of the example's own input; a rollout that commits to another one is held against that one's states."
    head = "".join(f'<th scope="col">step {i}<div class="state">{visible(f"{name}: {value}")}</div></th>'
                   for i, (name, value) in enumerate(first["true"], 1))
    return (f'<details{" open" if opened else ""}><summary>{visible(first["id"])}: {answers} of {len(group)} answers right, '
            f'{sum(map(lucky, group))} of them on a wrong trace</summary>'
            f'<h3>Prompt</h3><pre tabindex="0">{visible(first["prompt"])}</pre><h3>States and rewards</h3><p class="dim">{note}</p>'
            f'<div class="scroll" tabindex="0"><table><thead><tr><td></td>{head}<th scope="col">answer</th></tr></thead>'
            f'<tbody>{"".join(map(table_row, group))}</tbody></table></div>'
            f'<h3>Responses, coloured by advantage</h3>{"".join(heading(row) + response_html(row, scale) for row in group)}</details>')


def credit_page(dumped: list[list[list[dict]]], count: int) -> str:
    """The page: of each dumped step the `count` most telling groups, all on one colour scale."""
    chosen = [sorted(groups, key=interest)[:count] for groups in dumped]
    sizes = sorted(abs(a) for groups in chosen for group in groups for row in group for a in row["token_advantage"])
    scale = max(sizes[int(0.95 * (len(sizes) - 1))], 0.01)  # a few extreme tokens shall not bleach all others
    legend = "".join(f"<span {shade(part * scale, scale)}><i>{signed(part * scale)}</i></span>" for part in (-1, -0.5, -0.25, 0, 0.25, 0.5, 1))
    sections = "".join(f'<h2>Training step {some[0][0]["step"]} <small>{len(some)} of {len(groups)} groups, the most telling first</small></h2>'
                       + "".join(group_html(group, scale, group is some[0]) for group in some)
                       for some, groups in zip(reversed(chosen), reversed(dumped)))
    return (f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
            f'<title>Where the credit lands</title><style>{STYLE}</style></head><body><h1>Where the credit lands</h1>{INTRO}'
            f'<div class="legend">advantage: {legend} <span class="dim">and beyond; hover over a token for its own; &#x25A0; is the end token</span></div>'
            f'{sections}</body></html>\n')


# ---------------------------------------- credit.png

def cells_of(row: dict) -> list[tuple[str, str, bool, float]]:
    """(reasoning, state, right, advantage of its tokens) of each step, then of the answer."""
    response, answer = rewards.parse(row["response"]), row["final_advantage"]
    texts = [re.sub(r"<reasoning>|</reasoning>.*", "", row["response"][block.start:block.end], flags=re.DOTALL).strip() for block in response.blocks]
    steps = zip(texts, row["predicted"], row["step_rewards"], row["step_advantage"])
    return [*((text, state, r > 0, answer + a) for text, state, r, a in steps), ("answer", str(response.answer), row["final_reward"] > 0, answer)]


def drawable(group: list[dict]) -> bool:
    """True if a group of output prediction fits a small picture: three steps in every rollout, short states, all of it printable."""
    cells = [cell for row in group for cell in cells_of(row)]
    return ("<input>" not in group[0]["response"] and "".join(group[0]["prompt"].splitlines()).isprintable()
            and all(len(row["true"]) == len(row["predicted"]) == 3 for row in group)
            and all(len(state) <= 17 and (text + state).isprintable() for text, state, *_ in cells))


def draw_credit(dumped: list[list[list[dict]]], path: Path) -> bool:
    """The most telling drawable group, a row for each rollout, coloured as the page is; False if there is none."""
    groups = sorted((group for groups in dumped for group in groups if drawable(group)), key=interest)
    if not groups:
        return False
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.colors import LinearSegmentedColormap

    group, colours = groups[0], LinearSegmentedColormap.from_list("credit", ["#e88a2e", "white", "#5b94e3"])
    program, scale = group[0]["prompt"].splitlines(), max(abs(a) for row in group for a in row["token_advantage"]) or 1.0
    top = 0.19 * len(program) + 0.75  # inches: the program, then a head, then half an inch for each rollout
    height = top + 0.5 * len(group) + 0.05
    figure = plt.figure(figsize=(8, height))
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, 8), ylim=(height, 0))
    axes.set_axis_off()
    mono = {"family": "monospace", "fontsize": 9, "va": "center", "parse_math": False}
    small = mono | {"fontsize": 8}
    for number, line in enumerate(program):
        axes.text(0.1, 0.19 * number + 0.2, line, **mono)
    axes.text(7.9, 0.12, f"One prompt, {len(group)} rollouts (training step {group[0]['step']}).\nNumbers: the advantage of a block's tokens.\n"
              "Blue: made likelier. Orange: less likely.\nWith a reward for the answer alone, a whole\nrow would have the number of its last cell.",
              fontsize=9, va="top", ha="right", linespacing=1.5)
    right = [str(rewards.parse(row["response"]).answer) for row in group if row["final_reward"] > 0]
    answer = (right or [group[0]["true"][-1][1]])[0]  # as a literal, where a rollout has it
    heads = [f"{name}: {value}" for name, value in group[0]["true"]] + [answer]
    for i, head in enumerate(heads):
        axes.text(0.5 + 1.88 * i, top - 0.29, f"step {i + 1}, true:" if i < 3 else "answer, true:", fontsize=8, va="center", color="0.35")
        axes.text(0.5 + 1.88 * i, top - 0.11, head, **mono, weight="bold")
    for y, row in enumerate(group, 1):
        y = top + 0.5 * y
        axes.text(0.1, y - 0.25, f"#{row['rollout']}", fontsize=9, va="center", color="0.35")
        for i, (text, state, right, advantage) in enumerate(cells_of(row)):
            x, shade = 0.5 + 1.88 * i, (abs(advantage) / scale) ** 0.5 * (1 if advantage > 0 else -1)
            axes.add_patch(plt.Rectangle((x - 0.06, y - 0.48), 1.82, 0.46, facecolor=colours(0.5 + 0.5 * shade), edgecolor="0.7", linewidth=0.5))
            axes.text(x, y - 0.36, text if len(text) <= 19 else text[:18] + "\u2026", **small, color="0.2")
            axes.text(x, y - 0.14, f"{chr(0x2713 if right else 0x2717)} {state}", **mono, weight="bold" if right else "normal")
            axes.text(x + 1.72, y - 0.36, signed(advantage), **small, ha="right")
    figure.savefig(path, dpi=150)
    plt.close(figure)
    return True


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Table, curves and credit page of a run.")
    parser.add_argument("--sft", type=Path, help="folder of sft.py, for the curves")
    parser.add_argument("--rl", type=Path, help="folder of bigrpo.py, for the curves and the credit page")
    parser.add_argument("--results", type=Path, nargs="*", default=[], help="result files of evaluate.py, a row each")
    parser.add_argument("--labels", nargs="*", help="names of the rows (default: the files' names)")
    parser.add_argument("--groups", type=int, default=6, help="groups of rollouts shown of each step")
    parser.add_argument("--html", action="store_true", help="also write examples.html, to browse the responses of --results")
    parser.add_argument("--examples", type=int, default=300, help="responses of each result file in examples.html")
    parser.add_argument("--out", type=Path, default=Path("runs/report"), help="folder to write to")
    return parser


def main() -> None:
    parser = build_parser()
    args = parser.parse_args()
    stems = [path.stem for path in args.results]
    labels = [path.stem if stems.count(path.stem) == 1 else str(path.with_suffix("")) for path in args.results] if args.labels is None else args.labels
    if len(labels) != len(args.results) or min(args.groups, args.examples) < 1:
        parser.error("--labels needs one name for each of --results, and --groups and --examples at least 1")
    if not (args.results or args.sft or args.rl):
        parser.error("give --results, --sft or --rl")
    results = [parse_json(read(path), RESULT | ({"items": [ITEM]} if args.html else {}), str(path)) for path in args.results]
    sft, rl = ([row for _, row in read_jsonl(folder, "metrics.jsonl", kind)] for folder, kind in ((args.sft, SFT), (args.rl, RL)))
    dumped = read_groups(args.rl)
    try:
        args.out.mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        fail(f"--out {args.out}: {problem.strerror}")
    parts = [results_table(results, args.results, labels), paper_tables(results), faithfulness_table(results, labels)] if labels else []
    parts += draw_results(results, labels, args.out)
    if sft or rl or not labels:
        draw_curves(sft, rl, args.out / "curves.png")
        parts.append("![learning curves](curves.png)")
    if dumped:
        write_page(args.out / "credit.html", credit_page(dumped, args.groups))
        parts.append("[Where the credit lands](credit.html): rollouts with each token coloured by its advantage")
        parts += ["![Where the credit lands](credit.png)"] * draw_credit(dumped, args.out / "credit.png")
        parts.append(lucky_credit(dumped))
    else:
        print("credit.html left out: no rollouts (--rl)", file=sys.stderr)
    if args.html and labels:
        write_page(args.out / "examples.html", browse.page(results, labels, args.examples))
        parts.append("[What the model said at each step](examples.html): responses beside the interpreter's states")
    report = "\n\n".join(filter(None, parts)) + "\n"
    (args.out / "report.md").write_text(report, encoding="utf-8")
    numbers = [{"label": label, "file": str(path)} | {name: value for name, value in result.items() if name != "items"}
               for label, path, result in zip(labels, args.results, results)]
    (args.out / "report.json").write_text(json.dumps({"results": numbers, "paper": {"columns": list(COLUMNS), "rows": PAPER}}, indent=1))
    print(report + f"\nwritten to {args.out}")


def write_page(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8", errors="xmlcharrefreplace")


if __name__ == "__main__":
    main()
