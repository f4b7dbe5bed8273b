"""The embedded default: small programs, a tokenizer and a tiny model, all made on the spot.

Nothing is downloaded. `python toy.py --out runs/toy` writes

    runs/toy/sft.jsonl, rl.jsonl   training programs, {"id", "code", "call"} a line, none in both
    runs/toy/test.jsonl            test programs: a hash of the code decides the side, so none is trained on
    runs/toy/model/                a Qwen2-shaped model with random weights and its tokenizer, an ordinary checkpoint
                                   folder that AutoModelForCausalLM.from_pretrained and vLLM open

How a program is made. `Generator` writes one statement at a time and keeps, beside the text, the value that every
variable has for the call it will print at the end. So each program runs without error, its numbers and strings stay
short, and no code is ever executed here. One number, the difficulty, sets how many statements a body has and how often it
branches and loops. The programs of the warm start are shorter (`--sft-difficulty`) than those of RL and test (`--difficulty`), so
that RL has something left to teach.

    python toy.py --out runs/toy --sft-difficulty 2 --difficulty 3 --seed 0
"""

import argparse
import hashlib
import itertools
import json
import random
import re
import sys
from collections import Counter
from pathlib import Path

LETTERS = "bdgkm"  # of strings; no word of the toy's programs consists of these alone, so the tokenizer never merges them
MAX_INT, MAX_TEXT, MAX_ITEMS = 30, 5, 4
TAGS = [f"<{slash}{name}>" for name in ("reasoning", "print", "answer", "input") for slash in ("", "/")]
PAD, EOS = "<|pad|>", "<|end|>"
CONTEXT = 512  # tokens of prompt and response


# ---------------------------------------------------------------------------------------------------------------------
# Programs


def small(value) -> bool:
    """True if a value is small enough for the toy: |int| <= 30, str <= 5 letters, list and dict <= 4 items."""
    if isinstance(value, (bool, int)):
        return abs(value) <= MAX_INT
    if isinstance(value, str):
        return len(value) <= MAX_TEXT
    if isinstance(value, dict):
        return len(value) <= MAX_ITEMS and all(map(small, value.values()))
    return len(value) <= MAX_ITEMS and all(map(small, value))


