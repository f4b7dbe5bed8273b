"""A language model as the teacher (section 3.2): it writes P' and, where asked, the reasoning; nothing of it is trusted.

augment.py comes here where --teacher or --teacher-url asks for a model. The model's program replaces the rules teacher's only if

1. its text shows anchors of the right form and place: the same signature and other code, no print but P's own and
   print(f'NAME: {NAME}'), none in a loop but return_val's, one before each return, no statement of P changed or left out but
   one-liners that may be unrolled, and none added but for those;
2. its runs show nothing else: on the given call, on empty arguments and on three changed ones (there must be one that is another call) it
   returns, prints and raises what P does; the given call prints 1 to --max-anchors states, the same ones under another hash seed, the last of them
   the result.

Its reasoning is kept only if the response earns every reward. What fails is asked for once more, with what was wrong.
Everything is counted, and so is how often the model prints the same states as the rules teacher.
"""

import ast
import concurrent.futures
import dataclasses
import functools
import itertools
import os
import random
import re
from collections import Counter

import rewards
import sandbox
from augment import (COMPREHENSIONS, LEVELS, UNWRITABLE, BadInput, Candidate, Recipe, Report, anchor_name, anchored_loops, batched, bodies, element,
                     entry_function, levels, own, perfect, printed, returned, statements, suites, writable)

TEACH = """\
Add print statements to the function `{entry}` of the Python program at the end, so that a run shows how its result comes about.

- Each added line is print(f'NAME: {NAME}'), with the name of one variable in both places and nothing else in the string.
- After each assignment outside loops that matters, print the variable that it assigns.
- Print nothing inside a for or while loop. Instead print, right after the loop, what the loop changed.
- Before each return of a value, inside loops too, assign the value to return_val and print that; then return it.
- An expression may be split into several assignments where a value inside it is worth showing. Change nothing else: for any
  arguments the function must return and print what it did before. Print only variables that have a value at that place.
- A call should run through 1 to {max_anchors} of the added lines.

For example,
```python
def f(words, limit):
    total = 0
    for word in words:
        total += len(word)
    return min(total, limit) * 2
```
becomes
```python
def f(words, limit):
    total = 0
    print(f'total: {total}')
    for word in words:
        total += len(word)
    print(f'total: {total}')
    smaller = min(total, limit)
    print(f'smaller: {smaller}')
    return_val = smaller * 2
    print(f'return_val: {return_val}')
    return return_val
```

Reply with the whole changed program in one code block, and nothing else. It will be called as {call}

```python
{program}
```
"""
EXPLAIN = """\
{prompt}

You are given the solution, to show how it is found. The steps and the answer are

{solution}

Write the whole reply. Copy these tags exactly, in this order, and before each put a <reasoning> that derives it from what is
known by then, in one or two short sentences, as if you had not seen the solution.
"""
AGAIN = """

You replied before:
{reply}

That was rejected: {problem}
Correct it.
"""
UNROLLED = (ast.Call, ast.BinOp, ast.BoolOp, ast.Compare, ast.IfExp, ast.Subscript, *COMPREHENSIONS)  # where values lie inside
BATCH = 64            # requests that a teacher model is given together
REPLY_TOKENS = 2048
LONGEST = 8000        # characters of a rejected reply that the model is shown again
FAILURES = 20         # requests that may fail in a row, each after its retries, before the run stops
MALFORMED = (ValueError, TypeError, AttributeError, LookupError)  # a reply that is no JSON, or JSON of another shape


