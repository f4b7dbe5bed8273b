"""Programs as rich as CRUXEval's, made on the spot: strings, lists, dicts, their methods, loops, branches, early returns.

    python tools/puzzles.py --out runs/puzzles --leave-out cruxeval.jsonl           writes sft.jsonl, rl.jsonl and a random model
    python tools/puzzles.py --compare cruxeval.jsonl --sft 3000                  how near are they to a benchmark's programs?
    python augment.py --programs runs/puzzles/sft.jsonl --out runs/puzzles/sft_examples.jsonl --prompt bare --decontaminate cruxeval.jsonl

How a program is made. The arguments are drawn first, so that the program's literals can be pieces of them: what it replaces, removes or
looks for mostly occurs. Then statements are drawn from the grammar below. Each has typed holes, which are filled with variables of that
type, literals or further expressions; a hole prefers a variable that nothing has read yet, and the return reads one of the newest, so
little code is dead. Nothing is executed here and values are not followed: augment.py runs each program in the sandbox and drops those
that raise (about a tenth), by reason. Loops end by construction, but for lists that grow while they are walked through.

Weights were set by hand until --compare agreed: the shares of constructs, methods and result types, and sizes, were counted on the
benchmark's programs, and some of them were read. No text of theirs is in the grammar, but idioms as short as `for c in text: d[c] = ...`
are everybody's: about one generated program in 140 equals one of CRUXEval's up to names. --leave-out FILE does not write those.

Types      I int, B bool, S text, C one character, W a short text, LI LS LL lists of I, S and LI, DSI DII DSS DIS dicts (key, value),
           O whatever is only returned; V (in tables only) an argument of type C or W
Literals   K, H small numbers, from 1 and from 2; P a number to divide by; N a number; J an index; G a width; M characters; Q a separator;
           X a text to look for that is not empty
Holes      <T>     an expression of type T                       <x:T>   a new variable, from the template's end on
           <T!>    one that reads the loop's variable            <x~T>   a new variable until the template ends
           <=T>    a variable                                    <x=T>   a variable; <x=T:> one that the template changes
           <x>     what was written for the hole with this key   <x:=T>  an expression
           <upd>   a statement that grows the variable <o>       <item>  nothing; from here on s[i] or l[i] is a variable
           <block> statements    <ret> a value to return    <yes> <no> a pair of answers    others: SPECIAL
Layout     `if a: b; c / d` stands on four lines: / ends one block, / / two. In several types' table <T> is the type, <E> its items or values,
           <F> its keys, <LE> and <LF> lists of them.
"""
import argparse
import ast
import bisect
import contextlib
import itertools
import random
import re
import statistics
import sys
import typing
from collections import Counter, defaultdict
from pathlib import Path

from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import augment  # noqa: E402
import sandbox  # noqa: E402
import toy  # noqa: E402

CONTEXT = 2048  # tokens of prompt and response that the model can read

# ---- the grammar: a weight, then a template ------------------------------------------------------------------------------

