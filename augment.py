"""From programs to verified training examples: anchors, true states, prompts and responses (section 3.2).

A rules teacher inserts `print(f'NAME: {NAME}')` anchors into a program P, which gives P'. The sandbox runs P and P'; an
example is kept only if both give the same result and every printed state is reproducible. The states then become the
response that a model learns to write, each with a short reasoning that copies the values it needs.

    python augment.py --programs runs/toy/sft.jsonl --out runs/toy/sft_examples.jsonl --prompt bare
    python augment.py --programs cruxeval.jsonl --out data.jsonl --task both
    python augment.py --programs cruxeval-org/cruxeval --split test --out data.jsonl      (a Hugging Face id)
    python augment.py --show 2 data.jsonl

Input: a line of JSON per program with `code`, one of `input` (an argument list) and `call` (a whole call), optionally `id`.
Output: a line of JSON per example (id, code, instrumented, call, anchors, output, task, prompt, response), and beside it a
card, data.card.json, with the settings, the counts and what was dropped, by reason.

Departures from the paper, and decisions where it is silent:
1. The teacher is an AST pass, not a language model. It inserts lines into the source and leaves every other byte as it is;
   only statements that share a line (`a = 1; b = 2`, `if a: return b`) are laid out anew where an anchor needs it.
2. A return inside a loop has its `return_val` anchor, since it runs at most once a call; nothing else in a loop has one, an
   `else` of a loop included. The limits on anchors count those printed in the run.
3. One function is instrumented, the one that the call runs: helpers may run many times. instrument() without a name takes
   the last function of the module, which in single-file programs is the entry.
4. After a loop an anchor needs a name that is certainly bound there, because a loop may run zero times.
5. Text between tags loses one newline at either end when it is read, so a text that begins or ends with one gets another.
6. In input prediction `<answer>` repeats `<input>`. Examples whose texts contain a tag of the format are dropped, and so is
   what could never be scored: results, and for input prediction arguments, that are no literals.
"""

import argparse
import ast
import functools
import io
import itertools
import json
import os
import re
import statistics
import sys
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path

import rewards
import sandbox

LOOPS = (ast.For, ast.While, ast.AsyncFor)
SCOPES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)
COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
SKIPPED = (*SCOPES, ast.Pass, ast.Global, ast.Nonlocal, ast.Import, ast.ImportFrom)  # in reasoning
MUTATORS = set("""append extend insert remove pop clear sort reverse update setdefault popitem add discard
    difference_update intersection_update symmetric_difference_update appendleft popleft extendleft rotate subtract
    move_to_end""".split())
TAG = re.compile(r"</?(reasoning|print|answer|input)>")
PIECE_LIMIT = 200  # characters of one piece of reasoning with its values filled in


# ---------------------------------------------------------------------------------------------------------------------
# Reading programs


def anchor(name: str) -> str:
    return f"print(f'{name}: {{{name}}}')"


def anchor_name(statement: ast.stmt) -> str | None:
    """NAME if the statement is print(f'NAME: {NAME}'), else None."""
    match statement:
        case ast.Expr(value=ast.Call(func=ast.Name(id="print"), keywords=[], args=[ast.JoinedStr(values=[
                ast.Constant(value=label), ast.FormattedValue(value=ast.Name(id=name), conversion=-1, format_spec=None)])])):
            return name if label == f"{name}: " else None
    return None


def entry_function(tree: ast.Module, name: str | None = None) -> ast.FunctionDef | None:
    """The module's function of this name (the one that holds in the end), or without a name its last function."""
    found = [node for node in tree.body if isinstance(node, ast.FunctionDef) and name in (None, node.name)]
    return found[-1] if found else None


def own(*nodes, sure: bool = False):
    """Yield the nodes below `nodes` in source order, without the insides of nested functions, lambdas and classes.

    sure=True also leaves out what an expression may skip (after and/or, branches of a conditional, comprehensions).
    """
    stack = list(reversed(nodes))
    while stack:
        node = stack.pop()
        yield node
        if isinstance(node, SCOPES) or sure and isinstance(node, COMPREHENSIONS):
            continue
        if sure and isinstance(node, ast.BoolOp):
            stack.append(node.values[0])
        elif sure and isinstance(node, ast.IfExp):
            stack.append(node.test)
        elif sure and isinstance(node, ast.Compare):
            stack += [node.comparators[0], node.left]
        else:
            stack.extend(reversed(list(ast.iter_child_nodes(node))))


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
    return [name for name in names if name not in (None, "_")]


def stored(*nodes) -> set[str]:
    """The names that the code certainly binds if it runs."""
    return {node.id for node in own(*nodes, sure=True) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}


