"""policy.py: where a token starts in the text, how sequences share a batch, and log-probabilities on which sampler and trainer agree."""

import functools
import math
import random

import pytest
import torch

import policy
import toy

torch.set_num_threads(1)


@functools.cache
def toy_tokenizer():
    """Every byte is a token; the tags and frequent pieces of source text are tokens too."""
    return toy.make_tokenizer(list(toy.tokenizer_texts(toy.programs(20, False, 2, seed=0))))


class Twelve:
    """A vocabulary of twelve tokens in which one id, 0, is the end, the padding and an ordinary member: the hardest case for masks."""

    eos_token_id = pad_token_id = 0

    def __len__(self):
        return 12


@functools.cache
def model():
    """A random Qwen2 of one layer. Weights three times the usual make its distributions uneven and dependent on context and position."""
    network = toy.make_model(Twelve(), width=16, layers=1)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(3)
    return network


def plain_logprobs(prompt, response, temperature=1.0):
    """log pi of each response token: one sequence, no batch, no padding. [tokens, V] all and [tokens] chosen."""
    logits = model()(input_ids=torch.tensor([prompt + response])).logits[0]
    rows = torch.stack([(logits[len(prompt) - 1 + t] / temperature).log_softmax(-1) for t in range(len(response))])
    return rows, torch.stack([rows[t, token] for t, token in enumerate(response)])


def random_sequences(seed, count=7):
    """(prompts, responses) of all lengths; some responses are a single token, many hold 0 in their middle."""
    rng = random.Random(seed)
    prompts = [[rng.randrange(12) for _ in range(rng.randint(1, 9))] for _ in range(count)]
    responses = [[rng.choice((0, rng.randrange(12))) for _ in range(rng.choice((1, 2, 5, 12)))] for _ in range(count)]
    return prompts, responses


def gradient(loss):
    model().zero_grad()
    loss.backward()
    return torch.cat([parameter.grad.flatten() for parameter in model().parameters()])


# ---------------------------------------------------------------------------------------------------------------------
# Text and tokens


def test_a_token_starts_where_its_first_character_stands():
    [ids] = policy.encode_responses(toy_tokenizer(), ["<print>a: 1</print>"])
    text, starts = policy.decode(toy_tokenizer(), ids, True)
    # tokens: <print>  a  ": "  1  </print>  end          (": " is a frequent piece of the programs, hence one token)
    assert text == "<print>a: 1</print>"
    assert starts == [0, 7, 8, 10, 11, 19]


def test_no_prompts_and_no_responses_are_encoded_as_none():
    assert policy.encode_prompts(toy_tokenizer(), []) == policy.encode_responses(toy_tokenizer(), []) == []
    assert policy.encode_responses(toy_tokenizer(), [""]) == [[toy_tokenizer().eos_token_id]]


def test_many_texts_are_encoded_a_thousand_at_a_time():
    sizes = []
    found = policy.encode(lambda texts, **_: sizes.append(len(texts)) or {"input_ids": [[int(text)] for text in texts]}, list(map(str, range(2500))))
    assert sizes == [1000, 1000, 500] and found == [[k] for k in range(2500)]


def test_the_end_token_starts_behind_the_text_and_is_not_in_it():
    [ids] = policy.encode_responses(toy_tokenizer(), ["ab"])
    assert ids[-1] == toy_tokenizer().eos_token_id
    assert policy.decode(toy_tokenizer(), ids, True) == ("ab", [0, 1, 2])
    assert policy.decode(toy_tokenizer(), ids[:-1], False) == ("ab", [0, 1])  # cut at the length limit: no end token
    assert policy.decode(toy_tokenizer(), [], False) == ("", [])


def test_all_tokens_of_a_character_start_where_it_does():
    ids = toy_tokenizer().encode("aé€😀<print>b")
    # a: one byte; é: two; €: three; 😀: four; then one token for the tag
    assert policy.decode(toy_tokenizer(), ids, False) == ("aé€😀<print>b", [0] + [1] * 2 + [2] * 3 + [3] * 4 + [4, 11])