EXPRESSIONS = {
    "S": """
8 <S>.replace(<W>, <W>) | 1 <S>.replace(<W>, <W>, <K>) | 7 <S>.lower() | 5 <S>.upper() | 2 <S>.swapcase() | 1.3 <S>.title()
1 <S>.capitalize() | 1 <S>.casefold() | 1.5 <S>.strip() | 1 <S>.strip(<W>) | 1 <S>.lstrip(<W>) | 1 <S>.rstrip(<W>)
1 <S>.lstrip() | 1 <S>.rstrip() | 2 <S>[<J>:] | 2 <S>[:<J>] | 1 <S>[<J>:<I>] | 1 <S>[<K>:-<K>] | 4 <S>[::-1] | 1 <S>[::<H>]
1 <S>[len(<W>):] | 0.6 <S>[:-len(<W>)] | 0.5 <S>[<I> + 1:] | 5 <S> + <W> | 3 <W> + <S> | 5 <S> + <S> | 1 <S> + <W> + <S>
2 <S> * <H> | 2 <C> * <I> | 14 <Q>.join(<LS>) | 1 <W>.join(<LS>) | 1 ''.join(reversed(<S>)) | 0.4 ''.join(sorted(<S>))
1 ''.join(<c~C> for <c> in <S> if <B!>) | 1 ''.join([<c~C> for <c> in <S> if <B!>]) | 1 ''.join([<S!> for <c~C> in <S>])
0.7 ''.join(filter(str.<isa>, <S>)) | 1 <Q>.join([<S!> for <w~S> in <LS>]) | 1 <Q>.join(str(<x~I>) for <x> in <LI>)
1 <Q>.join(map(str, <LI>)) | 2 <S>.removeprefix(<W>) | 2 <S>.removesuffix(<W>) | 0.5 <S>.ljust(<G>, <C>) | 0.5 <S>.ljust(<G>)
1 <S>.rjust(<G>, <C>) | 1 <S>.rjust(<G>) | 0.5 <S>.center(<G>, <C>) | 0.5 <S>.center(<G>) | 0.5 <S>.zfill(<G>)
1.4 <S>.expandtabs(<K>) | 3 str(<I>) | 1 f'{<=S>}{<=I>}' | 1 f'{<=S>}-{<=S>}' | 1 f'{<=I>}: {<=S>}' | 0.5 '{} {}'.format(<S>, <I>)
0.5 '{}: {}'.format(<S>, <I>) | 1 '%s=%s' % (<S>, <I>) | 0.6 <S>.partition(<W>)[0] | 0.6 <S>.partition(<W>)[2]
0.7 <S>.rpartition(<W>)[0] | 0.4 <S>.rpartition(<W>)[2] | 1 <S>.split(<W>)[<J>] | 1 <S>.rsplit(<W>, 1)[0]
0.4 <S> if <B> else <S> | 3 <LS>[<J>] | 1 max(<LS>, key=len) | 1 <DSS>[<=S>] | 1 <DSS>.get(<S>, <W>) | 1 <DIS>.get(<I>, <W>)
1 list(<DSI>)[<J>] | 0.6 <S>.translate(str.maketrans(<C>, <C>)) | 0.4 <S>.translate(str.maketrans('', '', <W>))
0.2 <S>.translate({ord(<C>): <W>})
""",
    "C": "6 <S>[<J>] | 2 <S>[<I>] | 1 <S>[-1] | 1 <C>.upper() | 1 <C>.lower() | 1 chr(ord(<C>) + <K>)",
    "W": "0.5 <S>[:<K>] | 0.5 <S>[-<K>:] | 1 <S>[<J>] | 1 <C>.upper() | 1 <C> * <H> | 1 <C> + <C>",
    "I": """
34 len(<S>) | 16 len(<LI>) | 8 len(<LS>) | 1 len(<DSI>) | 1 len(<DII>) | 4 len(<S>) - <K> | 1 len(<S>) + <K> | 1 len(<S>) - <I>
0.5 len(<LI>) % <H> | 0.5 <l=LI>.index(max(<l>)) | 0.5 <S>.index(<W>) + <K> | 2 len(<S>) // 2 | 2 len(<LI>) - 1 | 2 len(<LI>) // 2
6 <S>.count(<W>) | 6 <S>.find(<W>) | 4 <S>.rfind(<W>) | 3 <S>.index(<W>) | 7 <S>.rindex(<W>) | 3 <LI>.count(<I>)
3 <LI>.index(<=I>) | 1 <LS>.count(<S>) | 1 <LS>.index(<=S>) | 4 <I> + <K> | 5 <I> - <K> | 3 <I> + <I> | 3 <I> - <I> | 1 <N> - <I>
1 <K> + <I> | 1 <H> * <I> | 3 <I> * <H> | 2 <I> * <I> | 3 <I> // <H> | 1 <I> % <H> | 1 sum(<LI>) | 1 max(<LI>) | 1 min(<LI>)
1 abs(<I>) | 5 <LI>[<J>] | 2 <LI>[<I>] | 4 <LI>.pop() | 2 <LI>.pop(<J>) | 1 max(<I>, <I>) | 1 min(<I>, <I>)
1 divmod(<I>, <H>)[<0>] | 1 len(set(<S>)) | 1 sum(1 for <c~C> in <S> if <B!>) | 1 sum(<x~I> for <x> in <LI> if <B!>)
1 sum(len(<w~S>) for <w> in <LS>) | 1 sum(int(<c~C>) for <c> in <S> if <c>.isdigit()) | 1 ord(<C>) | 1 len(<S>.split(<W>))
0.2 <I> if <B> else <I> | 2 <DSI>.get(<S>, <N>) | 2 <DII>.get(<I>, <N>) | 1 <DSI>[<=S>] | 1 sum(<DSI>.values())
1 max(<DII>.values()) | 1 <DII>.pop(<I>, <N>) | 1 <LL>[0][0] | 1 sum(len(<x~LI>) for <x> in <LL>) | 1 int(str(<I>)[::-1])
1 len(str(<I>))
""",
    "B": """
4 <S>.isdigit() | 1.4 <S>.isalpha() | 3 <S>.isupper() | 3 <S>.islower() | 1.2 <S>.isalnum() | 2 <S>.isspace() | 2 <S>.isnumeric()
2 <S>.isdecimal() | 1.4 <S>.istitle() | 2 <S>.isascii() | 1 <S>.isidentifier() | 6 <S>.startswith(<W>) | 4 <S>.endswith(<W>)
4 <W> in <S> | 2 <W> not in <S> | 3 <C> in <M> | 2 <C> in [<X>, <X>] | 1 <C> not in <M> | 8 <C> == <C> | 3 <C> != <C>
1 <=S> == <=S> | 0.5 <=S> == <W> | 1 <s=S> == <s>[::-1] | 1 <S> == '' | 1 <S>.count(<W>) > <K> | 3 len(<S>) <op> <K>
2 len(<S>) == <I> | 2 len(<S>) <op> <I> | 1 <S>.find(<W>) != -1 | 6 <I> <op> <N> | 5 <I> <op> <I> | 2 <I> % <H> == 0
1 <I> % 2 == 1 | 3 <I> in <LI> | 1 <I> not in <LI> | 2 <S> in <LS> | 1 <S> not in <LS> | 2 <W> in <LS> | 1 <l=LS>[0] == <l>[-1]
1 <LS>[<J>].startswith(<W>) | 1 len(<LS>[<J>]) <op> <K> | 2 len(<LI>) <op> <K> | 1 len(<LI>) == <K> | 1 len(<LS>) <op> <K>
1 <LI>.count(<I>) > <K> | 1 <LI>[0] <op> <I> | 1 <LI>[0] <op> <LI>[-1] | 1 <l=LI> == <l>[::-1] | 1 not <=S> | 0.5 not <=LI>
0.6 not <B> | 1.2 <B> and <B> | 0.6 <B> or <B> | 4 <S> in <DSI> | 4 <I> in <DII> | 4 <S> in <DSS> | 4 <I> in <DIS> 
1 not <S>.<isa>() | 0.7 not <S>.isdigit() | 0.7 not <S>.startswith(<W>) | 1 isinstance(<S>, str) | 1 all(<B!> for <c~C> in <S>)
1 any(<B!> for <x~I> in <LI>)
""",
    "LI LS LL": """
1 sorted(<T>) | 1.5 sorted(<T>, reverse=True) | 3 <T>[::-1] | 3 <T>[<J>:] | 3 <T>[:<J>] | 1 <T>[<J>:<I>] | 1 <T>[<K>:-<K>]
1 <T>[::<H>] | 3 <T> + <T> | 1 <T> + [<E>] | 1 [<E>] + <T> | 1 <T> * <H> | 4 <T>.copy() | 3 <T>[:] | 3 list(<T>)
1 list(reversed(<T>)) | 2 [<x~E> for <x> in <T> if <B!>]
""",
    "LI": """
0.5 sorted(<LI>, key=lambda x: <lam>) | 2 [<I!> for <x~I> in <LI>] | 1 [len(<w~S>) for <w> in <LS>]
1 [ord(<c~C>) for <c> in <S>] | 1 [<i~I> for <i> in range(len(<S>)) if <B!>] | 1 [<i~I> for <i>, <c~C> in enumerate(<S>) if <B!>]
0.3 list(range(<G>)) | 1 [<I>, <I>] | 0.5 [<N>] * <I> | 0.5 [<N>] * len(<LI>) | 1 [<I>] + <LI> | 1 list(<DSI>.values())
3 list(<DII>.keys()) | 2 list(<DII>.values()) | 2 list(<DIS>.keys()) | 1 list(map(lambda x: <lam>, <LI>)) | 1 list(set(<LI>))
1 [<a~I> * <b~I> for <a>, <b> in zip(<LI>, <LI>)] | 3 [<y~I> for <x~LI> in <LL> for <y> in <x>] | 3 [len(<x~LI>) for <x> in <LL>]
3 [sum(<x~LI>) for <x> in <LL>] | 4 <LL>[<J>]
""",
    "LS": """
10 <S>.split() | 10 <S>.split(<W>) | 1 <S>.split(<W>, <K>) | 2 <S>.rsplit(<W>, <K>) | 10 <S>.splitlines() | 30 list(<S>)
0.7 sorted(<S>) | 0.5 sorted(<LS>, key=len) | 2 [<S!> for <w~S> in <LS>] | 2 [<S!> for <c~C> in <S>] | 3 list(<DSI>.keys())
2 list(<DSS>.values()) | 0.3 sorted(<DSI>) | 0.5 list(<S>.rpartition(<W>))
1 [<s=S>[<i~I>:<i> + <k:=K>] for <i> in range(0, len(<s>), <k>)] | 1 [str(<x~I>) for <x> in <LI>] | 1 [<S>, <S>] | 1 [<S>] * <I>
1 <W>.split()
""",
    "LL": """
0.2 [<LI>, <LI>] | 1 [[<x~I>, <I!>] for <x> in <LI>] | 1 [<l=LI>[<i~I>:<i> + <k:=K>] for <i> in range(0, len(<l>), <k>)]
""",
    "DSI DII DSS DIS": """
3 <T>.copy() | 0.7 dict(<T>) | 0.3 dict(sorted(<T>.items())) | 1 {<k~F>: <v~E> for <k>, <v> in <T>.items() if <B!>}
1 dict.fromkeys(<LF>, <E>) | 1 dict(zip(<LF>, <LE>)) | 0.5 {**<T>, **<T>}
""",
    "DSI": "1 {<c~C>: <s=S>.count(<c>) for <c> in <s>} | 1 {<w~S>: len(<w>) for <w> in <LS>} | 0.7 dict.fromkeys(<S>, <N>)",
    "DII": "1 dict(enumerate(<LI>)) | 1 {<x~I>: <I!> for <x> in <LI>}",
    "DIS": "1 dict(enumerate(<LS>)) | 1 {<v~I>: <k~S> for <k>, <v> in <DSI>.items()}",
    "DSS": "1 {<w~S>: <S!> for <w> in <LS>}",
    "O": """
1 <S>.partition(<W>) | 1 <S>.rpartition(<W>) | 2 (<I>, <I>) | 3 (<S>, <I>) | 2 (<S>, <S>) | 2 [<S>, <S>] | 1 (<LI>, <I>)
2 [<I>, <I>] | 1 [<I>, <S>] | 4 list(<DSI>.items()) | 2 list(<DII>.items()) | 0.5 sorted(<DII>.items(), key=lambda x: x[1])
0.5 sorted(<DSI>.items(), key=lambda x: x[1], reverse=True) | 1 list(enumerate(<LS>)) | 1 list(zip(<LI>, <LS>)) | 1 tuple(<LI>)
1 <DSI>.popitem() | 1 {<S>: <LI>} | 1 {<S>: <S>} | 1 dict.fromkeys(<LS>) | 1 dict.fromkeys(<S>) | 1 {'<key>': <I>, '<key>': <S>}
5 <S>.encode('utf-8')
""",
}

STATEMENTS = """
3 <=I:> += <K> | 1 <=I:> -= <K> | 1 <=I:> *= <H> | 2 <=S:> += <W> | 9 <=LI>.append(<I>) | 7 <=LS>.append(<S>)
2 <=LS>.append(<W>) | 7 <=LI>.insert(<J>, <I>) | 5 <=LS>.insert(<J>, <S>) | 2 <=LS>.insert(<J>, <W>) | 6 <=LI>.pop()
7 <=LI>.pop(<J>) | 3 <=LS>.pop(<J>) | 2 <=LS>.pop() | 9 <=LI>.remove(<I>) | 6 <=LS>.remove(<S>) | 10 <=LI>.extend(<LI>)
7 <=LS>.extend(<LS>) | 18 <=LI>.reverse() | 13 <=LS>.reverse() | 8 <=LI>.sort() | 5 <=LI>.sort(reverse=True) | 5 <=LS>.sort()
14 <=LI>.clear() | 6 <=LS>.clear() | 1 <=LL>.append(<LI>) | 1 <=LL>.reverse() | 1 <=LL>[<J>].append(<I>)
2 <l=LI:>.append(<l>.pop(<0>)) | 2 <l=LI:>.insert(<J>, <l>.pop()) | 1 <l=LI:>.pop(<l>.index(<I>))
1 <=LI>.insert(len(<LI>) // 2, <I>) | 1 <=LI>.append(<LI>[<J>]) | 1 <=LS>.append(<LS>[<J>])
2 <d=DSI:>[<k:=S>] = <d>.get(<k>, 0) + <K> | 5 <=LI>[<J>] = <I> | 5 <=LS>[<J>] = <S> | 3 <=LI>[<I>] = <I> | 3 del <=LI>[<J>]
1 del <=LS>[<J>] | 1 <=LI:> += [<I>] | 2 <=LI:> += <LI> | 9 <=DSI>[<S>] = <I> | 9 <=DII>[<I>] = <I> | 9 <=DSS>[<S>] = <S>
9 <=DIS>[<I>] = <S> | 2 <=DSI>.pop(<=S>, None) | 9 <=DSI>.update({<S>: <I>}) | 8 <=DSI>.update(<DSI>) | 8 <=DSS>.update(<DSS>)
7 <=DII>.update({<I>: <I>}) | 16 <=DSI>.popitem() | 12 <=DII>.popitem() | 2 <=DIS>.setdefault(<I>, <S>) | 3 <=DSI>.clear()
2 <=DII>.clear() | 1 <a:I>, <b:I> = <I>, <I> | 1 <a:S>, <b:S> = <S>, <S> | 0.5 <a:S>, _, <b:S> = <S>.rpartition(<W>)
1 <k:S>, <v:I> = <=DSI>.popitem() | 1 <l=LI:>[0], <l>[-1] = <l>[-1], <l>[0]
"""