def suites(statement: ast.stmt) -> list[list[ast.stmt]]:
    """The bodies of a compound statement, in source order; none for a function or class."""
    if isinstance(statement, SCOPES):
        return []
    parts = [getattr(statement, "body", [])]
    parts += [part.body for part in getattr(statement, "handlers", []) + getattr(statement, "cases", [])]
    return [part for part in parts + [getattr(statement, "orelse", []), getattr(statement, "finalbody", [])] if part]


def statements(body: list[ast.stmt]):
    """Yield the statements of a suite and of those inside it, in source order, without nested functions and classes."""
    for statement in body:
        yield statement
        for part in suites(statement):
            yield from statements(part)


# ---------------------------------------------------------------------------------------------------------------------
# Editing source text


def apply_edits(program: str, edits: list[tuple[int, int, str]]) -> str:
    """Replace program[start:end] by text for each (start, end, text); edits at one place keep their order."""
    parts, position = [], 0
    for start, end, text in sorted(edits, key=lambda edit: edit[0]):
        parts += [program[position:start], text]
        position = end
    return "".join(parts) + program[position:]


class Source:
    """The program's text and where the nodes of its AST stand in it, as offsets."""

    def __init__(self, program: str):
        self.text = program
        self.lines = list(io.StringIO(program, newline=""))  # splits where Python does: \n, \r\n and \r
        self.starts = [0, *itertools.accumulate(map(len, self.lines))]

    def offset(self, line: int, column: int) -> int:
        """The offset of a line (from 1) and a column in UTF-8 bytes."""
        text = self.lines[line - 1]
        return self.starts[line - 1] + (column if text.isascii() else len(text.encode()[:column].decode()))

    def start(self, node) -> int:
        decorators = getattr(node, "decorator_list", [])
        if decorators:
            return self.text.rindex("@", 0, self.start(decorators[0]))
        return self.offset(node.lineno, node.col_offset)

    def end(self, node) -> int:
        return self.offset(node.end_lineno, node.end_col_offset)

    def line_end(self, offset: int) -> int:
        """Where the logical line ends whose last statement ends at `offset`: after a comment, before the newline."""
        while True:
            tail = re.compile(r"[^\r\n]*").match(self.text, offset)
            if tail[0].strip(" \t\f;") != "\\":
                return tail.end()
            offset = re.compile(r"\r\n|\r|\n").match(self.text, tail.end()).end()

    def indent(self, node) -> str:
        return re.match(r"\s*", self.lines[node.lineno - 1])[0]

    def inline(self, statement: ast.stmt) -> bool:
        """True if the suite that begins with this statement shares a line with its header."""
        start = self.start(statement)
        before = self.text[:start].rstrip(" \t\f")
        if before.endswith(("\\\n", "\\\r\n", "\\\r")) and "#" not in before.splitlines()[-1]:
            return True
        return not before.endswith(("\n", "\r")) and before != ""


# ---------------------------------------------------------------------------------------------------------------------
# The rules teacher: P -> P'


def instrument(program: str, entry: str | None = None) -> str:
    """The program with anchors in one function (by default its last); unchanged where there is nothing to anchor.

    Raises what ast.parse raises (SyntaxError, ValueError) and RecursionError for code nested too deeply.
    """
    tree = ast.parse(program)
    function = entry_function(tree, entry)
    if function is None or redefines_print(program, tree):
        return program
    nodes = list(own(*function.body))
    if any(isinstance(node, (ast.Yield, ast.YieldFrom)) for node in nodes):
        return program  # a generator runs in pieces, when its caller asks
    return Instrumenter(program, tree, function, nodes).run()


def redefines_print(program: str, tree: ast.Module) -> bool:
    """True if the program binds the name print anywhere."""
    return re.search(r"\bprint\b", program) is not None and any(
        isinstance(node, ast.Name) and node.id == "print" and not isinstance(node.ctx, ast.Load)
        or "print" in (getattr(node, "arg", None), getattr(node, "name", None), getattr(node, "asname", None))
        for node in ast.walk(tree))