class Generator:
    """Writes one program and follows its values: `lines` is the body so far, `env` maps each variable to its value."""

    def __init__(self, rng: random.Random, difficulty: int):
        self.rng, self.difficulty = rng, difficulty
        self.lines, self.env = [], {}

    def literal(self, kind: type):
        """A random value of the type int, str, list or dict (bools come from comparisons)."""
        rng = self.rng
        if kind is int:
            return rng.randint(0, 9)
        if kind is str:
            return "".join(rng.choices(LETTERS, k=rng.randint(2, 3)))
        if kind is list:
            return [rng.randint(0, 9) for _ in range(rng.randint(2, 3))]
        return {letter: rng.randint(0, 9) for letter in rng.sample(LETTERS, rng.randint(1, 2))}

    def pick(self, kind: type):
        """A variable that holds a value of exactly this type, more often than not the newest; None if there is none."""
        names = [name for name, value in self.env.items() if type(value) is kind]
        if not names:
            return None
        return names[-1] if self.rng.random() < 0.6 else self.rng.choice(names)

    def candidates(self, kind: type):
        """(text, value) pairs of one expression of each form that fits the variables of this type."""
        name = self.pick(kind)
        if name is None:
            return []
        rng, value = self.rng, self.env[name]
        other, digit = self.pick(kind), rng.randint(1, 5)
        right, letter, cut = self.env[other], rng.choice(LETTERS), rng.randint(1, 2)
        if kind is int:
            found = [(f"{name} + {digit}", value + digit), (f"{name} - {digit}", value - digit), (f"{name} > {digit}", value > digit),
                     (f"{name} % {cut + 1}", value % (cut + 1)), (f"{name} // 2", value // 2),
                     (f"{name} * {cut + 1}", value * (cut + 1)), (f"[{name}, {other}]", [value, right])]
            if other != name:
                found += [(f"{name} + {other}", value + right), (f"{name} - {other}", value - right),
                          (f"max({name}, {other})", max(value, right))]
        elif kind is str:
            found = [(f"{name}[{cut}:]", value[cut:]), (f"{name}[:{cut}]", value[:cut]),
                     (f"{name}[::-1]", value[::-1]), (f"{name}.upper()", value.upper()),
                     (f"{name} + {letter!r}", value + letter), (f"len({name})", len(value)),
                     (f"{name}.count({letter!r})", value.count(letter)), (f"{name} + {other}", value + right),
                     (f"{letter!r} in {name}", letter in value)]
            if value:
                old = rng.choice(value)
                found += [(f"{name}.replace({old!r}, {letter!r})", value.replace(old, letter)),
                          (f"{name}[0]", value[0])]
        elif kind is list and all(type(item) is int for item in value):
            found = [(f"{name}[{cut}:]", value[cut:]), (f"{name}[::-1]", value[::-1]),
                     (f"{name} + [{digit}]", value + [digit]), (f"len({name})", len(value)),
                     (f"sorted({name})", sorted(value)), (f"{digit} in {name}", digit in value)]
            if value:
                found += [(f"{name}[0]", value[0]), (f"{name}[-1]", value[-1]), (f"max({name})", max(value)),
                          (f"min({name})", min(value))]
        elif kind is list:
            found = [(f"{name}[::-1]", value[::-1]), (f"len({name})", len(value)), (f"''.join({name})", "".join(value))]
        elif kind is bool:
            found = [(f"not {name}", not value)]
            if other != name:
                found += [(f"{name} and {other}", value and right), (f"{name} or {other}", value or right)]
        else:
            key = rng.choice(sorted(value))
            found = [(f"{name}[{key!r}]", value[key]), (f"{name}.get({letter!r}, {digit})", value.get(letter, digit)),
                     (f"len({name})", len(value))]
        return [(text, result) for text, result in found if small(result)]

    def expression(self, kind: type | None = None):
        """(text, value) of a random expression; with `kind`, one whose value has this type if any has."""
        found = [pair for source in (int, bool, str, list, dict) for pair in self.candidates(source)]
        fitting = [pair for pair in found if kind is None or type(pair[1]) is kind]
        newest = [pair for pair in fitting if re.search(rf"\b{list(self.env)[-1]}\b", pair[0])]  # those with the newest variable
        if newest and self.rng.random() < 0.5:
            return self.rng.choice(newest)
        return self.rng.choice(fitting or found)

    def condition(self):
        """(text, truth) of a random comparison."""
        rng, found = self.rng, []
        if name := self.pick(bool):
            found.append((name, self.env[name]))
        if name := self.pick(int):
            value, number = self.env[name], max(0, self.env[name] + rng.randint(-3, 3))
            sign = rng.choice([">", "<", "=="])
            truth = {">": value > number, "<": value < number, "==": value == number}[sign]
            found.append((f"{name} {sign} {number}", truth))
        for kind in (str, dict):
            if name := self.pick(kind):
                letter = rng.choice(LETTERS) if rng.random() < 0.5 or not self.env[name] else rng.choice(list(self.env[name]))
                found.append((f"{letter!r} in {name}", letter in self.env[name]))
        for kind in (str, list):
            if name := self.pick(kind):
                number = rng.randint(1, 4)
                found.append((f"len({name}) > {number}", len(self.env[name]) > number))
        return rng.choice(found)

    def new_name(self) -> str:
        return "abcdehijklmnopqrstuvwxyz"[len(self.env)]  # no f and no g: f is the function

    def assign(self):
        text, value = self.expression()
        name = self.new_name()
        self.lines.append(f"{name} = {text}")
        self.env[name] = value

    def mutate(self):
        """A statement that changes a variable in place: an augmented assignment, a method call or an item."""
        rng, digit = self.rng, self.rng.randint(1, 5)
        if (name := self.pick(dict)) and rng.random() < 0.7:
            key = rng.choice(LETTERS)
            line, value = f"{name}[{key!r}] = {digit}", self.env[name] | {key: digit}
        elif (name := self.pick(list)) and rng.random() < 0.7 and all(type(x) is int for x in self.env[name]):
            value = self.env[name]
            line, value = rng.choice([(f"{name}.append({digit})", value + [digit]),
                                      (f"{name}.reverse()", value[::-1]), (f"{name}.sort()", sorted(value))])
        elif name := self.pick(int):
            line, value = f"{name} += {digit}", self.env[name] + digit
        else:
            return self.assign()
        if not small(value):
            return self.assign()
        self.lines.append(line)
        self.env[name] = value

    def branch(self):
        """if/else that gives one new variable a value of the same type on both sides."""
        test, truth = self.condition()
        then, then_value = self.expression()
        orelse, else_value = self.expression(type(then_value))
        if type(else_value) is not type(then_value):
            return self.assign()
        name = self.new_name()
        self.lines += [f"if {test}:", f"    {name} = {then}", "else:", f"    {name} = {orelse}"]
        self.env[name] = then_value if truth else else_value

    def loop(self):
        """A for loop over a list or a string that fills one new variable."""
        source = self.pick(list) or self.pick(str)
        if source is None or not self.env[source]:
            return self.assign()
        items, digit, name = self.env[source], self.rng.randint(1, 5), self.new_name()
        forms = [("[]", f"{name} = [x] + {name}", list(items[::-1]))]
        if all(type(item) is int for item in items):
            forms += [("0", f"{name} += x", sum(items)), ("[]", f"{name}.append(x + {digit})", [x + digit for x in items]),
                      (str(digit), f"{name} = max({name}, x)", max([digit, *items]))]
        else:
            forms += [("''", f"{name} = x + {name}", "".join(items[::-1])), ("''", f"{name} += x + x", "".join(x + x for x in items))]
        start, body, value = self.rng.choice(forms)
        if not small(value):
            return self.assign()
        self.lines += [f"{name} = {start}", f"for x in {source}:", f"    {body}"]
        self.env[name] = value

    def early_return(self):
        """`if test: return name`; where the test holds, what follows never runs."""
        test, _ = self.condition()
        self.lines += [f"if {test}:", f"    return {self.rng.choice(list(self.env))}"]

    def program(self) -> dict:
        """One program and a call of it: {"code", "call"}."""
        rng, kinds = self.rng, self.rng.sample([int, str, list, dict], k=2)
        for kind in kinds:
            self.env[self.new_name()] = self.literal(kind)
        parameters = list(self.env)
        call = f"f({', '.join(repr(self.env[name]) for name in parameters)})"
        compound = [0, 0.1, 0.2, 0.3, 0.4][min(self.difficulty, 5) - 1]  # share of branches and loops
        for _ in range(rng.randint(self.difficulty, self.difficulty + 1) - 1):  # the return is one more
            draw = rng.random()
            if draw < compound:
                rng.choice([self.branch, self.branch, self.loop])()
            elif draw < compound + 0.15:  # a share of 0.15
                self.mutate()
            elif draw < compound + 0.18 and self.difficulty > 1:  # a share of 0.03
                self.early_return()
            else:
                self.assign()
        last = self.expression()[0] if rng.random() < 0.5 else list(self.env)[-1]
        self.lines.append(f"return {last}")
        body = "".join(f"\n    {line}" for line in self.lines)
        return {"code": f"def f({', '.join(parameters)}):{body}", "call": call}


def in_test(code: str) -> bool:
    """Which side of the split a program is on: a hash of its text decides, so train and test never share one."""
    return hashlib.sha256(code.encode()).digest()[0] < 64  # a quarter of all programs


def programs(count: int, test: bool, difficulty: int, seed: int):
    """Yield `count` distinct programs of one side of the split: dicts with id, code and call."""
    rng, seen = random.Random(f"{seed}-{test}"), set()
    while len(seen) < count:
        program = Generator(rng, difficulty).program()
        if in_test(program["code"]) == test and program["code"] not in seen:
            seen.add(program["code"])
            yield {"id": f"{'test' if test else 'train'}_{len(seen) - 1}", **program}


# ---------------------------------------------------------------------------------------------------------------------
# Tokenizer and model


# Spaces are escaped. First alternative: a line break with its indentation and the word, if one of these, that begins the line.
PIECE = re.compile(r"""\n\ *(?:print\(f'|return\ |if\ |for\ |else:|assert\ f\()?|def\ f\(|if\ |\ in\           # line starts, words
                       |\.?[a-z_]{2,}\(?|\[::-1\]|\ ?[-+*/%<>=]+\ |[,;]\ |:\ \{?|\}'\)|\?\?""", re.VERBOSE)


def make_tokenizer(texts, context: int = CONTEXT):
    """A byte-level tokenizer whose longer tokens are learned from `texts`; digits and the letters of values stay single.

    Every byte is a token, so any text can be written. On top of that each piece of source text that is frequent (a
    keyword, a method, an operator with its spaces, the fixed part of an anchor) becomes one token, and so do the tags.
    A model this small can then copy, reverse or slice a string letter by letter, and programs are short in tokens.
    The pieces are added tokens because AutoTokenizer rebuilds the rest of every Qwen2 tokenizer by Qwen2's own rule.
    """
    from tokenizers import AddedToken, pre_tokenizers
    from transformers import Qwen2Tokenizer

    vocabulary = {byte: i for i, byte in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Qwen2Tokenizer(vocab=vocabulary, merges=[], unk_token=None, pad_token=PAD, eos_token=EOS,
                               model_max_length=context)
    texts = (re.sub(r"(?<!f)'[^'\n]*'", "''", text) for text in texts)  # without the contents of strings; an anchor's f'...' stays
    counts = Counter(piece for text in texts for piece in PIECE.findall(text) if len(piece) > 1)
    pieces = sorted(piece for piece, count in counts.items() if count >= 5)
    tokenizer.add_tokens([AddedToken(piece, normalized=False, single_word=piece.isidentifier()) for piece in TAGS + pieces])
    return tokenizer


def make_model(tokenizer, width: int = 64, layers: int = 4, seed: int = 0, context: int = CONTEXT):
    """A Qwen2 of 0.18 million parameters (at width 64) with random weights drawn from `seed`; heads of 32, the smallest that vLLM knows on a CPU."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(seed)
    config = Qwen2Config(
        vocab_size=len(tokenizer), hidden_size=width, intermediate_size=2 * width, num_hidden_layers=layers,
        num_attention_heads=max(1, width // 32), num_key_value_heads=max(1, width // 32), max_position_embeddings=context, rope_theta=10_000.0,
        tie_word_embeddings=True, initializer_range=0.05, bos_token_id=None, eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id)
    return Qwen2ForCausalLM(config)


def write_jsonl(path: Path, rows) -> None:
    with path.open("w") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


def tokenizer_texts(rows):
    """What the tokenizer learns from: programs, calls, and the anchors that augment.py will put between their lines."""
    for row in rows:
        names = sorted(set(re.findall(r"\b[a-z]\b", row["code"]))) + ["return_val"]
        anchors = "".join(f"\n    {name} = 1\n    print(f'{name}: {{{name}}}')" for name in names)
        # "; if ": reasoning has "; " between its pieces and `if` in them, programs have neither within a line
        yield f"{row['code']}{anchors}\n    return return_val\nassert {row['call']} == ??\nassert f(??) == 1; if "


def whole(name: str, least: int, step: int = 1):
    """An argparse type: an integer from `least` on, below 2**31, that `step` divides."""

    def parse(text: str) -> int:
        if not text.isdecimal() or not least <= int(text) < 2**31 or int(text) % step:
            raise argparse.ArgumentTypeError(f"{text!r} is no {name}: a whole number from {least} on{f', a multiple of {step}' * (step > 1)}")
        return int(text)

    return parse


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Make toy programs, a tokenizer and a tiny random model.", formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/toy"), help="folder to write to")
    parser.add_argument("--sft", type=whole("count", 0), default=8000, help="number of programs for sft.py")
    parser.add_argument("--rl", type=whole("count", 0), default=10240, help="number of programs for bigrpo.py")
    parser.add_argument("--test", type=whole("count", 0), default=1000, help="number of programs for evaluate.py")
    parser.add_argument("--difficulty", type=int, default=3, choices=range(1, 10), help="statements per program of RL and test, about")
    parser.add_argument("--sft-difficulty", type=int, default=2, choices=range(1, 10), help="the same of the warm start")
    parser.add_argument("--width", type=whole("width", 32, 32), default=64, help="hidden size of the model, a multiple of 32")
    parser.add_argument("--layers", type=whole("layers", 1), default=4, help="layers of the model")
    parser.add_argument("--seed", type=whole("seed", 0), default=0, help="of programs and weights")
    return parser


def make(name: str, count: int, test: bool, difficulty: int, seed: int, leave_out=frozenset()) -> list[dict]:
    """`count` programs of one side in random order, none whose code is in `leave_out`, with a progress bar."""
    from tqdm import tqdm

    found = (row for row in programs(count + len(leave_out), test, difficulty, seed) if row["code"] not in leave_out)
    rows = list(tqdm(itertools.islice(found, count), total=count, desc=f"{name} programs"))
    random.Random(seed).shuffle(rows)
    return rows


def main() -> None:
    parser = build_parser()
    args = parser.parse_args()
    try:
        str(args.out).encode()  # safetensors and tokenizers take no other path
        args.out.mkdir(parents=True, exist_ok=True)
    except UnicodeEncodeError:
        parser.error(f"--out {args.out}: the path is not UTF-8")
    except OSError as error:
        parser.error(f"--out {args.out}: {error.strerror}")
    sft = make("sft", args.sft, False, args.sft_difficulty, args.seed)
    rl = make("rl", args.rl, False, args.difficulty, args.seed, {row["code"] for row in sft})
    # The longer a stream of distinct programs, the fewer short ones are left: rl and test are pieces of streams of one length.
    test = make("test", max(args.rl, args.test), True, args.difficulty, args.seed)[:args.test]
    for name, rows in (("sft", sft), ("rl", rl), ("test", test)):
        write_jsonl(args.out / f"{name}.jsonl", rows)
    tokenizer = make_tokenizer(tokenizer_texts(sft[:1000] + rl[:1000]))
    model = make_model(tokenizer, args.width, args.layers, args.seed)
    model.save_pretrained(args.out / "model")
    tokenizer.save_pretrained(args.out / "model")
    print(f"{args.out}: {len(sft)} + {len(rl)} training and {len(test)} test programs, {len(tokenizer)} tokens, "
          f"{sum(p.numel() for p in model.parameters()) / 1e6:.2f}M parameters", file=sys.stderr)


if __name__ == "__main__":
    main()