def endpoint(url: str, model: str | None, concurrency: int, timeout: float = 120.0, retries: int = 5):
    """(ask, model) for an OpenAI-compatible endpoint; without a model the first that it serves.

    The openai client repeats a request after a time-out, a broken connection, 408, 409, 429 and 5xx, with back-off. Its key is
    read from OPENAI_API_KEY and shown nowhere.
    """
    try:
        import openai
    except ImportError:
        raise BadInput("--teacher-url needs the openai client: pip install openai") from None
    key, failed = os.environ.get("OPENAI_API_KEY") or "none", []
    client = openai.OpenAI(base_url=url, api_key=key, timeout=timeout, max_retries=retries)

    def told(problem: Exception) -> str:
        return f"{type(problem).__name__}: {problem}".splitlines()[0][:300].replace(key, "***")

    def one(prompt: str) -> str | Exception:
        try:
            reply = client.chat.completions.create(model=model, temperature=0, max_tokens=REPLY_TOKENS,
                                                   messages=[{"role": "user", "content": prompt}])
            failed.clear()
            text = reply.choices[0].message.content
            return text if isinstance(text, str) else ValueError("no text")
        except (openai.OpenAIError, *MALFORMED) as problem:
            failed.append(problem)
            if len(failed) >= FAILURES:
                raise BadInput(f"--teacher-url {url}: {FAILURES} requests in a row failed, the last: {told(problem)}") from None
            return problem

    def ask(prompts: list[str]) -> list[str | Exception]:
        pool = concurrent.futures.ThreadPoolExecutor(concurrency)
        try:
            return list(pool.map(one, prompts))
        finally:
            pool.shutdown(cancel_futures=True)

    try:
        model = model or client.models.list().data[0].id
    except (openai.OpenAIError, *MALFORMED) as problem:
        raise BadInput(f"--teacher-url {url}: the list of models: {told(problem)}") from None
    return ask, model