class Instrumenter:
    """Walks one function and collects edits. `bound` is always the set of names that are certainly bound at a point."""

    def __init__(self, program: str, tree: ast.Module, function: ast.FunctionDef, nodes: list[ast.AST]):
        self.source, self.function, self.edits = Source(program), function, []
        self.newline = "\r\n" if "\r\n" in program else "\n" if "\n" in program or "\r" not in program else "\r"
        outer, first = self.source.indent(function), function.body[0]
        self.unit = "    " if self.source.inline(first) else self.source.indent(first)[len(outer):]
        names = [node for node in nodes if isinstance(node, ast.Name)]
        local = {node.id for node in names if isinstance(node.ctx, ast.Store)}
        self.deleted = {node.id for node in names if isinstance(node.ctx, ast.Del)}
        self.deleted |= {node.name for node in nodes if isinstance(node, ast.ExceptHandler)}
        parameters = {node.arg for node in ast.walk(function.args) if isinstance(node, ast.arg)}
        module_names = stored(*(node for node in tree.body if isinstance(node, (ast.Assign, ast.AnnAssign))))
        self.bound = parameters | module_names - local
        self.may_assign = "return_val" not in program or self.return_val_is_local(tree, nodes, parameters | local)

    def return_val_is_local(self, tree, nodes, local) -> bool:
        """True if the program's own return_val is a local variable that nothing reads after a return."""
        def count(found):
            return sum("return_val" in (getattr(node, "id", None), getattr(node, "arg", None)) for node in found)

        late = any(isinstance(node, (ast.Global, ast.Try, ast.TryStar)) for node in nodes)
        return "return_val" in local and not late and count(ast.walk(tree)) == count([*nodes, *ast.walk(self.function.args)])

    def run(self) -> str:
        self.suite(self.function.body, self.function, self.bound)
        return apply_edits(self.source.text, self.edits)

    # -- the flow of control

    def suite(self, body, parent, bound, in_loop=False, header=()) -> set | None:
        """Edit one suite; the names bound after it, None if it never falls through. header: names to anchor first."""
        inline, falls_through = self.source.inline(body[0]), True
        indent = self.source.indent(parent) + self.unit if inline else self.source.indent(body[0])
        for group in self.groups(body):
            lines = []
            for statement in group:
                before, head, after, now = self.visit(statement, bound, in_loop)
                if statement is body[0]:
                    before = [anchor(name) for name in header] + before
                lines.append((before, head, after))
                falls_through = falls_through and now is not None
                bound = bound if now is None else now
            self.edit(group, lines, indent, inline and group[0] is body[0])
        return bound if falls_through else None

    def visit(self, statement, bound, in_loop):
        """(lines before, new head, lines after, names bound after or None) of one statement; edits what is inside it."""
        match statement:
            case ast.Return():
                return *self.returns(statement, bound), None
            case ast.Raise() | ast.Break() | ast.Continue():
                return [], "", [], None
            case ast.If() | ast.Try() | ast.TryStar() | ast.With() | ast.Match():
                return [], "", [], self.branches(statement, bound, in_loop)
            case ast.For() | ast.While():
                bound = bound | (stored(statement.test) if isinstance(statement, ast.While) else set())
                for part in suites(statement):
                    self.suite(part, statement, bound, in_loop=True)
                certain = set()
            case ast.AnnAssign(value=None):
                return [], "", [], bound
            case _:
                certain = stored(statement)
                bound = bound | certain
        lines = [anchor(name) for name in changed(statement) if name in certain or name in bound - self.deleted]
        return [], "", [] if in_loop else lines, bound

    def returns(self, statement: ast.Return, bound):
        """(lines before, new head, lines after) of a return."""
        value, line = statement.value, anchor("return_val")
        if isinstance(value, ast.Name) and value.id == "return_val" and "return_val" in bound:
            return [line], "", []
        if value is None or not self.may_assign:
            return [], "", []
        if isinstance(value, ast.Name):
            return [f"return_val = {value.id}", line], "", []
        return [], "return_val = ", [line, "return return_val"]

    def branches(self, statement, bound, in_loop) -> set | None:
        """Edit the suites of an if, try, with or match; the names bound after it."""
        suite = functools.partial(self.suite, parent=statement, in_loop=in_loop)
        match statement:
            case ast.If(test=test, body=body, orelse=orelse):
                bound = bound | stored(test)
                header = [name for name in changed(test) if name in bound and not in_loop]
                has_elif = bool(orelse) and self.source.text.startswith("elif", self.source.start(orelse[0]))
                results = [suite(body, bound=bound, header=header)]
                results.append(suite(orelse, bound=bound, header=[] if has_elif else header) if orelse else bound)
                return meet(results)
            case ast.With(items=items, body=body):
                suite(body, bound=bound | stored(*items))
                return bound  # a context manager may swallow what its body raises
            case ast.Match(subject=subject, cases=cases):
                bound = bound | stored(subject)
                for case in cases:
                    names = [] if in_loop else captures(case.pattern)
                    self.suite(case.body, case.pattern, bound | set(names), in_loop, names)
                return bound
        result = suite(statement.body, bound=bound)
        if statement.orelse:
            otherwise = suite(statement.orelse, bound=bound if result is None else result)
            result = None if result is None else otherwise
        result = meet([result] + [suite(handler.body, bound=bound) for handler in statement.handlers])
        final = suite(statement.finalbody, bound=bound) if statement.finalbody else bound
        return None if result is None or final is None else result | final

    # -- the layout of lines

    def groups(self, body):
        """The statements of a suite, those joined by semicolons on one logical line together."""
        group = [body[0]]
        for previous, statement in itertools.pairwise(body):
            between = self.source.text[self.source.end(previous):self.source.start(statement)]
            if re.search(r"[\r\n]", re.sub(r"\\(\r\n|\r|\n)", "", between)):
                yield group
                group = []
            group.append(statement)
        yield group

    def edit(self, group, lines, indent, inline):
        """Insert the lines of a group of statements, each statement on a line of its own if it shared one."""
        if not any(any(parts) for parts in lines):
            return
        source, newline = self.source, self.newline + indent
        if inline:
            start = source.start(group[0])
            self.edits.append((len(source.text[:start].rstrip(" \t\f\r\n\\")), start, newline))
        for k, (statement, (before, head, after)) in enumerate(zip(group, lines)):
            start, end, last = source.start(statement), source.end(statement), k + 1 == len(group)
            self.edits.append((start, start, "".join(line + newline for line in before)))
            if head:
                keyword = re.compile(r"return[ \t]*").match(source.text, start)
                self.edits.append((start, keyword.end(), head))
            place = source.line_end(end) if last else end
            self.edits.append((place, place, "".join(newline + line for line in after)))
            if not last:
                self.edits.append((end, source.start(group[k + 1]), newline))