# Loops that grow a new variable <o>: how often for each of its types, then the loop's head.
LOOPS = """
S 22, LS 20, I 11: for <c~C> in <S>:
S 11, LS 6, I 4: for <i~I> in range(len(<s=S>))<item>:
S 2, LI 2, I 1: for <i~I>, <c~C> in enumerate(<=S>):
LI 14, I 8: for <x~I> in <=LI>:
LI 10, I 6: for <i~I> in range(len(<l=LI>))<item>:
LI 2: for <i~I>, <x~I> in enumerate(<=LI>):
LS 9, S 3, I 4: for <w~S> in <LS>:
LS 5, S 2: for <i~I> in range(len(<l=LS>))<item>:
LI 4, LS 2, S 2: for <i~I> in range(<I>):
S 1, LS 1: for <a~C>, <b~C> in zip(<=S>, <S>):
LS 8, I 3: for <k~S>, <v~I> in <=DSI>.items():
LI 8, I 3: for <k~I>, <v~I> in <=DII>.items():
LS 3, S 2: for <k~I>, <v~S> in <=DIS>.items():
LS 3, S 2: for <k~S>, <v~S> in <=DSS>.items():
LI 2, I 2: for <v~I> in <=DSI>.values():
LS 3, I 1: for <k~S> in <=DSI>.keys():
LS 2, LI 2: for <k~S> in <=DSI>:
LS 2: for <k~S>, <v~I> in sorted(<=DSI>.items()):
LS 4, S 2, I 1: for <w~S> in <S>.split(<W>):
LS 2, S 1: for <i~I>, <w~S> in enumerate(<LS>):
LI 1, S 2, I 2: for <c~C> in str(<I>):
S 2, LS 1: for <c~C> in reversed(<S>):
S 3, LS 1: for <i~I> in range(len(<s=S>) - 1, -1, -1)<item>:
S 2, LS 1: for <i~I> in range(<K>, len(<s=S>))<item>:
S 2, LS 2: for <i~I> in range(0, len(<s=S>), <H>)<item>:
LI 2, I 1: for <i~I> in range(<K>, <I>):
LI 2: for <x~I> in reversed(<=LI>):
"""

COMPOUND = """
18 if <B>: return <ret> | 18 if <B>: <block> | 7 if <B>: <block> / else: <block> | 1 if <B>: <block> / elif <B>: <block>
3 for <i~I> in range(len(<s=S>))<item>: <block> | 4 for <i~I> in range(len(<l=LI>))<item>: <block>
2 for <i~I> in range(len(<l=LS>))<item>: <block> | 6 for <_~I> in range(<I>): <block> | 4 for <i~I> in range(<K>): <block>
3 for <c~C> in <S>: <block> | 3 for <x~I> in <=LI>: <block> | 2 for <w~S> in <LS>: <block>
4 for <i~I> in range(len(<l=LI:>)): <l>[<i>] = <I!> | 3 for <i~I> in range(<K>, len(<l=LI:>)): <l>[<i>] = <l>[<i> - 1] + <l>[<i>]
4 for <i~I> in range(0, len(<l=LI:>), 2): <l>.append(<l>[<i>])
2 for <i~I> in range(len(<l=LI:>)): <l>.insert(<i>, <l>[<i>] + <K>)
3 <o:LI> = []; for <i~I> in range(len(<l=LI>) - 1): if <l>[<i>] <op> <l>[<i> + 1]: <o>.append(<l>[<i>])
4 for <i~I> in range(len(<l=LI:>) - 1, -1, -1): if <l>[<i>] <op> <I>: <l>.pop(<i>)
3 for <x~I> in <l=LI>[:]: if <B!>: <l>.remove(<x>) | 4 for <i~I> in range(len(<l=LS:>)): <l>[<i>] = <l>[<i>]<smeth>
3 for <c~C> in <M>: <s=S:> = <s>.replace(<c>, <W>) | 3 for <c~C> in <=S>: if <c> in <l=LS:>: <l>.remove(<c>)
4 <o:DSI> = {}; for <c~C> in <=S>: <o>[<c>] = <o>.get(<c>, 0) + <K>
4 <o:DSI> = {}; for <c~C> in <=S>: if <c> in <o>: <o>[<c>] += 1 / else: <o>[<c>] = <K>
2 <o:DII> = {}; for <x~I> in <=LI>: <o>[<x>] = <I!> | 2 <o:DII> = dict(); for <i~I> in range(len(<l=LI>)): <o>[<l>[<i>]] = <i>
4 <o:DSI> = {}; for <w~S> in <=LS>: <o>[<w>] = <I!> | 2 <o:O> = {}; for <w~S> in <=LS>: <o>.setdefault(<I!>, []).append(<w>)
5 <o:DSI> = {}; for <k~S>, <v~I> in <=DSI>.items(): if <B!>: <o>[<k>] = <v>
4 <o:DII> = {}; for <k~I>, <v~I> in <=DII>.items(): <o>[<v>] = <k>
4 <o:DIS> = {}; for <k~S>, <v~I> in <=DSI>.items(): <o>[<v>] = <k>
4 <o:DSS> = {}; for <k~S>, <v~S> in <=DSS>.items(): <o>[<v>] = <S!> | 3 for <k~S> in list(<d=DSI:>.keys()): <d>[<k>] = <I>
3 for <k~S>, <v~I> in <d=DSI:>.items(): <d>[<k>] = <I!> | 3 for <k~I>, <v~I> in list(<d=DII:>.items()): if <B!>: del <d>[<k>]
3 for <k~S>, <v~I> in <=DSI>.items(): if <k> in <d=DSI:>: <d>[<k>] += <v> / else: <d>[<k>] = <v>
3 <o:I> = 0; for <k~S> in <d=DSI>: <o> += <d>[<k>]
4 <o:DSI> = {}; for <k~S> in <d=DSI>: if <d>[<k>] <op> <N>: <o>[<k>] = <d>[<k>] | 3 for <k~I> in <d=DII:>: <d>[<k>] <aug> <K>
2 for <x~LI> in <=LL:>: <x>.sort() | 2 <o:LI> = []; for <x~LI> in <=LL>: for <y~I> in <x>: <upd>
3 <o:S> = ''; for <w~S> in <LS>: for <c~C> in <w>: <upd>
2 <o:LI> = []; for <a~I> in <l=LI>: for <b~I> in <l>: if <a> <op> <b>: <o>.append(<a> + <b>); break
10 while len(<l=LI:>) > <K>: <l>.pop(<0>) | 6 while <l=LI:> and <l>[-1] <op> <I>: <l>.pop()
8 <o:LI> = []; while <l=LI:>: <o>.append(<l>.pop(<0>)) | 4 <o:LS> = []; while len(<l=LS:>) > <K>: <o>.append(<l>.pop(<0>) + <W>)
4 <i:I> = 0; while <i> < len(<s=S>): if <s>[<i>] == <C>: break / <i> += 1
4 <i:I> = <I>; while <i> > 0: <s=S:> = <s> + <C>; <i> -= <K> | 4 while <s=S:> and <s>[0] == <C>: <s> = <s>[1:]
4 while <s=S:>.endswith(<w:=X>): <s> = <s>[:-len(<w>)] | 4 while <w:=X> in <s=S:>: <s> = <s>.replace(<w>, '', 1)
6 while <w=C> and <w> in <s=S:>: <s> = <s>.replace(<w>, '', 1) | 4 <o:S> = ''; while <s=S:>: <o> += <s>[0]; <s> = <s>[<K>:]
4 <o:I> = 0; while <n=I:> > 0: <o> += <n> % 10; <n> //= <P>
4 <i:I> = <s=S>.find(<w:=X>); while <i> != -1 and <i> < <P>: <i> = <s>.find(<w>, <i> + 1)
6 <o:I> = 0; while <w:=X> in <s=S:>: <s> = <s>[<s>.index(<w>) + 1:]; <o> += 1 | 8 while len(<d=DSI:>) > <K>: <d>.popitem()
4 while <d=DII:>: <k:I>, <v:I> = <d>.popitem(); if <k> <op> <v>: break
4 <o:LS> = []; while True: if len(<o>) >= <K>: break / <o>.append(<S>)
2 try: <a:I> = <S>.index(<W>) / except ValueError: <a> = -1
2 for <i~I> in range(len(<l=LI:>) // 2): <l>[<i>], <l>[-<i> - 1] = <l>[-<i> - 1], <l>[<i>]
3 <o:B> = True; for <c~C> in <=S>: if <B!>: <o> = False; break
3 <o:O> = {}; for <w~S> in <=LS>: <k:I> = <I!>; if <k> not in <o>: <o>[<k>] = [] / <o>[<k>].append(<w>)
3 while <s=S:>.startswith(<w:=X>): <s> = <s>[len(<w>):]
4 <i:I> = 0; while <i> < len(<l=LI:>): if <l>[<i>] <op> <I>: <l>.pop(<i>) / else: <i> += 1
3 <o:DII> = {}; for <x~I> in <=LI>: <o>[<x>] = <o>.get(<x>, 0) + 1
2 <o:I> = <l=LI>[0]; for <x~I> in <l>: if <x> <op> <o>: <o> = <x>
2 <o:I> = 0; for <i~I> in range(len(<l=LI:>)): <o> += <l>[<i>]; <l>[<i>] = <o>
5 if <k=S> in <d=DSI:>: <d>.pop(<k>) / else: <d>[<k>] = <I> | 4 if <k=I> in <d=DII:>: <d>[<k>] += <I> / else: <d>[<k>] = <I>
4 if <k=I> in <l=LI:>: <l>.remove(<k>) | 3 if <k=S> in <l=LS:>: <l>.remove(<k>) | 4 while <k=I> in <l=LI:>: <l>.remove(<k>)
3 if <k=S> in <d=DSS:>: del <d>[<k>] | 3 if <k=I> in <d=DIS:>: <d>[<k>] = <d>[<k>]<smeth>
1 try: <=LI>.remove(<I>) / except ValueError: pass
"""