def local(path: str):
    """ask for a chat model of our own: greedy, by vLLM where it is installed and there is a GPU."""
    import policy

    kind = policy.choose_sampler("auto")
    model, tokenizer = policy.load(path, weights=kind == "transformers")
    sampler = policy.make_sampler(kind, path, model, tokenizer, model.config.max_position_embeddings)

    def ask(prompts: list[str]) -> list[str | Exception]:
        ids = policy.encode_prompts(tokenizer, prompts)
        tokens = min(REPLY_TOKENS, model.config.max_position_embeddings // 2)
        chosen = [k for k, prompt in enumerate(ids) if policy.fits(model, prompt, tokens)]
        samples = sampler([ids[k] for k in chosen], 1, tokens, 0.0, [(k,) for k in chosen])
        replies = dict(zip(chosen, (policy.decode(tokenizer, one.ids, one.ended)[0] for [one] in samples)))
        return [replies.get(k, ValueError("the prompt does not fit")) for k in range(len(prompts))]

    return ask


def ask_twice(ask, prompts: list[str], checks: list, what: str, report: Report) -> list:
    """What checks[k] makes of the reply to prompts[k]; where that is a complaint (a text), the model gets one more chance."""
    results = [None] * len(prompts)
    waiting, asked = list(range(len(prompts))), prompts
    report.teacher[f"{what}: asked"] += len(prompts)
    for attempt in ("first", "second"):
        again = {}
        for k, reply in zip(waiting, ask(asked), strict=True):
            if isinstance(reply, Exception):
                results[k], again[k] = f"no reply ({type(reply).__name__})", prompts[k]
            else:
                results[k] = checks[k](reply)
                again[k] = prompts[k] + AGAIN.replace("{problem}", str(results[k])).replace("{reply}", reply[:LONGEST])
            report.teacher[f"{what}: accepted at the {attempt} try"] += not isinstance(results[k], str)
        waiting = [k for k in waiting if isinstance(results[k], str)]
        asked = [again[k] for k in waiting]
    for k in waiting:
        report.teacher[f"{what}: rejected: {results[k].partition(':')[0]}"] += 1
    return results


def taught(items, recipe: Recipe, report: Report):
    """Yield the candidates with the teacher model's programs where these hold, else with the rules teacher's or not at all."""
    for batch in batched(items, BATCH):
        runs = list(sandbox.trace_many((item.code, item.call) for item in batch))
        sound = [item for item, run in zip(batch, runs) if run.status == "ok"]  # the others are dropped later
        prompts = [TEACH.replace("{entry}", rewards.entry(item.call)).replace("{max_anchors}", str(recipe.max_anchors))
                   .replace("{call}", item.call).replace("{program}", item.code.strip("\n")) for item in sound]
        checks = [functools.partial(verified, item, max_anchors=recipe.max_anchors) for item in sound]
        results = iter(ask_twice(recipe.ask, prompts, checks, "anchors", report))
        for item, run in zip(batch, runs):
            result = next(results) if run.status == "ok" else item
            if not isinstance(result, str):
                report.teacher["anchors: the same as the rules teacher's"] += result.agrees or 0
                yield result
            elif recipe.on_reject == "rules":
                yield item
            else:
                report.drop(f"the teacher's program: {result.partition(':')[0]}", item.id)


def verified(item: Candidate, reply: str, max_anchors: int) -> Candidate | str:
    """The candidate with the program in the teacher's reply, or what is wrong with that, `kind: details`."""
    fenced = re.findall(r"^```[^\n]*\n(.*?)(?:^```|\Z)", reply, re.DOTALL | re.MULTILINE)
    program = (fenced[-1] if fenced else reply).strip("\n")
    try:
        before, after = ast.parse(item.code), ast.parse(program)
    except rewards.PARSER_ERRORS as error:
        return f"it does not parse: {error}"
    if levels(after) > LEVELS:
        return "nested too deeply"
    if not writable(after):
        return UNWRITABLE
    problem = misshapen(before, after, rewards.entry(item.call))
    if problem:
        return problem
    function = entry_function(after, rewards.entry(item.call))
    lines = [function.lineno, *(node.lineno for node in statements(function.body))]
    if len(set(lines)) < len(lines):  # snapshots and reasoning want each statement on a line of its own
        program = ast.unparse(after)
    return executed(item, program, max_anchors)


def misshapen(before: ast.Module, after: ast.Module, name: str) -> str | None:
    """What the teacher's program has that it must not have, as far as its text shows; None if all is well."""
    old, new = entry_function(before, name), entry_function(after, name)
    if new is None or signature(old) != signature(new):
        return f"another signature: `{name}` must keep its name, parameters and decorators"
    if [ast.dump(node) for node in before.body if node is not old] != [ast.dump(node) for node in after.body if node is not new]:
        return f"other code was changed: keep all that is outside `{name}`"
    sites = {id(node.value) for node in statements(new.body) if anchor_name(node)}
    prints = Counter(ast.unparse(node) for node in ast.walk(old) if is_print(node))
    prints.subtract(ast.unparse(node) for node in ast.walk(new) if is_print(node) and id(node) not in sites)
    if foreign := [text for text, count in prints.items() if count < 0]:
        return f"a print of another form: write print(f'NAME: {{NAME}}') instead of {foreign[0]}"
    if anchored_loops(after):
        return "a print inside a loop: only return_val may be printed there"
    for body in bodies(new):
        for previous, statement in itertools.pairwise([None, *body]):
            if isinstance(statement, ast.Return) and statement.value and (not previous or anchor_name(previous) != "return_val"):
                return f"a return without its print: print return_val right before line {statement.lineno}"
    kept, found = heads(old), heads(new)
    if gone := [text for text, unrolls in kept - found if not unrolls]:
        return f"a statement was changed or left out: {gone[0]}"
    if kept <= found and kept != found:
        return f"a statement was added: {next(iter(found - kept))[0]}"
    return None


def signature(function: ast.FunctionDef) -> str:
    return " ".join(map(ast.dump, [function.args, *function.decorator_list]))


def is_print(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"


def heads(function: ast.FunctionDef) -> Counter:
    """(source, may it be unrolled?) of a function's statements, of compound ones the first line; anchored returns as in P."""
    found, previous = Counter(), None
    for node in statements(function.body):
        name, node = anchor_name(node), ast.Return(returned(node)) if returned(node) else node
        text = ast.unparse(node)
        if suites(node):
            found[text.partition("\n")[0], False] += 1
        elif not name and text != "return return_val" and not (isinstance(node, ast.Return) and previous == "return_val"):
            found[text, any(isinstance(inner, UNROLLED) for inner in own(node))] += 1
        previous = name
    return found


def mutated(call: str, count: int = 3) -> list[str]:
    """The call with empty arguments and with `count` other ones, of the same types, as far as these are other calls; what is no literal stays."""
    chance, calls = random.Random(call), []
    for change in [lambda value: value if value is None else type(value)(), *[lambda value: other(value, chance)] * count]:
        node = ast.parse(call, mode="eval").body
        node.args = [replaced(value, change) for value in node.args]
        node.keywords = [ast.keyword(keyword.arg, replaced(keyword.value, change)) for keyword in node.keywords]
        calls.append(ast.unparse(node))
    return [text for text in dict.fromkeys(calls) if text != ast.unparse(ast.parse(call, mode="eval"))]


def replaced(node: ast.expr, change) -> ast.expr:
    """A literal with its value changed; anything else as it is."""
    try:
        return ast.parse(repr(change(ast.literal_eval(node))), mode="eval").body
    except ValueError:
        return node


LEAST = {str: "a", bytes: b"a", list: [0], tuple: (0,), set: {0}, dict: {"a": 0}}  # what an empty value becomes


def other(value, chance: random.Random):
    """Another value of the same type, near the given one."""
    if not value and type(value) in LEAST:
        return LEAST[type(value)]
    if isinstance(value, bool):
        return not value
    if isinstance(value, (int, float)):
        return value + chance.choice([-2, -1, 1, 2])
    if isinstance(value, (str, bytes)):
        cut = chance.randrange(len(value) + 1)
        return value[cut:] + chance.choice([value[:cut], value[:1], value[:0]])
    if isinstance(value, dict):
        items = [(key, other(item, chance)) for key, item in value.items()]
        return dict(items[chance.randrange(2):])
    if isinstance(value, (list, tuple, set)):
        items = [other(item, chance) for item in (sorted(value, key=repr) if isinstance(value, set) else value)]
        return type(value)(items[chance.randrange(2):] + items[:chance.randrange(2)])
    return value


def executed(item: Candidate, program: str, max_anchors: int) -> Candidate | str:
    """The candidate with the teacher's program, or how its runs show that it is not the same program with anchors."""
    calls = [item.call, *mutated(item.call)]
    if len(calls) == 1:
        return f"it cannot be checked on another call: {item.call}"
    runs = list(sandbox.trace_many((code, call) for call in calls for code in (item.code, program)))
    for call, old, new in zip(calls, runs[::2], runs[1::2]):
        results = [(run.status, run.value, run.stdout, run.error.partition(":")[0]) for run in (old, new)]
        if old.status in ("ok", "error") and results[0] != results[1]:
            was, now = (f"{run.value or run.error or run.status}, printed {run.stdout!r}" for run in (old, new))
            return f"another result: {call} gives {now} instead of {was}"
    shown, value = printed(runs[1]), runs[1].value
    if not 1 <= len(shown) <= max_anchors:
        return f"not 1 to {max_anchors} prints: {item.call} runs through {len(shown)}"
    if shown[-1][0] == "return_val" and shown[-1][1] != value and not rewards.same_literal(repr(shown[-1][1]), value):
        return f"return_val is not what is returned: {shown[-1][1]} instead of {value}"
    if sandbox.agreed(runs[1], sandbox.trace(program, item.call, hash_seed=1)).status != "ok":
        return "not deterministic: the printed values differ between two runs"
    rules = sandbox.trace(item.instrumented, item.call)
    return dataclasses.replace(item, instrumented=program, agrees=printed(rules) == shown)


def explained(examples, recipe: Recipe, report: Report):
    """Yield (candidate, example) with the teacher model's reasoning where it earns every reward, else as it was or not at all."""
    for batch in batched(examples, BATCH):
        prompts = []
        for _, example in batch:
            tags = [element(name, text) for name, text, _ in rewards.elements(example["response"]) if name != "reasoning"]
            prompts.append(EXPLAIN.replace("{solution}", "\n".join(tags)).replace("{prompt}", example["prompt"]))
        checks = [functools.partial(rewritten, example) for _, example in batch]
        for (item, example), result in zip(batch, ask_twice(recipe.ask, prompts, checks, "reasoning", report)):
            if isinstance(result, dict) or recipe.on_reject == "rules":
                yield item, result if isinstance(result, dict) else example
            else:
                report.drop(f"the teacher's reasoning: {result.partition(':')[0]}", example["id"])


def rewritten(example: dict, reply: str) -> dict | str:
    """The example with the response in the teacher's reply, or what is wrong with that, `kind: details`."""
    parts = [(name, text.strip() if name == "reasoning" else text) for name, text, _ in rewards.elements(reply)]
    wanted = [name for name, _, _ in rewards.elements(example["response"])]
    if [name for name, _ in parts] != wanted:
        return "other tags: there must be, in this order, " + ", ".join(wanted)
    if any(rewards.TAG.search(text) or not text and name == "reasoning" for name, text in parts):
        return "a reasoning that is empty or holds a tag: write plain text"
    response = "".join(element(name, text) for name, text in parts)
    if not perfect(response, example):
        return "a wrong state or answer: copy them exactly"
    return example | {"response": response}