def meet(results: list[set | None]) -> set | None:
    """The names bound on every path that falls through; None if no path does."""
    results = [result for result in results if result is not None]
    return set.intersection(*results) if results else None


def captures(pattern: ast.pattern) -> list[str]:
    """The names that a case binds."""
    names = [getattr(node, "rest", None) or getattr(node, "name", None) for node in own(pattern)]
    return list(dict.fromkeys(name for name in names if name not in (None, "_")))


def loop_anchors(tree: ast.Module) -> bool:
    """True if an anchor other than a return's stands inside a loop."""
    return any(anchor_name(inner) not in (None, "return_val")
               for loop in ast.walk(tree) if isinstance(loop, LOOPS) for inner in statements([loop]))


# ---------------------------------------------------------------------------------------------------------------------
# The true states, as Python values


# Printed text does not tell 3 from '3', so the run under the second hash seed prints the locals' reprs at each anchor too.
SNAPSHOT = f"print('\\0' + repr({{k: repr(v)[:{PIECE_LIMIT + 1}] for k, v in locals().items()}}) + '\\0')"


def with_snapshots(instrumented: str, function: ast.FunctionDef) -> str:
    """P' that also prints the function's locals, between null characters, at its start and after each anchor."""
    source = Source(instrumented)
    first = source.start(function.body[0])
    edits = [(first, first, f"{SNAPSHOT}\n{source.indent(function.body[0])}")]
    ends = [source.end(node) for node in statements(function.body) if anchor_name(node)]
    edits += [(end, end, f"; {SNAPSHOT}") for end in ends]
    return apply_edits(instrumented, edits)


def read_snapshots(stdout: str, anchors: int) -> list[dict[str, str]]:
    """A dict from name to repr for the start and one after each anchor; empty ones if the function ran more than once."""
    texts = stdout.split("\0")[1::2]
    return [ast.literal_eval(text) for text in texts] if len(texts) == anchors + 1 else [{}] * (anchors + 1)


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
        known = isinstance(node.ctx, ast.Load) and node.id in self.known
        return known and literal_node(self.known[node.id]) or node


def one_line(code: str) -> str:
    """Source text of several lines on one: `for x in xs: if x: s += x; t = 0`."""
    first, *rest = [line.strip() for line in code.split("\n")]
    for line in rest:
        first += (" " if first.endswith(":") else "; ") + line
    return first


def fill_in(node: ast.AST, known: dict[str, str]) -> str:
    """The node's source on one line with known values; without them if that is too long. Changes the node."""
    plain = one_line(ast.unparse(node))
    known = dict(known)
    for inner in ast.walk(node):
        if isinstance(inner, (ast.comprehension, ast.arg)):  # names of comprehensions and lambdas are others
            for name in [inner.arg] if isinstance(inner, ast.arg) else changed(inner.target):
                known.pop(name, None)
    try:
        text = one_line(ast.unparse(FillIn(known).visit(node)))
    except ValueError:  # an f-string cannot hold every value
        return plain
    return text if len(text) <= PIECE_LIMIT else plain