def test_a_token_that_ends_in_half_a_character_does_not_pull_the_other_half_forward():
    from transformers import Qwen2Tokenizer

    vocabulary = {letter: i for i, letter in enumerate("Ġ>âĤ¬")}  # Ġ is a space; â, Ĥ, ¬ are the bytes e2 82 ac of €
    tokenizer = Qwen2Tokenizer(vocab=vocabulary | {"Ġâ": 5}, merges=[("Ġ", "â")], unk_token=None, eos_token="<end>", pad_token="<end>")
    ids = tokenizer.encode("> €")
    assert tokenizer.convert_ids_to_tokens(ids) == [">", "Ġâ", "Ĥ", "¬"]
    assert policy.decode(tokenizer, ids, False) == ("> €", [0, 1, 2, 2])


def test_a_byte_that_begins_no_character_is_one_and_the_next_token_stands_behind_it():
    ff = toy_tokenizer().convert_tokens_to_ids("ÿ")  # that is how the vocabulary spells the byte ff
    [c3, a9], [e2, *_], [tag] = map(toy_tokenizer().encode, ("é", "€", "<print>"))
    assert policy.decode(toy_tokenizer(), [ff, c3, a9, tag], False) == ("\N{REPLACEMENT CHARACTER}é<print>", [0, 1, 1, 2])
    assert policy.decode(toy_tokenizer(), [c3, a9, e2, tag], False) == ("é\N{REPLACEMENT CHARACTER}<print>", [0, 0, 1, 2])
    assert policy.decode(toy_tokenizer(), [e2, toy_tokenizer().eos_token_id], True) == ("\N{REPLACEMENT CHARACTER}", [0, 1])


def test_what_was_sampled_is_never_tokenized_again():
    tokenizer = toy_tokenizer()
    bytewise = [tokenizer.convert_tokens_to_ids(letter) for letter in "<print>"]  # seven tokens where encode() gives one
    assert len(tokenizer.encode("<print>")) == 1
    assert policy.decode(tokenizer, bytewise, False) == ("<print>", [0, 1, 2, 3, 4, 5, 6])


def test_piecewise_decoding_equals_decoding_at_once():
    tokenizer, rng = toy_tokenizer(), random.Random(0)
    for _ in range(200):  # mostly invalid UTF-8, as an untrained model writes it
        ids = [rng.choice((rng.randrange(len(tokenizer)), rng.randrange(100, 256))) for _ in range(rng.randint(1, 30))]
        ids = [token for token in ids if token != tokenizer.eos_token_id] + [tokenizer.eos_token_id]
        text, starts = policy.decode(tokenizer, ids, True)
        assert text == tokenizer.decode(ids[:-1])
        assert len(starts) == len(ids) and starts == sorted(starts)


def test_starts_agree_with_the_lengths_of_decoded_prefixes():
    tokenizer = toy_tokenizer()
    for row in toy.programs(20, False, 2, seed=1):
        ids = tokenizer.encode(row["code"])
        assert policy.decode(tokenizer, ids, False) == (row["code"], [len(tokenizer.decode(ids[:t])) for t in range(len(ids))])


# ---------------------------------------------------------------------------------------------------------------------
# Optimizers


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_every_weight_has_one_optimizer(name):
    optimizers = policy.make_optimizers(model(), name, 0.1)
    held = [id(weight) for optimizer in optimizers for group in optimizer.param_groups for weight in group["params"]]
    assert sorted(held) == sorted(id(weight) for weight in model().parameters())


