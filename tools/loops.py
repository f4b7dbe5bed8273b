"""The reasoning of augment.py --loop-anchors K: what lies between anchors of which some stand in the first K iterations of a loop.

P' counts the iterations of such a loop, `step += 1`, and its anchors read `if step <= K: print(f'NAME: {NAME}')`. The states that the
sandbox records hold the counter too, so they tell in which iteration an anchor was printed.
"""

import ast

from augment import COUNTER, LOOPS, PIECE_LIMIT, anchor_name, changed, fill_in, known_between, parameters, pieces, statements


def guarded(statement: ast.stmt) -> ast.stmt | None:
    """The anchor A of `if step <= 2: A`, None for another statement."""
    match statement:
        case ast.If(test=ast.Compare(left=ast.Name(id=name), ops=[ast.LtE()], comparators=[ast.Constant(value=int())]), body=[inner], orelse=[]):
            return inner if name.rstrip("_") == COUNTER and anchor_name(inner) else None
    return None


class Uncounted(ast.NodeTransformer):
    """Takes the counters of --loop-anchors out of P', for reading; loops: {loop: (its counter, iterations with anchors)}."""

    def __init__(self, function: ast.FunctionDef):
        loops = [statement for statement in statements(function.body) if isinstance(statement, LOOPS)]
        guards = {loop: next(filter(guarded, statements(loop.body)), None) for loop in loops}
        self.loops = {loop: (guard.test.left.id, guard.test.comparators[0].value) for loop, guard in guards.items() if guard}
        self.counters = {counter for counter, _ in self.loops.values()}
        self.visit(function)

    def visit_If(self, node):
        return guarded(node) if guarded(node) and node.test.left.id in self.counters else self.generic_visit(node)

    def visit_Assign(self, node):  # a constant in its place, which stands for nothing
        return ast.copy_location(ast.Expr(ast.Constant(None)), node) if self.counters & set(changed(node)) else node

    visit_AugAssign = visit_Assign

    def around(self, line: int) -> ast.stmt | None:
        """The loop with a counter that holds this line."""
        return next((loop for loop in self.loops if loop.lineno < line <= loop.body[-1].end_lineno), None)

    def iteration(self, loop: ast.stmt | None, state: dict[str, str]) -> int:
        """The iteration of the loop in this state, from 1, if it is one of those that have anchors, else 0."""
        counter, most = self.loops.get(loop, ("", 0))
        number = state.get(counter, "1")
        return int(number) if number.isdecimal() and int(number) <= most else 0


def iteration_pieces(loop: ast.stmt, state: dict[str, str], known: dict[str, str]) -> list[str]:
    """What begins an iteration: `while 2 < 5`, or the values `x = 3` of the loop's target in this state, which become known."""
    if isinstance(loop, ast.While):
        test = f"while {fill_in(loop.test, known)}"
        for name in changed(loop.test):
            known.pop(name, None)
        return [test]
    found = []
    for name in changed(loop.target):
        known.pop(name, None)
        if name in state and name not in changed(*loop.body):  # else the state no longer holds what the iteration began with
            known[name] = state[name]
            found.append(f"{name} = {state[name]}")
    return [piece for piece in found if len(piece) <= PIECE_LIMIT]


def reasoning(function: ast.FunctionDef, anchors: list[tuple], states: list[dict]) -> list[str]:
    """A text per anchor: the source since the anchor before, with the arguments and the states so far filled in.

    anchors: (line in P', name, text); states: from read_snapshots. Two anchors of one statement share its text. Where anchors in
    a loop end, the text after it is that of the whole loop, with the values with which it goes on. Changes the AST.
    """
    texts, previous, counters = [""], 0, Uncounted(function)
    shown = parameters(function)
    for (line, name, _), state, now in zip(anchors, states, states[1:]):
        loop, left = counters.around(line), counters.around(previous)
        known, moved = known_between(function, previous, line, state, now, shown, tuple(filter(None, (loop, left))))
        number, found, body = counters.iteration(loop, now), [], function.body
        if number and loop is left and line > previous and number == counters.iteration(loop, state):
            body, after = loop.body, previous  # the same iteration goes on
        else:
            after = left.lineno - 1 if left else previous
            if number:  # another iteration begins
                if loop is not left:
                    found = pieces(body, after, loop.lineno, known, moved)
                    found += [f"for {ast.unparse(loop.target)} in {fill_in(loop.iter, known)}"] if isinstance(loop, ast.For) else []
                found += iteration_pieces(loop, now, known)
                shown.update(changed(getattr(loop, "target", ast.Pass())))
                body, after = loop.body, loop.lineno
        found += pieces(body, after if line > after else 0, line, known, moved)
        texts.append("; ".join(found) or texts[-1])
        shown.add(name)
        previous = line
    return texts[1:]