class WithoutAnchors(ast.NodeTransformer):
    """Turns the anchored returns of P' back into those of P, for reading."""

    def visit_Expr(self, node):
        return None if anchor_name(node) else node

    def visit_Assign(self, node):
        return ast.Return(node.value) if returned(node) else node

    def visit_Return(self, node):
        return None if isinstance(node.value, ast.Name) else node


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
        loop = WithoutAnchors().visit(ast.parse(ast.unparse(loop)))
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


def pieces(body: list[ast.stmt], after: int, before: int, known: dict[str, str]) -> list[str]:
    """The pieces of source between the anchors at two lines of P', `after` and `before`; known loses what they change."""
    found = []
    for statement in body:
        if statement.lineno >= before:
            break
        docstring = isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
        if statement.end_lineno <= after or docstring or anchor_name(statement) or isinstance(statement, SKIPPED):
            continue
        inner = [part for part in suites(statement)
                 if any(part[0].lineno <= line <= part[-1].end_lineno for line in (after, before))]
        names = [] if suites(statement) else changed(statement)
        if statement.lineno > after:  # its head lies between the anchors
            match statement:
                case ast.For() | ast.While():
                    names = changed(statement)
                    found += loop_pieces(statement, known)
                case ast.If(test=test):
                    found.append(f"if {fill_in(test, known)}")
                case ast.Match(subject=subject):
                    found.append(f"match {fill_in(subject, known)}")
                case ast.With(items=items):
                    names = changed(*items)
                    found += [f"with {fill_in(item, known)}" for item in items]
                case ast.Try(body=tried) | ast.TryStar(body=tried):
                    inner = inner if inner[:1] == [tried] else [tried, *inner]
                case _:
                    found.append(simple_piece(statement, known))
        for name in names:
            known.pop(name, None)
        for part in inner:  # of a loop only the return that ends it
            found += pieces(part, after, before, known)[-1 if isinstance(statement, LOOPS) else 0:]
    return found


def reasoning(function: ast.FunctionDef, anchors: list[tuple], states: list[dict]) -> list[str]:
    """A text per anchor: the source since the anchor before, with the arguments and the states so far filled in.

    anchors: (line in P', name, text); states: from read_snapshots. Two anchors of one statement share its text. Changes
    the AST.
    """
    texts, previous = [""], 0
    shown = {node.arg for node in ast.walk(function.args) if isinstance(node, ast.arg)}
    for (line, name, _), state in zip(anchors, states):
        known = {key: value for key, value in state.items() if key in shown}
        found = pieces(function.body, previous if line > previous else 0, line, known)
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
Some of its lines, `print(f'NAME: {NAME}')`, show the value of a variable. For each such line that the run reaches, in the
order in which they run, write one step:
<reasoning>how the value comes about</reasoning><print>NAME: value</print>
where the text in <print> is exactly what the line prints."""
INSTRUCTIONS = {
    "output": f"""\
Execute this Python program in your head. {STEPS}
After the last step write the value that makes the assertion true, as a Python literal in place of ??:
<reasoning>why</reasoning><answer>VALUE</answer>
Keep each reasoning short, and write nothing else.

""",
    "input": f"""\
Find arguments that make the assertion below true; any that do are right. Commit to them first, as Python literals in
place of ??:
<reasoning>why</reasoning><input>ARGUMENTS</input>
Then execute the program on them in your head. {STEPS}
After the last step repeat the arguments:
<reasoning>why</reasoning><answer>ARGUMENTS</answer>
Keep each reasoning short, and write nothing else.

