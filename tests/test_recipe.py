"""The recipe for Qwen2.5-Coder, command by command as the README has it, with a checkpoint of its shape made on the spot.

What has to agree over the four scripts: the chat template, applied once; the token that training responses end with and the sampler
stops at; the head that is tied to the embedding; and what happens to a prompt that is too long.
"""

import json
import sys

import pytest
import torch

import augment
import bigrpo
import evaluate
import policy
import sft
import toy

PROGRAMS = [{"id": name, "code": f"def f(a, b):\n    c = {value}\n    return c", "input": "2, 3", "output": output} for name, value, output in (
    ("sum", "a + b", "5"), ("pair", "[b, a]", "[3, 2]"), ("text", "str(a) * b", "'222'"),
    ("long", f"a - b  # {' '.join(map(str, range(400)))}", "-1"))]  # longer than the context, in every script
TEMPLATE = """\
{%- if messages[0]['role'] != 'system' %}{{ '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' }}{% endif %}
{%- for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}{% endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"""


def rendered(prompt: str) -> str:
    """What Qwen's template makes of one user message."""
    return ("<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
            f"<|im_start|>user\n{prompt}<|im_end|>\n<|im_start|>assistant\n")


def checkpoint(path, texts):
    """Qwen2.5-Coder-Instruct, small: the same special tokens, template, generation config, tied head, and rows of the embedding without a token."""
    from transformers import GenerationConfig, Qwen2Config, Qwen2ForCausalLM, Qwen2Tokenizer

    special = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>", "additional_special_tokens": ["<|im_start|>", "<|im_end|>"]}
    tokenizer = Qwen2Tokenizer(unk_token=None, **special).train_new_from_iterator(texts, 700, show_progress=False)
    tokenizer.chat_template = TEMPLATE
    start, end, text_end = tokenizer.convert_tokens_to_ids(["<|im_start|>", "<|im_end|>", "<|endoftext|>"])
    torch.manual_seed(0)
    model = Qwen2ForCausalLM(Qwen2Config(
        vocab_size=len(tokenizer) + 57, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1,
        max_position_embeddings=512, tie_word_embeddings=True, initializer_range=0.05, bos_token_id=text_end, eos_token_id=end))
    model.generation_config = GenerationConfig(bos_token_id=text_end, pad_token_id=text_end, eos_token_id=[end, text_end], do_sample=True,
                                               repetition_penalty=1.1, temperature=0.7, top_p=0.8, top_k=20)
    policy.save(model, tokenizer, path)
    return tokenizer, end, text_end


