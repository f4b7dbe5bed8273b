"""Evaluation (section 4): does the model get the answer, and does it get there faithfully?

    python evaluate.py --model runs/rl/model --data runs/toy/test_examples.jsonl --out runs/eval/rl.json
    python evaluate.py compare runs/eval/sft.json runs/eval/rl.json
    python evaluate.py score --benchmark cruxeval-output --data cruxeval.jsonl --generations gens.json --out scores.json

The first form samples a response to each example and reports four percentages (the paper's Table 6, extended), each with a
95% interval from a bootstrap over examples:

    final accuracy              the answer is right
    step accuracy               anchors whose predicted state equals the interpreter's, missing ones counted as wrong
    gap                         final minus step
    right answer, wrong trace   of the examples with a right answer, those with at least one wrong anchor

`compare` gives the paired bootstrap of the difference of two result files on the same examples. `score` applies CRUXEval's
official rule to a file of generations, {"sample_0": ["...", ...], ...}, made by any model: the program and
`assert {output} == {generation}` run without an exception. A program's assertion can be fooled by the generation in principle
(it is spliced in as code); our own training reward never is, because there the model's text is only ever data.
"""

import argparse
import json
import sys
import time
from math import comb
from pathlib import Path

import numpy as np

import policy
import rewards
import sandbox

METRICS = {"final": "final accuracy", "step": "step accuracy", "gap": "gap", "wrong_trace": "right answer, wrong trace"}


# ---------------------------------------------------------------------------------------------------------------------
# Numbers


def percentages(right: np.ndarray, steps: np.ndarray, anchors: np.ndarray) -> dict[str, np.ndarray]:
    """The four percentages, per row of weights: right [.., n] 0/1, steps [.., n] right anchors, anchors [.., n] all anchors."""
    final, step = 100 * right.mean(-1), 100 * steps.sum(-1) / anchors.sum(-1)
    lucky = (right * (steps < anchors)).sum(-1)
    with np.errstate(invalid="ignore"):  # no right answer at all: nan, written as null
        return {"final": final, "step": step, "gap": final - step, "wrong_trace": 100 * lucky / right.sum(-1)}


def columns(items: list[dict]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(right, steps, anchors), each [n], of the items of a result file."""
    return (np.array([item["final"] for item in items], float), np.array([sum(item["steps"]) for item in items], float),
            np.array([len(item["steps"]) for item in items], float))


def resamples(count: int, seed: int, draws: int = 2000) -> np.ndarray:
    """Indices of bootstrap resamples, [draws, count]."""
    return np.random.default_rng(seed).integers(count, size=(draws, count))


def interval(values: np.ndarray) -> list[float | None]:
    """The 95% interval of bootstrap values, as a list for JSON."""
    values = values[np.isfinite(values)]
    return [float(x) for x in np.percentile(values, [2.5, 97.5])] if len(values) else [None, None]


def summarize(items: list[dict], seed: int) -> dict:
    """{metric: {"value": percent or null, "interval": [low, high]}} of the items."""
    data = columns(items)
    value, spread = percentages(*data), percentages(*(column[resamples(len(items), seed)] for column in data))
    return {name: {"value": float(value[name]) if np.isfinite(value[name]) else None, "interval": interval(spread[name])}
            for name in METRICS}


def pass_at_k(n: int, c: int, k: int) -> float:
    """1 - C(n-c, k) / C(n, k): the chance that k of n samples, c of them right, hold a right one."""
    return 1 - comb(n - c, k) / comb(n, k)


# ---------------------------------------------------------------------------------------------------------------------
# python evaluate.py --model ...


def run(args) -> None:
    """Sample, score, report, write the result file."""
    from tqdm import tqdm

    examples = policy.read_jsonl(args.data, ("id", "prompt", "anchors", "output", "task"))[:args.limit]
    model, tokenizer = policy.load(args.model)
    prompts = [policy.encode_prompt(tokenizer, example["prompt"]) for example in examples]
    samples = [policy.Sample([], [], False)] * len(prompts)  # a prompt that does not fit the context is a wrong answer
    fitting = [index for index, prompt in enumerate(prompts) if policy.fits(model, prompt, args.max_tokens)]
    start = time.time()
    with tqdm(total=len(fitting), desc=f"evaluate {args.model}") as bar:
        found = policy.sample(model, tokenizer, [prompts[index] for index in fitting], 1, args.max_tokens, args.temperature,
                              [(args.seed, index) for index in fitting], progress=bar.update)
    for index, (sample,) in zip(fitting, found):
        samples[index] = sample
    texts = [policy.decode(tokenizer, sample.ids)[0] for sample in samples]
    scores = rewards.score_many(texts, examples)
    items = [{"id": example["id"], "final": final, "steps": steps, "tokens": len(sample.ids), "ended": sample.ended, "response": text}
             for example, text, sample, steps, final in zip(examples, texts, samples, scores[0], scores[2])]
    result = {"settings": {name: str(value) for name, value in vars(args).items()}, "n": len(items), "summary": summarize(items, args.seed),
              "response_tokens": float(np.mean([item["tokens"] for item in items])), "cut": sum(not item["ended"] for item in items), "too_long": len(prompts) - len(fitting),
              "seconds": time.time() - start, "items": items}
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(result))
    print(f"{args.model} on {len(items)} examples of {args.data}, temperature {args.temperature:g}")
    for name, label in METRICS.items():
        print(f"  {label:<26}{show(result['summary'][name])}")
    print(f"  {result['cut']} responses cut at {args.max_tokens} tokens, {result['too_long']} prompts too long for the context")


def show(metric: dict) -> str:
    """A percentage and its interval as text."""
    low, high = metric["interval"]
    return "none" if metric["value"] is None else f"{metric['value']:5.1f}  [{low:.1f}, {high:.1f}]"


# ---------------------------------------------------------------------------------------------------------------------
# python evaluate.py compare A B


def compare(args) -> None:
    """Print B - A per metric with the 95% interval of the paired bootstrap over examples."""
    first, second = read_result(args.first), read_result(args.second)
    by_id = {item["id"]: item for item in second["items"]}
    if by_id.keys() != {item["id"] for item in first["items"]}:
        policy.fail(f"{args.first} and {args.second} are not about the same examples")
    pairs = columns(first["items"]), columns([by_id[item["id"]] for item in first["items"]])
    draw = resamples(len(first["items"]), args.seed)
    values, spreads = zip(*((percentages(*data), percentages(*(column[draw] for column in data))) for data in pairs))
    print(f"{args.second} minus {args.first}, {len(draw[0])} examples")
    for name, label in METRICS.items():
        low, high = interval(spreads[1][name] - spreads[0][name])
        print(f"  {label:<26}{values[1][name] - values[0][name]:+5.1f}  [{low:+.1f}, {high:+.1f}]")


def read_json(path: Path):
    """The content of a JSON file; ends the program if there is none."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        policy.fail(f"{path}: {error.strerror}")
    except ValueError as error:
        policy.fail(f"{path}: {error}")


def read_result(path: Path) -> dict:
    """A result file of `run`."""
    result = read_json(path)
    if not isinstance(result, dict) or not result.get("items"):
        policy.fail(f"{path}: not a result of evaluate.py")
    return result


# ---------------------------------------------------------------------------------------------------------------------
# python evaluate.py score


def skipped(benchmark: str, row: dict, generation: str) -> bool:
    """CRUXEval's rule for generations that are wrong unseen: no call of f, or the very call whose result is asked for."""
    if benchmark == "cruxeval-input":
        return "f(" not in generation
    return f"f({row['input']})" in generation


def score(args) -> None:
    """Official scores of a generations file; the counts of skipped generations stay in n, as in the published score files."""
    from tqdm import tqdm

    rows = {row["id"]: row for row in policy.read_jsonl(args.data, ("id", "code", "input", "output"))}
    generations = read_generations(args.generations, rows)
    pairs = [(rows[name], text) for name, texts in generations.items() for text in texts]
    programs = (f"{row['code']}\nassert {row['output']} == {text}" for row, text in pairs if not skipped(args.benchmark, row, text))
    traces = sandbox.trace_many(((program, "None") for program in programs), timeout=3.0)
    verdicts = iter([not skipped(args.benchmark, row, text) and next(traces).status == "ok" for row, text in tqdm(pairs, desc="score")])
    raw = {name: [next(verdicts) for _ in texts] for name, texts in generations.items()}
    at = {k: 100 * float(np.mean([pass_at_k(len(v), sum(v), k) for v in raw.values()])) if min(map(len, raw.values())) >= k else None
          for k in (1, 5)}
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps({"pass_at_1": at[1], "pass_at_5": at[5], "raw_scored_generations": raw}))
    print(f"{args.benchmark}: pass@1 {at[1]:.1f}" + ("" if at[5] is None else f", pass@5 {at[5]:.1f}") +
          f" ({len(raw)} of {len(rows)} problems, {len(pairs)} generations)")


