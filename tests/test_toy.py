"""toy.py: every program runs and gives what the generator thinks, the split holds, the tokenizer loses nothing, the folder opens."""

import random
import subprocess
import sys

import sandbox
import toy


def test_every_program_runs():
    for difficulty in (1, 3, 5):
        rows = list(toy.programs(60, False, difficulty, seed=1))
        statuses = [trace.status for trace in sandbox.trace_many((row["code"], row["call"]) for row in rows)]
        assert statuses == ["ok"] * 60


def test_the_generator_knows_the_values_it_writes_about():
    # Values are followed by hand-written twins of each expression; a wrong twin would let results outgrow the toy's limits.
    for seed in range(300):
        generator = toy.Generator(random.Random(seed), 4)
        generator.early_return = generator.assign  # so that all its variables are there in the end
        program, names = generator.program(), {}
        exec(program["code"].rpartition("\n")[0] + "\n    return dict(locals())", names)
        found = eval(program["call"], names)
        assert {name: repr(found[name]) for name in generator.env} == {name: repr(value) for name, value in generator.env.items()}, program
        assert all(map(toy.small, generator.env.values()))


def test_train_and_test_never_share_a_program_and_a_seed_repeats():
    train, test = ({row["code"] for row in toy.programs(300, side, 2, seed=0)} for side in (False, True))
    assert len(train) == len(test) == 300 and not train & test
    assert list(toy.programs(20, False, 2, seed=5)) == list(toy.programs(20, False, 2, seed=5))
    assert list(toy.programs(20, False, 2, seed=5)) != list(toy.programs(20, False, 2, seed=6))


def test_difficulty_makes_programs_longer():
    lengths = [sum(row["code"].count("\n") for row in toy.programs(100, False, difficulty, seed=0)) for difficulty in (1, 3, 5)]
    assert lengths == sorted(lengths) and lengths[0] < lengths[2] / 2


def test_all_kinds_of_statements_occur():
    text = "\n".join(row["code"] for row in toy.programs(2000, False, 4, seed=0))
    for piece in ("if ", "else:", "for x in", "        return ", ".append(", "[::-1]", "[1:]", ".upper()", " += ", "] = ", ".get(", " == ", "not ", " and ", " or ", " = b > "):
        assert piece in text, piece


def test_the_tokenizer_is_byte_complete_and_keeps_digits_and_tags_apart(tmp_path):
    from transformers import AutoTokenizer

    toy.make_tokenizer(toy.tokenizer_texts(toy.programs(300, False, 2, seed=0))).save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "qwen2"}')
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    for text in ("d = a + 12\n\tx  é €😀\x00\r\n", "<reasoning>c = 'bdg'</reasoning><print>c: bdg</print>"):
        assert tokenizer.decode(tokenizer.encode(text)) == text
    assert [tokenizer.decode([token]) for token in tokenizer.encode("<print>12</print>")] == ["<print>", "1", "2", "</print>"]
    assert [tokenizer.decode([token]) for token in tokenizer.encode("'bdg'")] == ["'", "b", "d", "g", "'"]
    assert tokenizer.eos_token_id != tokenizer.pad_token_id


def test_a_tokenizer_learns_nothing_from_within_strings_and_cuts_no_word():
    tokenizer = toy.make_tokenizer(["    text = 'hello'.upper()\n"] * 9)
    for text, tokens in (("'hello'", ["'", *"hello", "'"]), ("text.upper()", ["text", ".upper(", ")"]), ("context", list("context"))):
        assert [tokenizer.decode([token]) for token in tokenizer.encode(text)] == tokens


def test_an_out_that_is_not_utf8_ends_with_a_line():
    done = subprocess.run([sys.executable, toy.__file__, "--out", b"runs/\xff"], capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.endswith("the path is not UTF-8\n")