def test_muon_takes_the_matrices_between_embedding_and_head():
    muon, adamw = policy.make_optimizers(model(), "muon", 0.1)
    names = {id(weight): key for key, weight in model().named_parameters()}
    assert {names[id(weight)].split(".")[-2] for weight in muon.param_groups[0]["params"]} == {
        "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    assert {"embed_tokens", "norm"} <= {names[id(weight)].split(".")[-2] for weight in adamw.param_groups[0]["params"]}


def test_a_step_has_the_given_learning_rate_the_limited_gradient_and_leaves_none_behind():
    weight = torch.nn.Linear(2, 1, bias=False)
    torch.nn.init.zeros_(weight.weight)
    weight.weight.grad = torch.tensor([[3.0, 4.0]])  # its norm is 5, so a limit of 1 leaves 0.6, 0.8
    norm = policy.optimizer_step(weight, [torch.optim.SGD(weight.parameters(), 99.0)], lr=0.5, max_grad_norm=1.0)
    assert norm == 5 and weight.weight.grad is None
    torch.testing.assert_close(weight.weight.detach(), torch.tensor([[-0.3, -0.4]]))
    weight.weight.grad = torch.tensor([[math.inf, 0.0]])  # after a loss that is finite
    with pytest.raises(SystemExit):
        policy.optimizer_step(weight, [torch.optim.SGD(weight.parameters(), 99.0)], lr=0.5, max_grad_norm=1.0)
    torch.testing.assert_close(weight.weight.detach(), torch.tensor([[-0.3, -0.4]]))


# ---------------------------------------------------------------------------------------------------------------------
# Micro-batches


def test_every_sequence_is_in_one_micro_batch_and_no_padded_batch_exceeds_the_budget():
    for seed in range(200):
        rng = random.Random(seed)
        lengths = [rng.randint(1, 60) for _ in range(rng.randint(0, 30))]
        batches = policy.micro_batches(lengths, token_budget=50)
        assert sorted(index for rows in batches for index in rows) == list(range(len(lengths)))
        for rows in batches:
            assert len(rows) == 1 or len(rows) * max(lengths[index] for index in rows) <= 50


def test_a_sequence_longer_than_the_budget_stands_alone():
    # sorted by length: 2, 3, 3, 9.  2 x 3 = 6 fits into 6, 3 x 3 = 9 does not; 9 fits nowhere
    assert policy.micro_batches([9, 3, 2, 3], token_budget=6) == [[2, 1], [3], [0]]


def test_sequences_of_one_prompt_stay_side_by_side():
    # by length alone it would be 0 2 | 1 3; the longest of prompt [7] is 5, of [8] is 4, so all of [8] come first
    assert policy.micro_batches([2, 5, 3, 4], 100, [[7], [7], [8], [8]]) == [[2, 3, 0, 1]]
    assert policy.micro_batches([2, 5, 3, 4], 10, [[7], [7], [8], [8]]) == [[2, 3], [0, 1]]  # 3 x 4 > 10


def test_a_batch_is_filled_before_the_next_is_begun():
    assert policy.micro_batches([5] * 6, token_budget=15) == [[0, 1, 2], [3, 4, 5]]  # 3 x 5 = 15 is still allowed


# ---------------------------------------------------------------------------------------------------------------------
# Log-probabilities


@pytest.mark.parametrize("temperature", [0.7, 1.0, 1.3])
def test_log_probabilities_and_entropies_are_those_of_each_sequence_alone(temperature):
    for seed in range(10):
        prompts, responses = random_sequences(seed)
        logprobs, entropy = policy.token_logprobs(model(), prompts, responses, temperature)
        plain = [plain_logprobs(prompt, response, temperature) for prompt, response in zip(prompts, responses)]
        torch.testing.assert_close(logprobs, torch.cat([chosen for _, chosen in plain]), rtol=0, atol=1e-5)
        # H = -sum_v p(v) log p(v)
        torch.testing.assert_close(entropy, torch.cat([-(rows.exp() * rows).sum(-1) for rows, _ in plain]), rtol=0, atol=1e-5)


def test_padding_beside_a_longer_sequence_changes_no_gradient():
    prompts, responses = random_sequences(0)
    weights = torch.randn(sum(map(len, responses)), generator=torch.Generator().manual_seed(0))
    together = gradient((policy.token_logprobs(model(), prompts, responses)[0] * weights).sum())
    pieces = weights.split([len(response) for response in responses])
    alone = sum(gradient((policy.token_logprobs(model(), [prompt], [response])[0] * piece).sum())
                for prompt, response, piece in zip(prompts, responses, pieces))
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("lengths", [(1, 1, 1, 1, 1), (3, 1, 12, 5, 2)])
def test_prompts_read_once_for_many_responses_change_neither_values_nor_gradients(lengths):
    rng = random.Random(0)
    prompts = [[1, 2, 3], [4] * 9, [1, 2, 3], [1, 2, 3], [5]]  # one prompt three times, not side by side
    responses = [[rng.randrange(12) for _ in range(length)] for length in lengths]
    weights = torch.randn(sum(lengths), generator=torch.Generator().manual_seed(0))
    plain = policy._logprobs(model(), policy._hidden, prompts, responses, torch.tensor(sum(responses, [])), 0.7, 99)
    shared = policy.token_logprobs(model(), prompts, responses, 0.7)
    for one, other in zip(plain, shared):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-5)
    torch.testing.assert_close(gradient((plain[0] * weights).sum()), gradient((shared[0] * weights).sum()), rtol=1e-4, atol=1e-4)


