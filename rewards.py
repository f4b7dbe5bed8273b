"""Rewards: read a response and compare its states with the interpreter's (section 3.3, Eqs. 8-9).

    r_i     = 1 if the i-th predicted state equals the i-th true state, else 0      (Eq. 8, exact text)
    r_final = 1 if the answer is right, else 0                                      (Eq. 9)

Output prediction compares with the states stored in the example. Input prediction commits to an input first, and the true
states are those of a run on that input, because the example's own input is only one of the right ones.

    import rewards
    steps, mask, final = rewards.score(response, example)                  # n floats, n booleans, 0.0 or 1.0
    steps, masks, finals = rewards.score_many(responses, examples)         # the same, batched; a list of each

Departures from the paper, and decisions where it is silent:
1. Blocks match by position only, name and value both exact: a block left out in the middle makes those after it wrong.
2. Of the text between two tags at most one newline at either end is removed, nothing else. The first <answer> ends the
   response. The first <input> counts only if no <print> stands before it: a commitment made after the first state is none.
3. Two outputs are equal if both are Python literals of the same type and value, recursively: 1, True and 1.0 differ; sets
   and dicts compare without order. `nan` and `inf` are no literals, so they equal nothing; -0.0 equals 0.0.
4. Input prediction is right if the program, run on <input>, gives the example's output, and <answer> repeats <input>
   exactly. All step rewards are 0 unless the program gives that output: otherwise a policy would commit to the easiest
   input and collect every step.
5. Input prediction, width: rewards and mask have the example's n entries. Positions beyond the rollout's own trace are
   masked (False). An input that cannot be run has no trace of its own: all zeros, nothing masked.

The model's text is parsed here, bounded in length, and never evaluated; a committed input runs in sandbox.py only.
"""

import ast
import re
import warnings
from dataclasses import dataclass, field

import sandbox

TAG = re.compile(r"<(/?)(reasoning|print|input|answer)>")
LITERAL_LIMIT = 1 << 14  # characters of a literal; a longer one equals nothing
PARSER_ERRORS = (SyntaxError, ValueError, TypeError, MemoryError, RecursionError)  # all that ast raises on bad text


# ---------------------------------------------------------------------------------------------------------------------
# Reading a response


@dataclass(frozen=True)
class Block:
    """One predicted state: its text, "NAME: value", and the span [start, end) of its <reasoning> and <print>."""

    text: str
    start: int
    end: int


@dataclass
class Response:
    """What a response says: its blocks in order, the answer and the committed input (None where there is none)."""

    blocks: list[Block] = field(default_factory=list)
    answer: str | None = None
    input: str | None = None


def elements(response: str):
    """Yield (name, text, end) of the elements <name>text</name>, left to right and without overlap.

    The same as re.finditer(r"<(reasoning|print|input|answer)>(.*?)</\\1>", response, re.DOTALL), in linear time however
    many tags are left open.
    """
    last = {name: response.rfind(f"</{name}>") for name in ("reasoning", "print", "input", "answer")}
    name, start = None, 0
    for tag in TAG.finditer(response):
        closing, found = tag.groups()
        if name is None and not closing and last[found] >= tag.end():
            name, start = found, tag.end()
        elif closing and found == name:
            yield name, response[start:tag.start()].removeprefix("\n").removesuffix("\n"), tag.end()
            name = None


def parse(response: str) -> Response:
    """Read a response of either task; never raises. A block's span begins where the block before it, or </input>, ends."""
    result, start = Response(), 0
    for name, text, end in elements(response):
        if name == "answer":
            result.answer = text
            break
        if name == "print":
            result.blocks.append(Block(text, start, end))
            start = end
        elif name == "input" and result.input is None and not result.blocks:
            result.input = text
            start = end
    return result


# ---------------------------------------------------------------------------------------------------------------------
# Literals


def expression(text: str) -> ast.expr:
    """The AST of an expression; raises one of PARSER_ERRORS for anything else and for an overlong one."""
    if len(text) > LITERAL_LIMIT:
        raise ValueError(f"longer than {LITERAL_LIMIT} characters")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of invalid escapes in a model's strings
        return ast.parse(text.lstrip(" \t"), mode="eval").body


def literal(text: str):
    """The value of a Python literal; raises one of PARSER_ERRORS for anything else."""
    return ast.literal_eval(expression(text))