UPDATES = {
    "S": """
6 <o> += <S!> | 2 <o> = <S!> + <o> | 7 if <B!>: <o> += <S!> | 5 if <B!>: <o> += <S!> / else: <o> += <S!>
1 if <B!>: if <B!>: <o> += <S!> / / else: <o> += <S!> | 1 if <B!>: <o> += <S!> / elif <B!>: <o> += <W>
1 if <B!>: continue / <o> += <S!> | 1 if <B!>: break / <o> += <S!>
""",
    "I": """
9 if <B!>: <o> += 1 | 1 if <B!>: <o> += <K> | 2 <o> += <I!> | 2 if <B!>: <o> += <I!> | 1 if <B!>: <o> += 1 / else: <o> -= 1
1 if <B!>: break / <o> += <K> | 1 <o> = max(<o>, <I!>)
""",
    "LI LS": """
6 <o>.append(<E!>) | 2 <o>.insert(0, <E!>) | 1 <o> += [<E!>] | 8 if <B!>: <o>.append(<E!>)
3 if <B!>: <o>.append(<E!>) / else: <o>.append(<E!>) | 1 if <B!>: if <B!>: <o>.append(<E!>) / / else: <o>.append(<E!>)
1 if <B!>: <o>.append(<E!>); if <B!>: break | 2 if <B!>: <o>.append(<E!>) / else: <o>.insert(0, <E!>)
1 if <v> not in <o>: <o>.append(<v>) | 1 if <B!>: break / <o>.append(<E!>) | 1 if <B!>: continue / <o>.append(<E!>)
""",
}

ENDS = """
6 if <B>: return <ret> / else: return <ret> | 5 if <B>: return <ret> / return <ret> | 4 if <B>: return <yes> / return <no>
4 if <B>: return <yes> / else: return <no> | 1 return <yes> if <B> else <no>
8 for <c~C> in <=S>: if <B!>: return <no> / / return <yes>
3 for <i~I> in range(len(<s=S>)): if <s>[<i>] == <C>: return <i> / / return -1
2 for <i~I> in range(len(<s=S>) - 1, -1, -1)<item>: if <B!>: return <s>[:<i>] / / return <s>
3 for <x~I> in <=LI>: if <B!>: return <no> / / return <yes> | 3 for <w~S> in <=LS>: if <B!>: return <no> / / return <yes>
2 for <k~S>, <v~I> in <=DSI>.items(): if <B!>: return <k> / / return <no>
1 try: return <S>.index(<W>) / except ValueError: return -1
2 for <i~I> in range(len(<l=LI>))<item>: if <B!>: return <i> / / return -1
1 try: return int(<S>) / except ValueError: return <no> | 1 try: return <LI>.index(<I>) / except ValueError: return -1
"""

# ---- names, literals and arguments ---------------------------------------------------------------------------------------

PARAMETERS = {
    "S": "text " * 20 + "s s s s string string string txt txt value name name a a b line sentence word phrase st str1 message code t x n",
    "C": "char char char char char c c letter ch ch value sep x character target fill",
    "W": "sep sep prefix prefix suffix suffix value value chars chars old new sub target s1 s2 x pattern pref delim key substr letters n b",
    "I": "n n n n n num num num index index elem elem value k i target width count m size idx start number length amount pos end maxsplit",
    "LI": "nums nums nums nums nums nums array array array lst arr arr numbers values xs a l list1 items elements digits",
    "LS": "array names items strings words lst lst values arr a l seq lines parts names tokens",
    "LL": "matrix lists array grid rows lst vectors", "D": "d d d d d dic dic dictionary dct data a m counts mapping obj my_dict base"}
LOCALS = {
    "S": "result result s new_text new_text new text2 t res output string ans out line temp r",
    "C": "c c char ch first last x letter", "W": "w p x part temp first", 
    "LI": "result result ls ls l res a arr new_list nums2 output indexes digits lst",
    "I": "count count count count n length length length total result index index i k idx l a b m cnt num pos size",
    "LS": "ls ls new_text new_text result parts words l text_list res arr new_list lines chars a letters lst", "LL": "result rows pairs ls",
    "B": "flag found is_valid check",
    "D": "d d result result res counts dic new_dict new_d mapping", "O": "result res pair ls",
    "i": "i i i i i i i i i j idx index", "x": "i i num n x item e elem v val a", "w": "i word item s w x line part l t",
    "c": "c c c c char char i i ch x s letter",
    "k": "k k k key key key name i", "v": "v v v value value val", "y": "y j e item", "a": "a x i p", "b": "b y j q", "_": "_"}
NAMES = {table: {kind: names.split() for kind, names in found.items()} for table, found in (("parameter", PARAMETERS), ("local", LOCALS))}
SIGNATURES = [(int(weight), kinds) for weight, *kinds in (part.split() for part in """250 S, 110 S W, 60 S C, 34 S I, 79 LI, 56 LI I, 22 LS,
    22 DSI, 14 DII, 14 S W W, 14 LI I I, 13 I, 12 S W I, 5 S C I, 10 LS W, 9 LI LI, 7 DII I, 5 S I I, 7 I I, 4 S LS, 7 DSS, 7 DIS, 4 LS I,
    6 DSI S, 4 DSI DSI, 2 LS LS, 2 LL I, 4 LL, 2 S DSS, 2 S LI, 2 LI W, 3 S S, 2 I I I, 2 DIS I, 2 DSS S, 3 DSI I, 3 S S W, 2 LS S""".split(","))]
WORDS = """the a is of cat dog red blue sun moon tree house hello world python code data test name apple banana cherry day night river stone
    light good bad big small one two three first last new old time year king queen book song ship road map key box cup hat mary john anna paris
    milk bread fish bird""".split()
DELIMITERS = [" ", " ", " ", ",", ", ", "-", "_", "/", ":", ";", ".", "\n", "|", "  ", "#", "+", "\t"]
LOWER, UPPER, DIGITS, MARKS = "abcdefghijklmnopqrstuvwxyz", "ABCDEFGHIJKLMNOPQRSTUVWXYZ", "0123456789", "!?.,;:-_#$%&*()+=/@'~ "
ANSWERS = [*[("True", "False")] * 5, ("False", "True"), ("'yes'", "'no'"), ("'Yes'", "'No'"), ("1", "0"), ("0", "-1"), ("'valid'", "'invalid'"),
           ("'found'", "'none'"), ("'ok'", "'error'")]
FIXED = {"K": [1, 1, 2, 2, 2, 3, 3, 4, 5], "H": [2, 2, 2, 2, 3, 3, 4, 5], "P": [2, 3, 5, 10, 10], "J": [0, 0, 0, 1, 1, -1, -1, 2, 3, -2],
         "G": range(3, 15), "Q": ["''", "''", "''", "''", "' '", "' '", "', '", "','", "'-'", "'_'", r"'\n'", "'|'", "' - '"],
         "M": ["'aeiou'", "'aeiou'", "'AEIOU'", "'aeiouAEIOU'", "'0123456789'", "'.,!?'", "'abc'", "' '", "['a', 'b']", "'xyz'", "'-_'"]}