def test_the_recipe_from_programs_to_benchmark(tmp_path, monkeypatch, capsys):
    def command(module, *words):
        monkeypatch.setattr(sys, "argv", [f"{module.__name__}.py", *map(str, words)])
        module.main()
        return capsys.readouterr()

    toy.write_jsonl(tmp_path / "mine.jsonl", PROGRAMS)
    command(augment, "--programs", tmp_path / "mine.jsonl", "--out", tmp_path / "data.jsonl", "--task", "both")
    examples = policy.read_jsonl(tmp_path / "data.jsonl", evaluate.NEEDED)
    assert len(examples) == 8 and all(example["prompt"].startswith(("Execute", "Find")) for example in examples)  # --prompt instruct
    short = [example for example in examples if "399" not in example["prompt"]]
    tokenizer, end, text_end = checkpoint(tmp_path / "qwen", [rendered(example["prompt"]) + example["response"] for example in short])

    trained, asked = set(), set()  # (prompt, response) and (prompt, ids)
    step, sample = sft.train_step, policy.sample
    monkeypatch.setattr(sft, "train_step", lambda model, optimizers, prompts, responses, *rest: trained.update(
        zip(map(tuple, prompts), map(tuple, responses))) or step(model, optimizers, prompts, responses, *rest))
    monkeypatch.setattr(policy, "sample", lambda model, tokenizer, prompts, *rest: asked.update(map(tuple, prompts)) or sample(model, tokenizer, prompts, *rest))

    said = command(sft, "--model", tmp_path / "qwen", "--data", tmp_path / "data.jsonl", "--out", tmp_path / "qwen-sft", "--optimizer", "adamw",
                   "--lr", 1e-2, "--epochs", 100, "--batch", 6).err
    assert "dropped 2 of 8 examples" in said
    words = [(tokenizer.decode(prompt), tokenizer.decode(response)) for prompt, response in trained]
    assert sorted(words) == sorted((rendered(example["prompt"]), example["response"] + "<|im_end|>") for example in short)
    assert all(response.index(end) == len(response) - 1 for _, response in trained)

    said = command(bigrpo, "--model", tmp_path / "qwen-sft/model", "--data", tmp_path / "data.jsonl", "--out", tmp_path / "qwen-rl", "--group", 5,
                   "--optimizer", "adamw", "--lr", 1e-6, "--max-tokens", 150, "--steps", 2, "--prompts", 3).err
    assert "2 of 8 prompts do not fit" in said
    records = [json.loads(line) for line in (tmp_path / "qwen-rl/metrics.jsonl").read_text().splitlines()]
    for record in records:
        assert record["final_reward"] > 0.5 and record["cut"] < 0.5 and record["sampler_gap"] < 1e-4
    assert asked == {prompt for prompt, _ in trained}  # all six, and nothing else

    toy.write_jsonl(tmp_path / "cruxeval.jsonl", PROGRAMS)
    command(evaluate, "--model", tmp_path / "qwen-rl/model", "--data", tmp_path / "data.jsonl", "--max-tokens", 150, "--out", tmp_path / "eval.json")
    command(evaluate, "--model", tmp_path / "qwen-rl/model", "--benchmark", "cruxeval-output", "--data", tmp_path, "--max-tokens", 150, "--out", tmp_path / "eval")
    for path, few in (("eval.json", 6), ("eval/cruxeval-output.json", 3)):
        result = json.loads((tmp_path / path).read_text())
        assert result["failures"] == {"prompt longer than the context": result["n"] - few}
        assert [item["response"] for item in result["items"] if item["ended"]] == [
            example["response"] for example in short if few == 6 or example["task"] == "output"]
        assert result["summary"]["final"]["value"] == result["summary"]["step"]["value"] == 75.0
    plain = json.loads((tmp_path / "eval/cruxeval-output-plain.json").read_text())
    assert plain["n"] == 4 and plain["failures"].get("prompt longer than the context") == 1 and "print" not in plain["items"][0]["program"]
    assert {tokenizer.decode(prompt) for prompt in asked - {prompt for prompt, _ in trained}} == {
        rendered(augment.make_prompt(row["code"], f"f({row['input']})", row["output"], steps=False)) for row in PROGRAMS[:3]}

    model, saved = policy.load(str(tmp_path / "qwen-rl/model"))  # what a next script, or vLLM, finds
    assert saved.chat_template == TEMPLATE and saved.eos_token == "<|im_end|>" and policy.end_tokens(model, saved) == sorted([end, text_end])
    assert model.lm_head.weight is model.model.embed_tokens.weight and model.config.tie_word_embeddings
    for ends in (sorted([end, text_end]), [end]):  # without weights, for vLLM; then a checkpoint without generation config
        settings, _ = policy.load(str(tmp_path / "qwen-rl/model"), weights=False)
        assert settings.device.type == "meta" and policy.end_tokens(settings, saved) == ends
        assert policy.fits(settings, [0] * 500, 12) and not policy.fits(settings, [0] * 501, 12)
        (tmp_path / "qwen-rl/model/generation_config.json").unlink(missing_ok=True)
    saved.eos_token = None
    saved.save_pretrained(tmp_path / "qwen-rl/model")
    with pytest.raises(SystemExit) as stop:
        policy.load(str(tmp_path / "qwen-rl/model"))
    assert stop.value.code == 2 and "end token" in capsys.readouterr().err


def test_a_template_that_writes_the_begin_token_gets_no_second_one():
    from tokenizers.processors import TemplateProcessing

    tokenizer = toy.make_tokenizer(["assert f(1) == ??"])
    tokenizer.add_special_tokens({"bos_token": "<s>"})
    begin = tokenizer.bos_token_id
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", begin)])  # as Llama's adds it
    tokenizer.chat_template = "{{ bos_token }}{% for message in messages %}[{{ message['content'] }}]{% endfor %}"
    assert tokenizer.encode("a")[0] == begin
    assert policy.encode_prompts(tokenizer, ["a b"]) == [[begin, *tokenizer.encode("[a b]", add_special_tokens=False)]]
    assert begin not in policy.encode_responses(tokenizer, ["a b"])[0]