"""}


def make_prompt(program: str, call: str, output: str, task: str = "output", style: str = "instruct") -> str:
    """The user message. program: P', or P for an answer without steps; call: such as f(3); output: its result's repr."""
    question = f"assert {call} == ??" if task == "output" else f"assert {rewards.entry(call)}(??) == {output}"
    instructions = INSTRUCTIONS[task] if style == "instruct" else ""
    return f"{instructions}{program.rstrip()}\n{question}"


def element(tag: str, text: str) -> str:
    """<tag>text</tag>, such that reading it gives back the text."""
    return f"<{tag}>\n{text}\n</{tag}>" if text.startswith("\n") or text.endswith("\n") else f"<{tag}>{text}</{tag}>"


def make_response(anchors: list, answer: str, texts: list[str], task: str = "output") -> str:
    """The target text.

    anchors: (name, value) pairs; answer: the output, or for task "input" the argument list; texts: of the <reasoning> tags,
    one per anchor and one for the answer, for task "input" one more before them all.
    """
    commitment = task == "input"
    tags = [element("input", answer)] if commitment else []
    tags += [element("print", f"{name}: {value}") for name, value in anchors] + [element("answer", answer)]
    return "".join(element("reasoning", text) + tag for text, tag in zip(texts, tags, strict=True))


# ---------------------------------------------------------------------------------------------------------------------
# Verified examples


@dataclass
class Report:
    """What became of the programs: counters, and for each reason of a drop the first few ids."""

    programs: int = 0
    kept: Counter = field(default_factory=Counter)     # task -> examples
    anchors: Counter = field(default_factory=Counter)  # printed anchors -> programs kept
    dropped: Counter = field(default_factory=Counter)  # reason -> programs, or examples of one task
    examples: dict = field(default_factory=lambda: defaultdict(list))

    def drop(self, reason: str, identity: str) -> None:
        self.dropped[reason] += 1
        if len(self.examples[reason]) < 5:
            self.examples[reason].append(identity)


@dataclass
class Candidate:
    """An instrumented program on its way through the sandbox."""

    id: str
    code: str
    call: str
    instrumented: str
    function: ast.FunctionDef  # the entry of P'
    snapshots: str             # P' that also prints its locals


def called(call: str) -> str | None:
    """The name in a call such as f(3), None if the text is something else."""
    try:
        node = ast.parse(call, mode="eval").body
    except rewards.PARSER_ERRORS:
        return None
    return node.func.id if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and call.endswith(")") else None


def candidate(row: dict) -> Candidate | str:
    """The instrumented program of a row (id, code, and input or call), or why there is none."""
    try:
        tree = ast.parse(row["code"])
        last = entry_function(tree)
        call = row["call"].strip() if "call" in row else f"{last.name if last else '?'}({row['input'].strip()})"
        name = called(call)
        if name is None or entry_function(tree, name) is None:
            return "the call is not of a function that the program defines"
        instrumented = instrument(row["code"], name)
        tree = ast.parse(instrumented)
        function = entry_function(tree, name)
        if loop_anchors(tree):
            return "an anchor inside a loop"
        return Candidate(row["id"], row["code"], call, instrumented, function, with_snapshots(instrumented, function))
    except (SyntaxError, ValueError):
        return "syntax error"
    except (RecursionError, MemoryError):
        return "nested too deeply"


def candidates(rows, report: Report):
    """Yield the Candidates of the rows; counts the rest."""
    for row in rows:
        report.programs += 1
        found = candidate(row)
        if isinstance(found, Candidate):
            yield found
        else:
            report.drop(found, row["id"])


def traced(items, seed: int):
    """Yield (candidate, trace of P, of P', of P' with snapshots under the second hash seed); few are in flight at a time."""
    items, first, second = itertools.tee(items, 3)
    runs = sandbox.trace_many((program, item.call) for item in first for program in (item.code, item.instrumented))
    again = sandbox.trace_many(((item.snapshots, item.call) for item in second), hash_seed=seed)
    for item in items:
        yield item, next(runs), next(runs), next(again)


def problem_of(original, first, second, max_anchors: int) -> str | None:
    """Why the runs of P, P' and P' under the second hash seed give no example; None if they do."""
    shown, again = ([(name, text) for _, name, text in trace.anchors] for trace in (first, second))
    if original.status != "ok":
        return f"the program does not run: {original.status}"
    if first.status != "ok" or (original.value, original.stdout) != (first.value, first.stdout):
        return "the anchors change the result"
    if not shown:
        return "no anchor is printed"
    if len(shown) > max_anchors:
        return f"more than {max_anchors} anchors"
    if second.status != "ok" or (first.value, shown) != (second.value, again):
        return "another text under another hash seed"
    if any(" at 0x" in text for text in [first.value, *(text for _, text in shown)]):
        return "an address in the text"
    if not rewards.same_literal(first.value, first.value):
        return "the result is no literal"
    return None


def build(programs, *, task: str = "output", prompt: str = "instruct", max_anchors: int = 10, seed: int = 1,
          report: Report | None = None):
    """Yield an example (a dict, see the top) for each program that is verified, for task "both" two; memory stays constant.

    programs: an iterable of dicts with id, code and input or call. What is dropped is counted in `report`. With task "both"
    the ids end in -output and -input.
    """
    report = report or Report()
    for item, original, first, second in traced(candidates(programs, report), seed):
        problem = problem_of(original, first, second, max_anchors)
        if problem:
            report.drop(problem, item.id)
            continue
        states, kept = read_snapshots(second.stdout, len(first.anchors)), False
        opening = goal(item.function, first.anchors, first.value)  # before reasoning(), which changes the AST
        texts = reasoning(item.function, first.anchors, states)
        closing = "return_val" if first.anchors[-1][1] == "return_val" else f"return_val = {first.value}"
        for one in ["output", "input"] if task == "both" else [task]:
            if one == "output":
                example = make_example(item, first, one, prompt, first.value, [*texts, closing])
            else:
                example = make_example(item, first, one, prompt, literal_call(item, states[0]), [opening, *texts, "input"])
            if isinstance(example, str):
                report.drop(example, item.id)
                continue
            example["id"] += f"-{one}" if task == "both" else ""
            report.kept[one] += 1
            kept = True
            yield example
        report.anchors[len(first.anchors)] += kept


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


def make_example(item: Candidate, trace, task: str, style: str, answer: str | None, texts: list[str]) -> dict | str:
    """The example of one task, or why there is none. answer, texts: as for make_response."""
    anchors = [[name, text] for _, name, text in trace.anchors]
    if answer is None:
        return "the arguments are no literals (input prediction)"
    prompt = make_prompt(item.instrumented, item.call, trace.value, task, style)
    if any(TAG.search(text) for text in (item.instrumented, item.call, trace.value, *itertools.chain(*anchors), *texts)):
        return "a text contains a tag of the format"
    response = make_response(anchors, answer, texts, task)
    try:
        (prompt + response).encode()
    except UnicodeEncodeError:
        return "a text that UTF-8 cannot hold"
    example = dict(id=item.id, code=item.code, instrumented=item.instrumented, call=item.call, anchors=anchors,
                   output=trace.value, task=task, prompt=prompt, response=response)
    if task == "input" and not item.call.endswith(f"({answer})"):  # rewritten arguments: is it still the same run?
        if rewards.score(response, example) != ([1.0] * len(anchors), [True] * len(anchors), 1.0):
            return "the arguments as literals give another run (input prediction)"
    return example


# ---------------------------------------------------------------------------------------------------------------------
# The command line


class BadInput(Exception):
    """A mistake of the user's, told in one line."""