SPECIAL = {"news": ["''"], "newi": ["0", "0", "0", "0", "1", "-1"], "newli": ["[]"], "newls": ["[]", "[]", "[]", "list()"],
           "op": "> > > > < < < == == == == != >= <=".split(), "aug": ["+=", "-=", "*="], "0": ["0", "0", "-1"], "key": WORDS,
           "lam": ["-x", "abs(x)", "x % 3", "x * 2", "x + 1"], "isa": ["isalpha", "isdigit", "isalnum", "isupper", "islower"],
           "smeth": [".upper()", ".lower()", ".strip()", ".title()", "[::-1]", ".capitalize()"]}


def random_int(rng) -> int:
    low, high = rng.choices([(0, 9), (-9, -1), (10, 99), (100, 1500)], [60, 15, 20, 5])[0]
    return rng.randint(low, high)


def random_word(rng) -> str:
    return rng.choice(WORDS) if rng.random() < 0.4 else "".join(rng.choices(LOWER, k=rng.choice([1, 2, 3, 3, 4, 4, 5, 6, 7, 9])))


def random_text(rng) -> str:
    """A word, a sentence, a salad of letters, digits and punctuation, a list with delimiters; sometimes empty."""
    draw = rng.random()
    if draw < 0.05:
        return ""
    if draw < 0.3:
        text = random_word(rng)
    elif draw < 0.45:
        text = " ".join(random_word(rng) for _ in range(rng.randint(2, 6)))
    elif draw < 0.58:
        text = rng.choice(DELIMITERS).join(random_word(rng) for _ in range(rng.randint(2, 5)))
    elif draw < 0.68:
        text = "".join(rng.choices(LOWER + UPPER, k=rng.randint(3, 16)))
    elif draw < 0.78:
        text = "".join(rng.choices(LOWER * 2 + UPPER + DIGITS + MARKS, k=rng.randint(4, 24)))
    elif draw < 0.86:
        text = "".join(rng.choices(DIGITS, k=rng.randint(1, 10)))
    elif draw < 0.96:
        text = "".join(rng.choices(rng.sample(LOWER + DIGITS + MARKS, 4), k=rng.randint(3, 12)))
    else:
        text = "".join(rng.choices(LOWER + " éüñßÄж日", k=rng.randint(3, 10)))
    draw = rng.random()
    if draw < 0.18:
        return [str.title, str.upper, str.capitalize][int(draw / 0.06)](text)
    return text + rng.choice("!?. ") if draw < 0.24 else f" {text} " if draw < 0.28 else text


def random_value(kind: str, rng):
    """An argument of this type."""
    if kind == "I":
        return random_int(rng)
    if kind == "S":
        return random_text(rng)
    if kind in ("C", "W"):
        size = 1 if kind == "C" else rng.choice([0, 1, 1, 2, 2, 3, 4, 6])
        return "".join(rng.choices(LOWER * 3 + UPPER + DIGITS + MARKS, k=size))
    size = 0 if rng.random() < (0.2 if kind[0] == "D" else 0.08) else rng.randint(1, 8 if kind == "LI" else 5)
    if kind == "LI":
        low, high = rng.choice([(0, 3), (0, 9), (1, 9), (-9, 9), (0, 99), (-50, 50)])
        return [rng.randint(low, high) for _ in range(size)]
    if kind == "LS":
        return [random_word(rng) if rng.random() < 0.8 else random_text(rng)[:12] for _ in range(size)]
    if kind == "LL":
        return [[rng.randint(0, 9) for _ in range(rng.randint(0, 4))] for _ in range(min(size, 4))]
    key, value = (random_int if part == "I" else random_word for part in kind[1:])
    return {key(rng): value(rng) for _ in range(min(size, 4))}


def written(value, rng) -> str:
    """The argument's text; some people write double quotes."""
    text = repr(value)
    return text.replace("'", '"') if rng.random() < 0.2 and '"' not in text and "\\" not in text else text


def laid_out(code: str, rng) -> str:
    """The code as people write it: some with an empty line, with double quotes, without spaces after commas or around operators."""
    draw = rng.random()
    if draw > 0.14:
        return code
    if draw > 0.12:
        return code.replace("\n    ", "\n\n    ", 1) if draw > 0.13 else "\n\n    return".join(code.rsplit("\n    return", 1))
    parts = re.split(r"""('(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*")""", code)  # the texts are at odd places
    if draw > 0.06:
        tight = re.compile(rng.choice([r"(,) ", r" ([-+*/%]|==|<|>) "]))
        parts[::2] = [tight.sub(r"\1", part) for part in parts[::2]]
    else:
        parts[1::2] = [part if '"' in part or "\\" in part else f'"{part[1:-1]}"' for part in parts[1::2]]
    return "".join(parts)


# ---- templates -----------------------------------------------------------------------------------------------------------

HOLE = re.compile(r"<([a-z_0-9]*)(:=|[=:~]?)([A-Z]*)([!:]?)>")
KINDS = "B C DII DIS DSI DSS I LI LL LS O S V W".split()
HELD = {"S", "LI", "LS", "LL", "DSI", "DII", "DSS", "DIS"}  # types whose literals say little: a variable is wanted
ACCEPT = {kind: {kind} for kind in KINDS} | {"W": {"W", "C"}, "J": {"I"}, "G": {"I"}, "N": {"I"}}  # hole -> types of variables it takes
FORCED = ACCEPT | {"S": {"S", "C", "W"}}  # the same, where a certain variable has to be read
TAKES = FORCED | {"B": {"B", "I", "S", "C", "W", "LI", "LS", "DSI", "DII"}}  # the same, where it may stand within an expression
LITERAL = {"W": 0.55, "C": 0.5, "X": 1, "J": 0.7, "G": 0.7, "N": 0.85, "I": 0.12} | dict.fromkeys("KHPMQ", 1)  # how often a literal
ASSIGNED = {"S": 8, "I": 4, "LS": 4, "LI": 4, "DSI": 1, "DII": 1, "DSS": 1, "DIS": 1, "B": 1, "W": 1, "LL": 1}  # types of assigned expressions
RETURNED = {"S": 8, "I": 4, "LS": 3, "LI": 4, "DSI": 1, "DII": 1, "DSS": 1, "DIS": 1, "B": 1, "O": 2}  # and of returned ones
PARTS = {"LI": "I", "LS": "S", "LL": "LI"}  # <E>, the items of a list


class Hole(typing.NamedTuple):
    key: str        # <x=T>: x
    mark: str       # what stands before the type: nothing or = : ~ :=
    kind: str       # the type; "" where the hole only repeats or names something
    flag: str       # ! must read the loop's variable; : the template changes the variable
    indent: str     # of the line that begins with the hole
    room: int       # how loose an expression may be here without brackets


def room(before: str, after: str) -> int:
    """Of a hole between these texts: 3 any expression, 2 none with `if ... else`, 1 comparisons too, 0 only an operand."""
    before, after = before.rstrip(" "), after.lstrip(" ")
    opened = before == "" or before[-1] in "([{,:" or re.search(r"(^|[^=<>!+*/%-])[-+*/]?=$|\b(if|while|return|elif|else)$", before)
    closed = after == "" or after[0] in ")]},:\n" or after.startswith("for ")
    if opened and closed:
        return 3
    if closed and after and before.endswith(" in"):
        return 2
    return int(bool((opened or re.search(r"\b(and|or|not)$", before)) and (closed or re.match(r"(and|or|if)\b", after))))


def looseness(text: str) -> int:
    """Of an expression: 3 with `if ... else` or lambda, 2 with and, or; 1 with another operator; 0 an operand."""
    text, inner = re.sub(r"'[^']*'", "''", HOLE.sub("x", text)), 1
    while inner:  # what stands in brackets does not count
        text, inner = re.subn(r"[(\[{][^()\[\]{}]*[)\]}]", "", text)
    return 3 if re.search(r" (if|for) |lambda", text) else 2 if re.search(r"\b(and|or)\b", text) else int(" " in text)


class Template:
    """pieces: texts, with a Hole between each two; order: in which the holes are filled; needs: type -> variables of it that must exist."""

    def __init__(self, text: str, statement: bool = False, changes: bool = False):
        self.statement, self.level = statement, looseness(text)
        self.grows, self.deep = "while" in text or "<o:" in text, "<B" in text or " for " in text
        self.pieces, position = [], 0
        for found in HOLE.finditer(text):
            key, mark, kind, flag = found.groups()
            line = text[text.rfind("\n", 0, found.start()) + 1:found.start()]
            flag = ":" if changes and mark == "=" else flag
            self.pieces += [text[position:found.start()],
                            Hole(key, mark, kind, flag, line if not line.strip() else "", room(text[:found.start()], text[found.end():]))]
            position = found.end()
        self.pieces.append(text[position:])
        holes, self.order = self.pieces[1::2], range(1, len(self.pieces), 2)
        if not statement:  # what a comprehension runs over comes first, then its variables, then what reads them
            late = {place: not self.pieces[place].kind or self.pieces[place].flag == "!" for place in self.order}
            self.order = sorted(self.order, key=lambda place: (late[place], self.pieces[place].mark == "~"))
        self.holes = {hole.kind for hole in holes if hole.kind and hole.mark in ("", "=") and hole.flag != "!"}
        if "<block>" in text:
            self.holes.add("B")  # its statements find something to read
        self.needs = Counter(hole.kind for hole in holes if hole.mark == "=")