def test_a_token_counts_by_its_place_and_not_by_its_value():
    # Token 0 is the end, the padding and the number that fills up short rows. The response 0 3 0 0 has four tokens all the same.
    logprobs, _ = policy.token_logprobs(model(), [[5, 0], [1] * 9], [[0, 3, 0, 0], [2]])
    assert logprobs.shape == (5,) and (logprobs < 0).all()
    last = gradient(logprobs[3])  # the end token, in a row that is padded with its like
    torch.testing.assert_close(last, gradient(plain_logprobs([5, 0], [0, 3, 0, 0])[1][3]), rtol=1e-4, atol=1e-5)
    assert last.abs().max() > 0.01


def test_chunks_of_logits_change_neither_values_nor_gradients():
    prompts, responses = random_sequences(1)
    whole, entropy = policy.token_logprobs(model(), prompts, responses, 0.7)
    whole_gradient = gradient(whole.square().sum())
    for chunk in (1, 3, len(whole) - 1, len(whole)):
        parts, parts_entropy = policy.token_logprobs(model(), prompts, responses, 0.7, chunk=chunk)
        torch.testing.assert_close(parts, whole, rtol=0, atol=1e-5)
        torch.testing.assert_close(parts_entropy, entropy, rtol=0, atol=1e-5)
        torch.testing.assert_close(gradient(parts.square().sum()), whole_gradient, rtol=1e-4, atol=1e-3)


# ---------------------------------------------------------------------------------------------------------------------
# Sampling


def sample(prompts, n=4, max_tokens=20, temperature=1.0, seeds=None, **more):
    seeds = seeds or [(7, p) for p in range(len(prompts))]
    return policy.sample(model(), Twelve(), prompts, n, max_tokens, temperature, seeds, **more)