def read_generations(path: Path, rows: dict) -> dict[str, list[str]]:
    """{id: [generation, ...]} of a file in CRUXEval's format, checked against the benchmark's ids."""
    generations = read_json(path)
    if not isinstance(generations, dict) or not generations:
        policy.fail(f"{path}: expected an object of id -> list of generations")
    for name, texts in generations.items():
        if name not in rows:
            policy.fail(f"{path}: {name!r} is not a problem of the benchmark")
        if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
            policy.fail(f"{path}: {name!r} is not a non-empty list of strings")
    return generations


# ---------------------------------------------------------------------------------------------------------------------


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Evaluate a model (run, the default), compare two results, or score a file of generations.",
                                     epilog="Options of the default: python evaluate.py run --help")
    commands = parser.add_subparsers(dest="action", required=True)
    add = commands.add_parser("run", help="sample, score and report").add_argument
    add("--model", default="runs/rl/model", help="checkpoint folder or Hugging Face id")
    add("--data", type=Path, default=Path("runs/toy/test_examples.jsonl"), help="examples, JSONL from augment.py")
    add("--out", type=Path, default=Path("runs/eval/result.json"), help="result file")
    add("--limit", type=policy.positive(int), help="use only the first examples")
    add("--temperature", type=float, default=0.0, help="0 is greedy")
    add("--max-tokens", type=policy.positive(int), default=256, help="length limit of a response")
    add("--seed", type=int, default=0)
    add = commands.add_parser("compare", help="paired bootstrap of the difference of two result files").add_argument
    add("first", type=Path)
    add("second", type=Path)
    add("--seed", type=int, default=0)
    add = commands.add_parser("score", help="a benchmark's official score of a file of generations").add_argument
    add("--benchmark", required=True, choices=["cruxeval-output", "cruxeval-input"])
    add("--data", type=Path, required=True, help="the benchmark's JSONL")
    add("--generations", type=Path, required=True, help='JSON: {"sample_0": ["...", ...], ...}')
    add("--out", type=Path, required=True, help="scores, JSON")
    return parser


def main() -> None:
    words = sys.argv[1:]
    if not words or words[0].startswith("--") and words[0] != "--help":
        words = ["run", *words]
    args = build_parser().parse_args(words)
    {"run": run, "compare": compare, "score": score}[args.action](args)


if __name__ == "__main__":
    main()