def typed(value):
    """A hashable stand-in: two are equal if and only if the values have the same types and are equal, recursively."""
    if isinstance(value, dict):
        return dict, frozenset((typed(key), typed(item)) for key, item in value.items())
    if isinstance(value, set):
        return set, frozenset(map(typed, value))
    if isinstance(value, (list, tuple)):
        return type(value), tuple(map(typed, value))
    return type(value), value


def same_literal(a: str, b: str) -> bool:
    """True if both texts are literals of the same type and value, recursively. False for whatever cannot be parsed."""
    try:
        return typed(literal(a)) == typed(literal(b))
    except PARSER_ERRORS:
        return False


def literal_arguments(text: str) -> bool:
    """True if the text is an argument list made of literals only, such as `3, key='ab'`."""
    try:
        call = expression(f"f({text}\n)")
        if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name):
            return False
        for argument in [*call.args, *(keyword.value for keyword in call.keywords)]:
            ast.literal_eval(argument)
        return all(keyword.arg for keyword in call.keywords)
    except PARSER_ERRORS:
        return False


# ---------------------------------------------------------------------------------------------------------------------
# Rewards


def entry(call: str) -> str:
    """The name of the function that a call such as `f(3)` calls."""
    return call.partition("(")[0].strip()


def step_rewards(response: Response, states: list, n: int) -> list[float]:
    """Eq. 8: [n] floats; states are (name, value) pairs, and what lies beyond their end is 0."""
    pairs = list(zip(response.blocks, states))[:n]
    rewards = [float(block.text == f"{name}: {value}") for block, (name, value) in pairs]
    return rewards + [0.0] * (n - len(rewards))


def score_output(response: Response, example: dict) -> tuple[list[float], list[bool], float]:
    """Output prediction: (step rewards [n], mask [n], final)."""
    n = len(example["anchors"])
    final = response.answer is not None and same_literal(response.answer, example["output"])
    return step_rewards(response, example["anchors"], n), [True] * n, float(final)


def score_input(response: Response, example: dict, trace) -> tuple[list[float], list[bool], float]:
    """Input prediction: (step rewards [n], mask [n], final). trace: of the committed input, None if it cannot run."""
    n = len(example["anchors"])
    if trace is None or trace.status != "ok":
        return [0.0] * n, [True] * n, 0.0
    states = [(name, value) for _, name, value in trace.anchors]
    mask = [i < len(states) for i in range(n)]
    if not same_literal(trace.value, example["output"]):
        return [0.0] * n, mask, 0.0
    return step_rewards(response, states, n), mask, float(response.answer == response.input)


def traces_of_inputs(responses: list[Response], examples: list[dict]) -> list:
    """The run on each response's committed input, None where there is none; one sandbox call per program."""
    groups, traces = {}, [None] * len(responses)
    for i, (response, example) in enumerate(zip(responses, examples)):
        if example["task"] == "input" and response.input is not None and literal_arguments(response.input):
            groups.setdefault((example["instrumented"], entry(example["call"])), []).append(i)
    for (program, name), indices in groups.items():
        found = sandbox.trace_inputs(program, name, [responses[i].input for i in indices])
        for i, trace in zip(indices, found, strict=True):
            traces[i] = trace
    return traces


def score_parsed(responses: list[Response], examples: list[dict], traces: list) -> tuple[list[list[float]], list[list[bool]], list[float]]:
    """score_many of responses that are parsed and whose committed inputs have run; traces: of traces_of_inputs."""
    scores = [score_output(response, example) if example["task"] == "output" else score_input(response, example, trace)
              for response, example, trace in zip(responses, examples, traces, strict=True)]
    return [s[0] for s in scores], [s[1] for s in scores], [s[2] for s in scores]


def score_many(responses: list[str], examples: list[dict]) -> tuple[list[list[float]], list[list[bool]], list[float]]:
    """Score responses[k] against examples[k], of either task: (step rewards, masks, finals), a list of each."""
    parsed = [parse(response) for response in responses]
    return score_parsed(parsed, examples, traces_of_inputs(parsed, examples))


def score(response: str, example: dict) -> tuple[list[float], list[bool], float]:
    """(step rewards [n], mask [n], final) of one response."""
    steps, masks, finals = score_many([response], [example])
    return steps[0], masks[0], finals[0]


def reward_budget(step_rewards: list[float], final: float) -> float:
    """The paper's way to report a rollout, in [0, 2]: 1.0 shared by the anchors, 1/n each, and 1.0 for the answer."""
    return sum(step_rewards) / max(len(step_rewards), 1) + final