def same(some, others):
    """The same tokens, and log-probabilities that differ by rounding only."""
    return all(a.ids == b.ids and a.ended == b.ended and max(abs(x - y) for x, y in zip(a.logprobs, b.logprobs)) < 1e-4
               for one, other in zip(some, others, strict=True) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("temperature", [0.7, 1.0, 1.3])
def test_the_sampler_s_log_probabilities_are_the_trainer_s(temperature):
    prompts, _ = random_sequences(2)
    samples = sample(prompts, temperature=temperature)
    flat = [(prompt, one) for prompt, some in zip(prompts, samples) for one in some]
    assert 0 < sum(one.ended for _, one in flat) < len(flat)  # both kinds are compared: ended and cut
    logprobs, _ = policy.token_logprobs(model(), [prompt for prompt, _ in flat], [one.ids for _, one in flat], temperature)
    torch.testing.assert_close(torch.tensor([x for _, one in flat for x in one.logprobs]), logprobs.detach(), rtol=0, atol=1e-4)


def test_a_token_is_drawn_by_hand():
    # Shares 1/4, 1/2, 1/4: the distribution function is 0.25, 0.75, 1. At T = 1/2 the shares are squared, 1/16, 1/4 and 1/16, and normed: 1/6, 2/3, 1/6.
    logits = torch.tensor([0.25, 0.5, 0.25]).log().repeat(5, 1)
    u = torch.tensor([0.0, 0.2, 0.3, 0.8, 0.9])
    token, logprobs = policy.draw(logits, 1.0, u)
    assert token.tolist() == [0, 0, 1, 2, 2]
    torch.testing.assert_close(logprobs.exp(), torch.tensor([0.25, 0.25, 0.5, 0.25, 0.25]))
    token, logprobs = policy.draw(logits, 0.5, u)
    assert token.tolist() == [0, 1, 1, 1, 2]
    torch.testing.assert_close(logprobs.exp(), torch.tensor([1, 4, 4, 4, 1]) / 6)
    assert policy.draw(logits[0], 0, None)[0] == 1
    assert policy.draw(torch.tensor([-torch.inf, 0.0]), 1.0, torch.tensor(0.0))[0] == 1  # what has no share is never drawn


@pytest.mark.parametrize("temperature", [0.7, 1.0, 1.3])
def test_tokens_are_drawn_from_the_softmax_of_the_logits_over_the_temperature(temperature):
    draws = 4000
    samples = sample([[3, 1, 4]], n=draws, max_tokens=1, temperature=temperature, max_rows=draws)[0]
    counts = torch.bincount(torch.tensor([one.ids[0] for one in samples]), minlength=12)
    expected = draws * (model()(input_ids=torch.tensor([[3, 1, 4]])).logits[0, -1] / temperature).softmax(-1)
    # Pearson's sum over 12 classes has mean 11 and standard deviation sqrt(22) = 4.7; 35 is five of them away.
    assert ((counts - expected).square() / expected).sum() < 35


def test_what_is_sampled_depends_on_neither_the_neighbours_nor_the_rows_at_a_time():
    prompts, _ = random_sequences(3)
    samples = sample(prompts)
    assert len({len(one.ids) for some in samples for one in some}) > 3  # rows end at different times
    for max_rows in (1, 4, 9):
        assert same(samples, sample(prompts, max_rows=max_rows))
    for p, prompt in enumerate(prompts):
        assert same([samples[p]], sample([prompt], seeds=[(7, p)]))
    assert same(samples[::-1], sample(prompts[::-1], seeds=[(7, p) for p in range(len(prompts))][::-1]))
    for n in (1, 3, 11, 16):  # with 1, 3, 1, 8 responses in a row of the cache
        assert same([some[:n] for some in samples], [some[:4] for some in sample(prompts, n)])


@pytest.mark.parametrize("n, max_tokens, c", [(8, 20, 8), (16, 256, 8), (8, 257, 4), (6, 512, 3), (8, 1024, 2), (8, 1025, 1), (11, 20, 1)])
def test_the_longer_responses_may_be_the_fewer_share_a_row(n, max_tokens, c, monkeypatch):
    monkeypatch.setattr(policy, "end_tokens", lambda *_: list(range(1, 12)))  # two tokens or so a response
    read = []
    hook = model().register_forward_pre_hook(lambda module, args, given: read.append(given["input_ids"].shape[1]), with_kwargs=True)
    sample([[1, 2], [3]] * 4, n, max_tokens)
    hook.remove()
    assert read[0] == c


def test_layers_with_a_sliding_window_sample_the_same_where_it_reaches_everything():
    prompts, _ = random_sequences(3)
    config = type(model().config)(**model().config.to_dict() | {"use_sliding_window": True, "sliding_window": 64, "layer_types": ["sliding_attention"]})
    sliding = type(model())(config)
    sliding.load_state_dict(model().state_dict())
    assert same(sample(prompts), policy.sample(sliding, Twelve(), prompts, 4, 20, 1.0, [(7, p) for p in range(len(prompts))]))


def test_a_short_window_gives_prompts_of_unequal_length_what_each_has_alone():
    # a cache that keeps the last six places only would keep a short prompt's padding, and not the prompt
    config = type(model().config)(**model().config.to_dict() | {"use_sliding_window": True, "sliding_window": 6, "layer_types": ["sliding_attention"]})
    sliding = type(model())(config)
    sliding.load_state_dict(model().state_dict())
    prompts = [[1, 2, 3], [4, 5, 6, 7, 8, 9, 10, 11, 1, 2, 3, 4]] * 2
    together = policy.sample(sliding, Twelve(), prompts[:2], 4, 20, 1.0, [(7, 0), (7, 1)])
    assert same(together, [policy.sample(sliding, Twelve(), [prompt], 4, 20, 1.0, [(7, p)])[0] for p, prompt in enumerate(prompts[:2])])
    responses = [[1] * 9, [2] * 9, [3] * 9, [4] * 9]
    logprobs = policy.token_logprobs(sliding, prompts, responses)[0]
    alone = [policy.token_logprobs(sliding, [prompt], [response])[0] for prompt, response in zip(prompts, responses)]
    torch.testing.assert_close(logprobs, torch.cat(alone), rtol=0, atol=1e-4)


def test_every_rollout_and_every_prompt_has_its_own_stream():
    same_prompt = sample([[1, 2]] * 3, n=4)
    assert len({tuple(one.ids) for some in same_prompt for one in some}) > 9  # of 12; a few short ones may coincide
    assert same(same_prompt, sample([[1, 2]] * 3, n=4))  # and the same stream gives the same responses


def test_a_sample_ends_with_the_end_token_or_at_the_length_limit():
    prompts, _ = random_sequences(4)
    for one in [one for some in sample(prompts, n=8) for one in some]:
        assert len(one.ids) == len(one.logprobs) <= 20
        assert 0 not in one.ids[:-1]
        assert one.ended == (one.ids[-1] == 0) and (one.ended or len(one.ids) == 20)


def test_what_the_generation_config_names_ends_a_response_too(monkeypatch):
    for named, ends in ((None, [0]), (5, [0, 5]), ([0, 5, 7], [0, 5, 7])):
        monkeypatch.setattr(model().generation_config, "eos_token_id", named)
        assert policy.end_tokens(model(), Twelve()) == ends
    flat = [one for some in sample(random_sequences(4)[0], n=8) for one in some]
    assert {one.ids[-1] for one in flat if one.ended} == {0, 5, 7} and not any({0, 5, 7} & {*one.ids[:-1]} for one in flat)


def test_a_copy_in_bf16_keeps_the_frequencies_of_its_positions():
    """bf16 has 8 significant bits: at position 1,000 an angle of 1,000 f would be off by up to 1,000 f / 512."""
    ours = policy.copied(model(), torch.device("cpu"), torch.bfloat16)
    assert {weight.dtype for weight in ours.parameters()} == {torch.bfloat16} and ours.lm_head.weight is ours.model.embed_tokens.weight
    assert dict(ours.named_buffers()).keys() >= {"model.rotary_emb.inv_freq"}
    assert all(torch.equal(buffer, other) and buffer.dtype == other.dtype for buffer, other in zip(ours.buffers(), model().buffers(), strict=True))
    assert {weight.dtype for weight in model().parameters()} == {torch.float32}


def test_temperature_0_takes_the_likeliest_token():
    prompts, _ = random_sequences(5)
    for prompt, [one] in zip(prompts, sample(prompts, n=1, temperature=0)):
        rows, chosen = plain_logprobs(prompt, one.ids)
        assert one.ids == rows.argmax(-1).tolist()
        assert all(math.isclose(x, y, abs_tol=1e-4) for x, y in zip(one.logprobs, chosen.tolist()))