def unfold(text: str) -> str:
    """`if a: b; c / d` on lines of their own: one level deeper after a head's colon, / one level back, / / two."""
    parts, lines, depth = re.split(r"(; | / / | / )", text), [], 0
    for step, part in zip(["; ", *parts[1::2]], parts[::2]):
        depth -= step.count("/")
        while head := re.match(r"(for|while|if|elif|else|try|except)\b.*?: ", part):
            lines.append("    " * depth + head[0].rstrip())
            depth, part = depth + 1, part[head.end():]
        lines.append("    " * depth + part)
    return "\n".join(lines)


def grammar(text: str, statement: bool = False, changes: bool = False) -> list[tuple[float, Template]]:
    """(weight, template) of each entry. changes: what <=T> stands for is changed, not read."""
    parts = re.split(r"(?:^| \| )([\d.]+) ", text, flags=re.MULTILINE)
    bodies = [body.rstrip("\n") for body in parts[2::2]]
    bodies = map(unfold, bodies) if statement else bodies
    return [(float(weight), Template(body, statement, changes)) for weight, body in zip(parts[1::2], bodies)]


class Choice:
    """Templates by weight: all of them, and those that can read a variable of a given type."""

    def __init__(self, found):
        self.all, self.reading = self.cumulated(found), {}
        for kind in KINDS:
            kinds, fitting = {"V": {"W", "C"}, "W": {"W", "C"}}.get(kind, {kind}), []
            for weight, template in found:
                holes = {hole for hole in template.holes if kinds & TAKES.get(hole, set())}
                if kind in ("V", "W") and not holes & {"W", "C"}:  # such arguments are mostly looked for in others
                    weight /= 8
                if holes == {"B"} and kind != "B" and not template.statement:  # `a and b`, `a if b else c` can read anything
                    weight /= 3
                if holes:
                    fitting.append((weight, template))
            self.reading[kind] = self.cumulated(fitting)

    def share(self, kind: str) -> float:
        """How much of the weight can read this type."""
        return (self.reading[kind][0] or [0])[-1] / self.all[0][-1]

    @staticmethod
    def cumulated(found):
        return list(itertools.accumulate(weight for weight, _ in found)), [template for _, template in found]

    def draw(self, rng, kind: str | None = None):
        weights, templates = self.reading[kind] if kind else self.all
        return templates[bisect.bisect(weights, rng.random() * weights[-1])] if templates else None


def expanded(tables: dict[str, str], **options) -> dict[str, Choice]:
    """A table for each type; a table of several types is copied with <T>, <E> and <F> (a key) replaced, <LE> being the list of E."""
    texts = defaultdict(str)
    for kinds, text in tables.items():
        for kind in kinds.split():
            part, key, copy = PARTS.get(kind, kind[2:] or "O"), kind[1:2], text
            for hole, name in (("T", kind), ("LE", "L" + part), ("LF", "L" + key), ("E", part), ("F", key)):
                copy = re.sub(rf"<([a-z]*[~:=]*){hole}(!?)>", rf"<\1{name}\2>", copy)
            texts[kind] += copy.strip("\n") + "\n"
    return {kind: Choice(grammar(text, **options)) for kind, text in texts.items()}


EXPRESSIONS, UPDATES = expanded(EXPRESSIONS), expanded(UPDATES, statement=True)
COMPOUND += "".join(f"{weight} <o:{kind}> = <new{kind.lower()}>; {head} <upd>\n"
                    for kinds, head in re.findall("(.*?): (for .*)", LOOPS) for kind, weight in (part.split() for part in kinds.split(",")))
SIMPLE, COMPOUND, ENDS = (Choice(grammar(text, statement=True, changes=text is STATEMENTS)) for text in (STATEMENTS, COMPOUND, ENDS))


def sources(kinds: dict[str, int]) -> dict[str, tuple]:
    """Type of a variable -> (types, weights) of the expressions that read it: weight times the share of templates that can."""
    return {kind: (list(kinds), [weight * EXPRESSIONS[target].share(kind) for target, weight in kinds.items()]) for kind in KINDS}


ASSIGNED, RETURNED = sources(ASSIGNED), sources(RETURNED)
# how often an assignment, a simple statement, a compound one, by the type of the variable that it shall read
OUTER = {kind: [0.3, min(3 * SIMPLE.share(kind), 0.5), max(1.5 * COMPOUND.share(kind), 0.35 * (kind in HELD))] for kind in KINDS}
INNER = {kind: [0.25, min(3 * SIMPLE.share(kind), 0.6), 0.2] for kind in KINDS}
SIGNATURE_WEIGHTS = list(itertools.accumulate(weight for weight, _ in SIGNATURES))


# ---- writing a program ---------------------------------------------------------------------------------------------------