def checked(row, source: str, number: int) -> dict:
    """The row as build wants it: id, code, and call or input."""
    if not isinstance(row, dict) or not isinstance(row.get("code"), str):
        raise BadInput(f"{source}: line {number}: a program needs the text field `code`")
    field = next((field for field in ("call", "input") if isinstance(row.get(field), str)), None)
    if field is None:
        raise BadInput(f"{source}: line {number}: a program needs one of the text fields `call` and `input`")
    return {"id": str(row.get("id", f"{Path(source).stem}_{number}")), "code": row["code"], field: row[field]}


def read_programs(source: str, split: str):
    """(iterator of checked rows, their number or None) of a Hugging Face id or a JSONL file, which is checked first."""
    path = Path(source)
    if path.is_file():
        return read_jsonl(path), sum(1 for _ in read_jsonl(path))
    if path.exists():
        raise BadInput(f"{path}: not a file")
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", source) or source.endswith((".jsonl", ".json")):
        raise BadInput(f"{source}: no such file")
    import datasets

    try:
        rows = datasets.load_dataset(source, split=split, streaming=True)
    except (OSError, ValueError) as problem:
        reason = (str(problem).splitlines() or [type(problem).__name__])[0]
        raise BadInput(f"{source}: neither a file nor a Hugging Face data set with a split {split!r}: {reason}") from None
    return (checked(row, source, number) for number, row in enumerate(rows, 1)), None


def read_jsonl(path: Path):
    """Yield the checked rows of a JSONL file; blank lines are skipped."""
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.isspace():
                try:
                    row = json.loads(line)
                except (ValueError, RecursionError) as problem:
                    raise BadInput(f"{path}: line {number}: not JSON: {problem}") from None
                yield checked(row, str(path), number)


def card(args, report: Report) -> dict:
    """The data card: settings, counts, drops by reason, anchors per kept program."""
    counts = sorted(report.anchors.elements())
    settings = {name: value for name, value in vars(args).items() if name not in ("show", "file")}
    return {"settings": settings, "programs": report.programs, "kept": report.kept,
            "dropped": dict(report.dropped.most_common()), "dropped_examples": report.examples,
            "anchors": {"mean": round(statistics.mean(counts), 2), "median": statistics.median(counts),
                        "range": [counts[0], counts[-1]]},
            "python": sys.version.split()[0]}