class Writer:
    """Writes one program. scope: variable -> type; read: the variables that something reads; fixed: those that must not change now."""

    def __init__(self, rng: random.Random):
        self.rng, self.scope, self.read, self.fixed, self.hidden, self.avoid, self.focus = rng, {}, set(), set(), set(), set(), None
        self.yes, self.no = rng.choice(ANSWERS)
        self.arguments, self.pieces, self.numbers = [], [], []
        kinds = SIGNATURES[bisect.bisect(SIGNATURE_WEIGHTS, rng.random() * SIGNATURE_WEIGHTS[-1])][1]
        for kind in kinds:
            self.parameter(kind)
        self.given = set(self.scope)

    def parameter(self, kind: str) -> None:
        """Draw an argument; later ones are often a piece of earlier ones, and an index fits."""
        rng, value = self.rng, random_value(kind, self.rng)
        if kind in ("C", "W", "S") and self.pieces and rng.random() < (0.65 if kind != "S" else 0.2):
            value = self.piece(1)[:1] if kind == "C" else self.piece(3)
        if kind in ("S", "W") and self.pieces and not isinstance(self.arguments[0], str) and rng.random() < 0.5:
            value = rng.choice(self.pieces)  # a key or an item
        if kind == "I" and self.arguments:
            if self.numbers and rng.random() < 0.55:
                value = rng.choice(self.numbers)
            elif rng.random() < 0.7:
                value = rng.randint(0, 6)
        if kind[0] in "SL" and value:
            self.pieces += [part for part in value if isinstance(part, str) and part] if kind != "S" else [value]
        if kind in ("LI", "DII", "DSI"):
            self.numbers += value.values() if isinstance(value, dict) else value
        if kind in ("DSI", "DSS", "DII", "DIS"):
            self.pieces += [key for key in value if isinstance(key, str) and key]
            self.numbers += [key for key in value if isinstance(key, int)]
        self.arguments.append(value)
        self.scope[self.new_name(kind, "parameter")] = kind

    def piece(self, longest: int) -> str:
        """A piece of some argument's text."""
        if not self.pieces:
            return self.rng.choice(LOWER)
        text = self.rng.choice(self.pieces)
        start = self.rng.randrange(len(text)) if self.rng.random() < 0.7 else 0
        return text[start:start + self.rng.choice([1, 1, 1, 2, longest])]

    def new_name(self, kind: str, table: str = "local", key: str = "") -> str:
        names = NAMES[table]
        names = names.get(key if table == "local" and key in "i x w c k v y a b _".split() else kind) or names["D"]
        for _ in range(6):
            name = self.rng.choice(names)
            if name not in self.scope and name not in self.hidden:
                return name
        numbered = (self.rng.choice(names) + str(number) for number in itertools.count(1))
        return next(name for name in numbered if name not in self.scope and name not in self.hidden)

    # -- expressions

    def pick(self, kinds, free: bool = False) -> str | None:
        """A variable of one of these types: one that nothing has read yet, or one of the newest. free: none that a loop runs over."""
        hidden = self.avoid | self.fixed if free else self.avoid
        names = [name for name, kind in self.scope.items() if kind in kinds and name not in hidden]
        if not names:
            return None
        fresh = [name for name in names if name not in self.read]
        if fresh and self.rng.random() < 0.7:
            return fresh[-1] if self.rng.random() < 0.5 else self.rng.choice(fresh)
        return names[-1] if self.rng.random() < 0.5 else self.rng.choice(names)

    def kind(self, name: str) -> str:
        """Which of a Choice's tables to draw from for a template that reads this variable."""
        return "V" if self.scope[name] == "C" and name in self.given else self.scope[name]

    def possible(self, template: Template) -> bool:
        """Are there variables for its <=T>, and for each of its other holes a variable or a fair literal?"""
        scope = [kind for name, kind in self.scope.items() if not (template.statement and name in self.fixed)]
        if any(scope.count(need) < count for need, count in template.needs.items()):
            return False
        if template.holes & {"W", "C"} and not {"W", "C"} & set(scope) and self.rng.random() < 0.5:
            return False  # texts to look for are mostly arguments
        return all(need in scope for need in template.holes if need in HELD)

    def expression(self, kind: str, depth: int, must: str | None = None) -> tuple[str, int]:
        """(text, how loose it is) of an expression; `must` names a variable that it reads if any of its templates can."""
        rng, accepted = self.rng, ACCEPT.get(kind, set())
        if must:
            name, grow = must if self.scope[must] in FORCED.get(kind, set()) else None, 0.5
        else:
            literal = LITERAL.get(kind, 0)
            name, grow = self.pick(accepted) if literal < 1 else None, {"B": 0.7, "W": 0.1}.get(kind, 0.28)
            if rng.random() < (literal if name is None or literal == 1 else 0.35 * literal):
                return self.literal(kind), 0
        if kind in EXPRESSIONS and (depth > 0 and (name is None or rng.random() < grow) or kind == "B" and name is None):
            for _ in range(10):
                about = must or self.pick(KINDS) or next(reversed(self.scope), None)
                template = EXPRESSIONS[kind].draw(rng, self.kind(about)) if about else None
                if template and self.possible(template) and not (depth < 1 and template.deep):
                    return self.fill(template, depth - 1, about), template.level
        name = name or self.pick(accepted)
        if name is None and kind in HELD:  # one that was to be avoided
            name = next((found for found, has in reversed(self.scope.items()) if has == kind), None)
        if name:
            self.read.add(name)
            return name, 0
        return self.literal(kind), 0

    def literal(self, kind: str) -> str:
        """A literal of the type, often a piece of an argument."""
        rng = self.rng
        if kind in FIXED:
            return str(rng.choice(FIXED[kind]))
        if kind == "X":
            return repr(self.piece(2))
        if kind == "W":
            others = [rng.choice(MARKS), rng.choice(LOWER), rng.choice(LOWER + UPPER), random_word(rng)[:3]]
            return repr(self.piece(3) if rng.random() < 0.7 else rng.choice(others))
        if kind == "C":
            return repr(self.piece(1)[:1] if rng.random() < 0.65 else rng.choice(LOWER + LOWER + MARKS))
        if kind in ("I", "N"):
            if self.numbers and rng.random() < 0.5:
                return str(rng.choice(self.numbers))
            return str(rng.randint(0, 5) if rng.random() < 0.6 else random_int(rng))
        if kind in ("LI", "LS"):
            return repr(random_value(kind, rng))
        return {"B": "True", "S": "''", "LL": "[]"}.get(kind, "{}")

    # -- templates

    def fill(self, template: Template, depth: int, must: str | None = None, keys=None) -> str:
        """The template's text. `must` goes into the first hole that takes it; at its end new variables enter the scope, temporary ones leave it."""
        keys, new, temporary, changed = dict(keys or {}), {}, {}, []
        texts, focus, avoid, fixed = list(template.pieces), self.focus, self.avoid, set(self.fixed)
        self.avoid = set()
        for place in template.order:
            hole, line_ends = template.pieces[place], "\n" in template.pieces[place + 1]
            if hole.key == "item":  # s[i] is a variable too
                item, text = keys.get("s") or keys["l"], ""
                temporary[f"{item}[{keys['i']}]"] = {"S": "C", "LI": "I", "LS": "S"}[self.scope[item]]
            elif not hole.kind:
                text = keys.get(hole.key) or self.special(hole.key, keys, new)
            elif hole.mark in (":", "~"):
                text = self.new_name(hole.kind, key=hole.key)
                self.hidden.add(text)
                (new if hole.mark == ":" else temporary)[text] = hole.kind
            elif hole.mark == "=":
                text, must = self.variable(hole, template.statement, must)
                changed += [text] if hole.flag else []
            else:
                text, must = self.operand(hole, max(depth, 1) if template.statement else depth, must, texts)
            if hole.kind:
                keys[hole.key] = text
                if self.scope.get(text) in (("S", "C", "W") if template.statement else KINDS) and hole.mark != "~":
                    self.avoid = self.avoid | {text}  # x == x says nothing
            texts[place] = text.replace("\n", "\n" + hole.indent) if hole.indent else text
            if line_ends and template.statement:
                self.avoid = set()
            if temporary and (line_ends if template.statement else hole.mark == "~"):  # not before the loop's head is written
                self.scope.update(temporary)
                self.focus = next(reversed(temporary))
        for name in temporary:
            self.scope.pop(name, None)
            self.hidden.discard(name)
        self.focus, self.avoid, self.fixed = focus, avoid, fixed
        for name in changed:  # the newest, and its new value is not read yet
            if name in self.scope:
                self.scope[name] = self.scope.pop(name)
                self.read.discard(name)
        self.scope.update(new)
        return "".join(texts)

    def variable(self, hole: Hole, statement: bool, must: str | None) -> tuple[str, str | None]:
        """(variable for a hole <=T>, what still must be read). A statement keeps it from being changed in its body."""
        takes = must is not None and self.scope[must] == hole.kind and not (statement and must in self.fixed)
        name = must if takes else self.pick({hole.kind}, free=statement)
        name = name or next(name for name, kind in self.scope.items() if kind == hole.kind)
        if not hole.flag:
            self.read.add(name)
        if statement:
            self.fixed.add(name)
        return name, None if takes else must

    def operand(self, hole: Hole, depth: int, must: str | None, texts: list) -> tuple[str, str | None]:
        """(expression for a hole <T> or <T!>, what still must be read)."""
        kind = hole.kind
        if must is not None and hole.flag != "!" and self.scope.get(must) in TAKES.get(kind, ()):
            direct = self.scope[must] in FORCED.get(kind, set()) and self.rng.random() < 0.75
            text, loose = (must, 0) if direct else self.expression(kind, depth, must)
            self.read.add(must)
            must = None
        else:
            text, loose = self.expression(kind, depth, self.focus if hole.flag and self.focus in self.scope else None)
        if text in texts and kind in LITERAL and text[0] in "'0123456789":  # x.replace('a', 'a') does nothing
            text = self.literal(kind)
        return f"({text})" if loose > hole.room else text, must

    def special(self, key: str, keys: dict, new: dict) -> str:
        """What <upd>, <block>, <ret>, <yes>, <no> and the names of SPECIAL stand for."""
        if key == "upd":
            return self.fill(UPDATES[new[keys["o"]]].draw(self.rng), 1, keys={"o": keys["o"], "v": self.focus})
        if key == "block":
            scope = dict(self.scope)
            text = "\n".join(self.statement(inside=True) for _ in range(self.rng.choice([1, 1, 1, 2])))
            self.scope = {name: kind for name, kind in self.scope.items() if name in scope}  # new names may be unbound after it
            return text
        if key == "ret":
            return "None" if self.rng.random() < 0.03 else self.returned()
        return {"yes": self.yes, "no": self.no}.get(key) or self.rng.choice(SPECIAL[key])

    # -- statements

    def statement(self, inside: bool = False) -> str:
        """One statement that reads or changes a variable nothing has read yet, or a new one. inside: within a loop or a branch."""
        for _ in range(6):
            must = self.focus if inside and self.focus in self.scope and self.rng.random() < 0.6 else self.pick(KINDS)
            choice = must and self.rng.choices([None, SIMPLE, COMPOUND], (INNER if inside else OUTER)[self.kind(must)])[0]
            if choice is None:
                break
            template = choice.draw(self.rng, self.kind(must))
            if template and self.possible(template) and not (inside and template.grows):
                return self.fill(template, 2, must)
        return self.assign(must, inside)

    def assign(self, must: str | None, inside: bool) -> str:
        """NAME = expression that reads `must`; inside a loop or a branch NAME exists already."""
        rng = self.rng
        for _ in range(8 if must and self.scope[must] != "O" else 0):
            kind, = rng.choices(*ASSIGNED[self.kind(must)])
            kept = self.fixed | {self.focus}
            names = [name for name, found in self.scope.items() if found == kind and name not in kept and "[" not in name]
            if inside and not names:
                continue
            again = rng.choice(names) if names and (inside or rng.random() < 0.1) else None
            if must in names and rng.random() < 0.6:
                again = must
            template = EXPRESSIONS[kind].draw(rng, self.kind(must))
            if self.possible(template):
                text = self.fill(template, 1, must)
                if again is None and self.scope[must] in HELD and rng.random() < 0.06:
                    text, kind = must, self.scope[must]
                return f"{self.define(kind, again)} = {text}"
        return f"return {self.returned()}" if inside else f"{self.define('I')} = {self.literal('I')}"

    def define(self, kind: str, name: str | None = None) -> str:
        """A new variable, or an old one with a new value, which nothing has read yet."""
        name = name or self.new_name(kind)
        self.scope.pop(name, None)
        self.scope[name] = kind
        self.read.discard(name)
        return name

    def returned(self, trivial: bool = False) -> str:
        """What a return gives back: a variable, an expression that reads one, or an answer."""
        rng, must, best = self.rng, self.pick(KINDS), None
        if must is None:
            return self.literal("I")
        if self.scope[must] == "LS" and rng.random() < 0.6:
            self.read.add(must)
            return f"{self.literal('Q')}.join({must})"
        plain = self.scope[must] == "O" or self.scope[must] not in ("W", "C", "I", "B") and not trivial and rng.random() < 0.65
        for _ in range(0 if plain else 6):
            kind, = rng.choices(*RETURNED[self.kind(must)])
            template, read = EXPRESSIONS[kind].draw(rng, self.kind(must)), set(self.read)
            if self.possible(template):
                text = self.fill(template, 2, must)
                left = len(self.scope.keys() - self.read)
                if best is None or left < best[0]:  # the one that leaves the fewest variables unread
                    best = left, text, self.read
                self.read = read
        _, text, self.read = best or (0, must, self.read | {must})
        return text

    def program(self) -> dict:
        """One program and a call of it: {"code", "call"}."""
        rng, lines = self.rng, []
        head = f"def f({', '.join(self.scope)}):"
        call = f"f({', '.join(written(value, rng) for value in self.arguments)})"
        wanted, count = rng.choices([0, 1, 2, 3, 4, 5], [17, 28, 33, 15, 5, 2])[0], 0
        while count < wanted:
            lines += self.statement().split("\n")
            count = sum(not line.startswith((" ", "el", "except")) for line in lines)
        must = self.pick(KINDS)
        end = ENDS.draw(rng, self.kind(must)) if must and rng.random() < 0.22 else None
        end = self.fill(end, 2, must) if end and self.possible(end) else f"return {self.returned(trivial=not lines)}"
        lines += end.split("\n")
        return {"code": laid_out(head + "".join("\n    " + line for line in lines), rng), "call": call}