def write(args) -> None:
    """--programs: build, write and report. The file appears under its name only when it is complete."""
    import tqdm

    rows, total = read_programs(args.programs, args.split)
    report, temporary = Report(), args.out.with_name(f".{args.out.name}.{os.getpid()}.tmp")
    try:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        if args.out.is_dir():
            raise IsADirectoryError("it is a folder")
        file = temporary.open("w")
    except OSError as problem:
        raise BadInput(f"--out {args.out}: {problem}") from None
    rows = itertools.islice(rows, args.limit)
    total = min(filter(None, (total, args.limit)), default=None)
    options = dict(task=args.task, prompt=args.prompt, max_anchors=args.max_anchors, seed=args.seed, report=report)
    try:
        with file, tqdm.tqdm(rows, total=total, desc="augment", unit=" programs", mininterval=1) as bar:
            for example in build(bar, **options):
                file.write(json.dumps(example) + "\n")
        summary(args.programs, report)
        if not report.kept:
            raise BadInput(f"{args.programs}: " + ("every program was dropped" if report.programs else "holds no programs"))
        os.replace(temporary, args.out)
    finally:
        temporary.unlink(missing_ok=True)
    args.out.with_suffix(".card.json").write_text(json.dumps(card(args, report), indent=2, default=str) + "\n")
    print(f"wrote {args.out} and {args.out.with_suffix('.card.json')}")


def summary(source: str, report: Report) -> None:
    kept = ", ".join(f"{count} examples of {task} prediction" for task, count in report.kept.items()) or "no examples"
    print(f"{source}: {report.programs} programs, {kept}")
    for reason, count in report.dropped.most_common():
        print(f"  dropped {count:6}  {reason}  ({', '.join(report.examples[reason][:3])}{', ...' if count > 3 else ''})")


def show(count: int, path: Path) -> None:
    """--show: programs with their true states beside the anchors, then prompt and response."""
    if not path.is_file():
        raise BadInput(f"{path}: no such file")
    with path.open() as file:
        for number, line in enumerate(itertools.islice(file, count), 1):
            try:
                print(as_text(json.loads(line)))
            except (ValueError, KeyError, TypeError, AttributeError) as problem:
                raise BadInput(f"{path}: line {number}: not an example of augment.py: {problem!r}") from None


def as_text(example: dict) -> str:
    """One example as a person wants to see it; runs it again to learn which line printed what."""
    trace = sandbox.trace(example["instrumented"], example["call"])
    states = {line: text for line, _, text in trace.anchors}
    lines = Source(example["instrumented"]).lines
    width = min(max(map(len, lines)), 70)
    marks = [f"  # {states[line]!r}"[:100] if line in states else "" for line in range(1, len(lines) + 1)]
    program = [f"{line.rstrip():{width}}{mark}".rstrip() for line, mark in zip(lines, marks)]
    response = re.sub(r"(</(?:print|input)>)", r"\1\n", example["response"])
    title = f"=== {example['id']} ({example['task']} prediction): {example['call']} == {example['output']}"
    return "\n".join([title, "", *program, "", "--- prompt", example["prompt"], "", "--- response", response, ""])


def positive(text: str) -> int:
    if not text.isdecimal() or not 0 < int(text) < 2**32:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive integer")
    return int(text)


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Turn programs into verified examples with anchors.")
    add = parser.add_argument
    # input
    add("--programs", metavar="PATH|ID", help="JSONL with `code` and `input` or `call`, or a Hugging Face id")
    add("--split", default="train", help="split of a Hugging Face data set")
    add("--limit", type=positive, help="read at most this many programs")
    # what to make
    add("--task", choices=["output", "input", "both"], default="output")
    add("--prompt", choices=["instruct", "bare"], default="instruct", help="bare: program and assertion, no explanation")
    add("--max-anchors", type=positive, default=10, help="drop runs that print more anchors")
    add("--seed", type=positive, default=1, help="the second hash seed; the first is 0")
    add("--out", type=Path, help="JSONL to write; a card goes beside it")
    # a look at the result
    add("--show", type=positive, metavar="N", help="print the first N examples of FILE and stop")
    add("file", nargs="?", type=Path, metavar="FILE", help="with --show: a JSONL that augment.py wrote")
    return parser


def main() -> None:
    parser = build_parser()
    args = parser.parse_args()
    if args.show and not args.file:
        parser.error("--show N needs a FILE")
    if not args.show and (args.file or not args.programs or not args.out):
        parser.error("--programs and --out are needed, or --show N FILE")
    try:
        show(args.show, args.file) if args.show else write(args)
    except BadInput as problem:
        print(f"error: {problem}", file=sys.stderr)
        sys.exit(2)
    except BrokenPipeError:  # `--show 9 FILE | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    main()