# ---- distinct programs, files, the comparison ----------------------------------------------------------------------------

def shape(code: str) -> str:
    """The program up to its own names, layout and quotes: equal shapes are one program."""
    tree, names = ast.parse(code), {}
    nodes = list(ast.walk(tree))
    for node in nodes:
        if isinstance(node, (ast.arg, ast.FunctionDef)) or isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.setdefault(next(value for _, value in ast.iter_fields(node)), f"v{len(names)}")  # the first field is the name
    for node in nodes:
        for field in ("id", "arg", "name"):
            if getattr(node, field, None) in names:
                setattr(node, field, names[getattr(node, field)])
    return ast.dump(tree)


def programs(count: int, seed: int, leave_out=frozenset()):
    """Yield `count` programs {"id", "code", "call"}, no two of one text, none whose shape is in `leave_out`."""
    rng, seen = random.Random(seed), set()
    while len(seen) < count:
        program = Writer(rng).program()
        if program["code"] not in seen and not (leave_out and shape(program["code"]) in leave_out):
            seen.add(program["code"])
            yield {"id": f"puzzle_{len(seen) - 1}", **program}


def calls(path: Path) -> list[dict]:
    """The programs of a benchmark's file that augment.py would run: code and call."""
    found = (augment.candidate_of(row, augment.Recipe()) for row in augment.program_rows(path, augment.FIELDS))
    return [{"code": item.code, "call": item.call} for item in found if isinstance(item, augment.Candidate)]


def shapes(paths: list[Path]) -> set[str]:
    """The shapes of the programs of benchmark files, of those that this Python reads."""
    found = set()
    for path in paths:
        for row in augment.program_rows(path, augment.FIELDS, runs=False):
            with contextlib.suppress(SyntaxError, ValueError):
                found.add(shape(row["code"]))
    return found


def measures(rows: list[dict]) -> tuple[dict, Counter]:
    """Of the programs that run: ({name: a number for each program}, {name: how many programs of 100 have it})."""
    size, has, total = defaultdict(list), Counter(), 0
    for row, trace in zip(rows, sandbox.trace_many((augment.instrument(row["code"]), row["call"]) for row in rows)):
        if trace.status != "ok":
            continue
        total += 1
        size["lines"].append(row["code"].strip().count("\n") + 1)
        size["characters of the code"].append(len(row["code"]))
        size["characters of the arguments"].append(len(row["call"]) - len("f()"))
        size["characters of the result"].append(len(trace.value))
        size["anchors printed"].append(len(trace.anchors))
        nodes = list(ast.walk(ast.parse(row["code"])))
        names = {type(node).__name__ for node in nodes}
        names |= {"." + node.attr for node in nodes if isinstance(node, ast.Attribute)}
        names |= {node.func.id + "()" for node in nodes if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}
        has.update(names | {"-> " + type_of(trace.value)})
    if total < 2:
        raise augment.BadInput(f"{total} of {len(rows)} programs run: too few to compare")
    return size, Counter({name: 100 * count / total for name, count in has.items()} | {"runs": 100 * total / len(rows)})


def type_of(text: str) -> str:
    """The type of a literal's value."""
    try:
        return type(ast.literal_eval(text)).__name__
    except (ValueError, SyntaxError):
        return "no literal"


def compare(path: Path, count: int, seed: int) -> None:
    """Print how near the programs are to a file's: sizes, and what is common there of constructs, result types, methods and functions."""
    (sizes, theirs), (own_sizes, ours) = measures(calls(path)), measures(list(programs(count, seed)))
    print(f"{'10%, 50%, 90%, mean':34} {path.name:>22} {'generated':>22}")
    for name in sizes:
        cells = []
        for values in (sizes[name], own_sizes[name]):
            tenths = statistics.quantiles(values, n=10)
            cells.append(f"{tenths[0]:.0f} {tenths[4]:.0f} {tenths[8]:.0f} {statistics.mean(values):.1f}")
        print(f"{name:34} {cells[0]:>22} {cells[1]:>22}")
    print(f"{'% of the programs that run':34} {'':>22} {'':>22}   ratio")
    groups = defaultdict(list)
    for name, share in theirs.most_common():
        if share > 0.5 and name not in ("Module", "FunctionDef", "arguments", "arg", "Load", "Return", "Name"):
            groups["result" if name[0] == "-" else "called" if name[0] == "." or name[-1] == ")" else "construct"].append(name)
    for name in groups["construct"][:45] + groups["result"] + groups["called"][:70]:
        print(f"{name:34} {theirs[name]:22.1f} {ours[name]:22.1f} {ours[name] / theirs[name]:7.2f}")


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Generate programs as rich as CRUXEval's.")
    parser.add_argument("--out", type=Path, default=Path("runs/puzzles"), help="folder to write to: sft.jsonl, rl.jsonl and model")
    parser.add_argument("--sft", type=toy.whole("count", 1), default=160_000, help="number of programs for sft.py, or to compare")
    parser.add_argument("--rl", type=toy.whole("count", 0), default=4_000, help="number of programs for bigrpo.py, others than those")
    parser.add_argument("--width", type=toy.whole("width", 32, 32), default=640, help="hidden size of the model, a multiple of 32")
    parser.add_argument("--layers", type=toy.whole("layers", 1), default=8, help="layers of the model")
    parser.add_argument("--seed", type=toy.whole("seed", 0), default=0, help="of programs and weights")
    parser.add_argument("--leave-out", nargs="+", type=Path, default=[], metavar="FILE",
                        help="JSONL files of programs: those equal to one of them up to names, layout and quotes are not written")
    parser.add_argument("--compare", type=Path, metavar="FILE",
                        help="print how near the programs are to those of a JSONL file, and write nothing")
    return parser


def main() -> None:
    parser = build_parser()
    args = parser.parse_args()
    try:
        if args.compare:
            return compare(args.compare, args.sft, args.seed)
        str(args.out).encode()  # safetensors and tokenizers take no other path
        leave_out = shapes(args.leave_out)
        args.out.mkdir(parents=True, exist_ok=True)
        rows = list(tqdm(programs(args.sft + args.rl, args.seed, leave_out), total=args.sft + args.rl, desc="puzzles"))
        toy.write_jsonl(args.out / "sft.jsonl", rows[:args.sft])
        toy.write_jsonl(args.out / "rl.jsonl", rows[args.sft:])
        tokenizer = toy.make_tokenizer(toy.tokenizer_texts(rows[:20_000]), CONTEXT)
        model = toy.make_model(tokenizer, args.width, args.layers, args.seed, CONTEXT)
        model.save_pretrained(args.out / "model")
        tokenizer.save_pretrained(args.out / "model")
    except UnicodeEncodeError:
        parser.error(f"--out {str(args.out)!r}: the path is not UTF-8")
    except (OSError, augment.BadInput) as problem:
        parser.error(str(problem))
    size = sum(p.numel() for p in model.parameters()) / 1e6
    print(f"{args.out}: {args.sft} + {args.rl} programs, {len(tokenizer)} tokens, {size:.1f}M parameters", file=sys.stderr)


if __name__ == "__main__":
    main()
