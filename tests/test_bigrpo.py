"""bigrpo.py: Eqs. 10-15 by hand, against plain loops, under changes that must not matter, and in the direction they push.

Shapes: G rollouts, n anchors, N tokens. A response here is made of one block per state and an answer; its rewards are given by hand.
"""

import functools
import math
import os
import random
import subprocess
import sys
from argparse import Namespace
from collections import defaultdict
from pathlib import Path

import pytest
import torch

import bigrpo
import policy
import toy
from bigrpo import bilevel_advantage, group_advantage, intra_advantage, kl_penalty, policy_loss, token_advantage, token_blocks

ROOT = Path(__file__).resolve().parents[1]
torch.set_num_threads(1)


def matrix(rows):
    return torch.tensor(rows, dtype=torch.float64)


def close(actual, expected, atol=1e-12):
    torch.testing.assert_close(actual, torch.as_tensor(expected, dtype=actual.dtype), rtol=0, atol=atol)


# ---------------------------------------------------------------------------------------------------------------------
# Worked numbers

# A group of five rollouts (rows) and four anchors (columns), and whether each answer is right.
R = matrix([[1, 1, 1, 1],
            [1, 1, 0, 0],
            [1, 0, 0, 0],
            [0, 1, 1, 1],
            [1, 0, 1, 0]])
R_FINAL = matrix([[1], [1], [0], [0], [0]])
ROOT6 = math.sqrt(6)


def test_group_advantage_by_hand():
    # anchor 1: mean 4/5, variance 4/5 * 1/5 = 4/25, std 2/5:   right (1/5) / (2/5) = 1/2,     wrong (-4/5) / (2/5) = -2
    # anchors 2, 3: mean 3/5, variance 6/25, std sqrt(6)/5:     right 2/sqrt(6),               wrong -3/sqrt(6)
    # anchor 4 and the answer: mean 2/5, std sqrt(6)/5:         right 3/sqrt(6),               wrong -2/sqrt(6)
    a, b = 2 / ROOT6, 3 / ROOT6
    close(group_advantage(R), [[.5, a, a, b],
                               [.5, a, -b, -a],
                               [.5, -b, -b, -a],
                               [-2, a, a, b],
                               [.5, -b, a, -a]], atol=1e-5)  # eps = 1e-6 beside a std of 2/5 moves the sixth digit
    close(group_advantage(R_FINAL), [[b], [b], [-a], [-a], [-a]], atol=1e-5)


def test_eps_stands_outside_the_root():
    # with eps = 1/10 anchor 1 gives (1/5) / (2/5 + 1/10) = 2/5 and -8/5; inside the root it would be (1/5) / sqrt(4/25 + 1/10) = 0.392
    close(group_advantage(R, eps=0.1)[:, 0], [.4, .4, .4, -1.6, .4])
    close(group_advantage(R)[:, 0], [.2 / .400001] * 3 + [-.8 / .400001] + [.2 / .400001])


def test_group_advantage_without_the_std_by_hand():
    close(group_advantage(R, norm="none")[:, :2], [[.2, .4], [.2, .4], [.2, -.6], [-.8, .4], [.2, -.6]])


def test_intra_advantage_by_hand():
    # rollout 1, all right: 1 + mean(1,1,1) = 2, 1 + mean(1,1) = 2, 1 + 1 = 2, and nothing after the last: 1
    # rollout 2: 1 + mean(1,0,0) = 4/3;  1 + mean(0,0) = 1;  wrong steps get 0
    # rollout 4: the first step is wrong: 0, however right the rest;   rollout 5: 1 + mean(0,1,0) = 4/3;  0;  1 + 0 = 1;  0
    close(intra_advantage(R), [[2, 2, 2, 1],
                               [4 / 3, 1, 0, 0],
                               [1, 0, 0, 0],
                               [0, 2, 2, 1],
                               [4 / 3, 0, 1, 0]])


def test_centred_intra_advantage_by_hand():
    # column means 17/15, 1, 1, 2/5 of the table above
    close(intra_advantage(R, center=True), intra_advantage(R) - matrix([17 / 15, 1, 1, 2 / 5]))


def test_bilevel_advantage_by_hand():
    # rollout 2: 1/2 + 0.3 * 4/3 = 0.9;  2/sqrt(6) + 0.3 * 1;  -3/sqrt(6);  -2/sqrt(6)
    close(bilevel_advantage(R, lam=0.3)[1], [.9, 2 / ROOT6 + .3, -3 / ROOT6, -2 / ROOT6], atol=1e-5)
    # rollout 4: -2 + 0.3 * 0;  2/sqrt(6) + 0.6;  the same;  3/sqrt(6) + 0.3
    close(bilevel_advantage(R)[3], [-2, 2 / ROOT6 + .6, 2 / ROOT6 + .6, 3 / ROOT6 + .3], atol=1e-5)


def test_a_group_that_is_right_everywhere_still_gets_up_to_twice_lam():
    close(bilevel_advantage(torch.ones(5, 3, dtype=torch.float64)), [[.6, .6, .3]] * 5)
    close(bilevel_advantage(torch.ones(5, 3, dtype=torch.float64), center_intra=True), [[0, 0, 0]] * 5)


# Two prompts, four rollouts of each, three anchors.
FIRST = [[1, 1, 1], [1, 0, 1], [1, 1, 0], [1, 0, 0]]
SECOND = [[0, 1, 0], [0, 0, 0], [0, 0, 1], [1, 0, 0]]
FIRST_FINAL, SECOND_FINAL = [1, 0, 0, 0], [1, 1, 1, 1]
ROOT3 = math.sqrt(3)


def test_a_batch_of_two_prompts_by_hand_down_to_the_gradient_on_a_logit():
    first, second = matrix(FIRST), matrix(SECOND)
    # First prompt. Anchor 1: all equal, 0. Anchors 2 and 3: mean 1/2, std 1/2: right 1, wrong -1.
    # A_intra = [2, 2, 1], [3/2, 0, 1], [3/2, 1, 0], [1, 0, 0]. A = A_group + 0.3 A_intra:
    a_first = [[.6, 1.6, 1.3], [.45, -1, 1.3], [.45, 1.3, -1], [.3, -1, -1]]
    close(bilevel_advantage(first), a_first, atol=1e-5)
    # Second prompt. Each anchor: mean 1/4, std sqrt(3)/4: right 3/sqrt(3) = sqrt(3), wrong -1/sqrt(3). A_intra is the reward itself.
    w, v = -1 / ROOT3, ROOT3 + .3
    a_second = [[w, v, w], [w, w, w], [w, w, v], [v, w, w]]
    close(bilevel_advantage(second), a_second, atol=1e-5)
    # The answers: one right of four, so sqrt(3) and -1/sqrt(3); all right, so 0.
    final_first = group_advantage(matrix([[x] for x in FIRST_FINAL]))[:, 0]
    final_second = group_advantage(matrix([[x] for x in SECOND_FINAL]))[:, 0]
    close(final_first, [ROOT3, w, w, w], atol=1e-5)
    close(final_second, [0, 0, 0, 0])

    # Every response has four tokens: one in each block, one in the answer (block 3 means none).
    rollout, block = torch.arange(4).repeat_interleave(4), torch.tensor([0, 1, 2, 3] * 4)
    credit = torch.stack([token_advantage(bilevel_advantage(first), final_first, rollout, block),
                          token_advantage(bilevel_advantage(second), final_second, rollout, block)]).view(8, 4)
    close(credit[0], [ROOT3 + .6, ROOT3 + 1.6, ROOT3 + 1.3, ROOT3], atol=1e-5)
    close(credit[1], [w + .45, w - 1, w + 1.3, w], atol=1e-5)
    close(credit[5], [w, w, w, 0], atol=1e-5)

    # Rollout k is written by a policy of one logit z_k: each of its tokens has log pi = log sigmoid(z_k), and z_k = 0.
    z = torch.zeros(8, 1, dtype=torch.float64, requires_grad=True)
    logprobs = torch.nn.functional.logsigmoid(z).expand(8, 4).flatten()
    loss = policy_loss(logprobs, logprobs.detach(), credit.flatten()).sum() / 32  # the batch has 32 response tokens
    # First pass: the ratio is 1, so the loss is -(sum of credit) / 32. What is divided by the std sums to zero over a group;
    # what remains is lam times the sum of A_intra, 0.3 * (11 + 3) = 4.2:
    close(loss, -4.2 / 32, atol=1e-6)
    # d log sigmoid(z) / dz = 1 - sigmoid(0) = 1/2, so dL/dz_k = -(sum of rollout k's credit) / 64.
    loss.backward()
    close(z.grad[0, 0], -(4 * ROOT3 + 3.5) / 64, atol=1e-6)
    close(z.grad[1, 0], (4 / ROOT3 - .75) / 64, atol=1e-6)
    close(z.grad[3, 0], (4 / ROOT3 + 1.7) / 64, atol=1e-6)
    close(z.grad[4, 0], -(1 / ROOT3 + .3) / 64, atol=1e-6)  # 2w + v = -2/sqrt(3) + sqrt(3) + 0.3 = 1/sqrt(3) + 0.3
    close(z.grad[5, 0], ROOT3 / 64, atol=1e-6)  # all steps wrong: 3w = -sqrt(3)


def test_a_mask_by_hand():
    # Anchor 2 is missing from rollout 1, anchor 3 from rollouts 1 and 2, so one is left.
    r, mask = matrix([[1, 0, 0], [1, 1, 0], [0, 0, 1]]), torch.tensor([[1, 0, 0], [1, 1, 0], [1, 1, 1]]).bool()
    # anchor 1: mean 2/3, std sqrt(2)/3: 1/sqrt(2) and -sqrt(2).  anchor 2: of two, mean 1/2, std 1/2: 1, -1.  anchor 3: of one, 0.
    close(group_advantage(r, mask), [[1 / math.sqrt(2), 0, 0], [1 / math.sqrt(2), 1, 0], [-math.sqrt(2), -1, 0]], atol=1e-5)
    # rollout 1: nothing follows its first step: 1, not 1 + 0/2.  rollout 2: 1 + 1/1 = 2, not 1 + 1/2.
    close(intra_advantage(r, mask), [[1, 0, 0], [2, 1, 0], [0, 0, 1]])
    # centred over those who have the anchor: means 1, 1/2, 1
    close(intra_advantage(r, mask, center=True), [[0, 0, 0], [1, .5, 0], [-1, -.5, 0]])


def test_explain_prints_the_worked_group(capsys):
    bigrpo.explain()
    printed = " ".join(capsys.readouterr().out.split())
    # block 3 of rollout 2: A_final + A = 3/sqrt(6) - 3/sqrt(6) = 0;  block 1: 1.225 + 0.9 = 2.125
    assert "+1.225 +0.900 = +2.125" in printed and "+1.225 -1.225 = +0.000" in printed
    assert "rollout 4 -2.000 1.416 1.416 1.525" in printed  # A of rollout 4


# ---------------------------------------------------------------------------------------------------------------------
# What is refused


@pytest.mark.parametrize("function", [group_advantage, intra_advantage, bilevel_advantage])
def test_wrong_shapes_lone_rollouts_and_rewards_that_are_no_numbers_are_refused(function):
    good = torch.ones(4, 3)
    for bad in (torch.ones(4), torch.ones(2, 4, 3), torch.ones(1, 3), torch.ones(0, 3), torch.full((4, 3), math.nan),
                torch.where(torch.eye(4, 3) > 0, math.inf, 0), torch.where(torch.eye(4, 3) > 0, -math.inf, 0)):
        with pytest.raises(ValueError):
            function(bad)
    for mask in (torch.ones(4), torch.ones(3, 4), torch.ones(4, 1), torch.ones(4, 4)):
        with pytest.raises(ValueError):
            function(good, mask)
    assert function(good, torch.ones(4, 3)).shape == (4, 3)
    assert function(torch.ones(4, 0)).shape == (4, 0)  # a program that prints nothing


def test_an_unknown_estimator_is_no_silent_default():
    with pytest.raises((KeyError, ValueError)):
        group_advantage(R, norm="mean")
    with pytest.raises((KeyError, ValueError)):
        kl_penalty(torch.zeros(1), torch.zeros(1), "k1")


# ---------------------------------------------------------------------------------------------------------------------
# Directions


@pytest.mark.parametrize("advantage, ratio, slope", [
    # Minimizing -min(ratio A, clip(ratio) A): a step moves the log-probability up (slope < 0), down (slope > 0) or not at all.
    (+2.0, 1.5, 0.0),  # right and already 50% likelier: no further
    (+2.0, 0.5, -1.0),  # right but less likely than before: up, by ratio * A = 1
    (-2.0, 1.5, +3.0),  # wrong and likelier than before: down, by the whole ratio * |A| = 3; with max for min it would stand still
    (-2.0, 0.5, 0.0),  # wrong and already halved: no further
    (+2.0, 1.1, -2.2), (-2.0, 0.9, +1.8),  # within the clip range nothing is cut
    (+2.0, 1.0, -2.0), (-2.0, 1.0, +2.0), (0.0, 1.5, 0.0), (0.0, 0.5, 0.0)])
def test_the_clip_stops_a_token_only_on_the_side_it_was_pushed_to(advantage, ratio, slope):
    logprob = matrix([math.log(ratio)]).requires_grad_()
    loss = policy_loss(logprob, matrix([0]), matrix([advantage]))
    clipped = min(max(ratio, 0.8), 1.2)
    close(loss.detach(), [-min(ratio * advantage, clipped * advantage)])
    loss.backward()
    close(logprob.grad, [slope])


@pytest.mark.parametrize("advantage", [2.0, -2.0])
def test_on_the_boundary_of_the_clip_the_gradient_is_still_whole(advantage):
    # 1/2 and 2 are exact in floating point, so these ratios stand on the boundary and not beside it
    logprobs = matrix([math.log(0.5), math.log(2)]).requires_grad_()
    policy_loss(logprobs, matrix([0, 0]), matrix([advantage] * 2), clip_low=0.5, clip_high=1.0).sum().backward()
    close(logprobs.grad, [-0.5 * advantage, -2 * advantage])


def test_the_two_sides_of_the_clip_are_not_exchanged():
    logprobs = matrix([math.log(0.75), math.log(1.25)])
    # A = -1 with clip_low 0.3 and clip_high 0.1: 0.75 is inside; 1.25 is outside, but on the side that is never cut for A < 0
    close(policy_loss(logprobs, matrix([0, 0]), matrix([-1, -1]), 0.3, 0.1), [.75, 1.25])
    # A = 1: 0.75 is never cut; 1.25 becomes 1.1
    close(policy_loss(logprobs, matrix([0, 0]), matrix([1, 1]), 0.3, 0.1), [-.75, -1.1])


@pytest.mark.parametrize("kind", ["k3", "k2"])
def test_kl_is_zero_at_the_reference_and_positive_elsewhere(kind):
    logprobs = torch.linspace(-4, -0.1, 50, dtype=torch.float64)
    grid = kl_penalty(logprobs[:, None], logprobs[None, :], kind)
    assert (grid.diagonal() == 0).all() and (grid[~torch.eye(50).bool()] > 0).all()
    # d = log pi_ref - log pi = log 2: k3 = 2 - log 2 - 1;  k2 = (log 2)^2 / 2
    by_hand = {"k3": 1 - math.log(2), "k2": math.log(2) ** 2 / 2}[kind]
    close(kl_penalty(matrix([math.log(0.25)]), matrix([math.log(0.5)]), kind), [by_hand])


def categorical(seed):
    """log pi and log pi_ref of two random distributions over six outcomes, and pi's logits."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(6, dtype=torch.float64, generator=generator).requires_grad_()
    return logits.log_softmax(0), torch.randn(6, dtype=torch.float64, generator=generator).log_softmax(0), logits


def kl(p, q):
    """The exact KL(p || q) of two distributions given by their logarithms."""
    return (p.exp() * (p - q)).sum()


@pytest.mark.parametrize("seed", range(5))
def test_the_mean_of_k3_is_the_exact_kl(seed):
    pi, ref, _ = categorical(seed)
    # E_pi[pi_ref/pi - 1] = 0, so k3 has the mean of -d = log pi - log pi_ref. That is KL(pi || pi_ref).
    close((pi.exp() * kl_penalty(pi, ref, "k3")).sum(), kl(pi, ref))
    assert abs((pi.exp() * kl_penalty(pi, ref, "k2")).sum() - kl(pi, ref)) > 1e-3  # k2's value is biased


@pytest.mark.parametrize("seed", range(5))
def test_on_policy_k3_descends_the_other_kl_and_k2_descends_this_one(seed):
    pi, ref, logits = categorical(seed)

    def gradient(loss):
        return torch.autograd.grad(loss, logits, retain_graph=True)[0]

    # What training sees: outcomes drawn from pi, held fixed, and the gradient through log pi of each.
    k3, k2 = (gradient((pi.detach().exp() * kl_penalty(pi, ref, kind)).sum()) for kind in ("k3", "k2"))
    close(k3, gradient(kl(ref, pi)))  # -sum_x pi_ref(x) d log pi(x)
    close(k2, gradient(kl(pi, ref)))  # sum_x pi(x) log(pi/pi_ref)(x) d log pi(x), Eq. 15's
    assert (k3 - k2).abs().max() > 1e-3


# ---------------------------------------------------------------------------------------------------------------------
# Credit of tokens, on real responses


@functools.cache
def tokenizer():
    return toy.make_tokenizer(list(toy.tokenizer_texts(toy.programs(20, False, 2, seed=0))))


def block(state):
    return f"<reasoning>as follows</reasoning><print>{state}</print>"


ANSWER = "<reasoning>so</reasoning><answer>3</answer>"


def rollout(text, step_rewards, final, prompt="assert f(1) == ??", mask=None, ended=True):
    ids = policy.encode_responses(tokenizer(), [text])[0][:None if ended else -1]
    return bigrpo.Rollout({}, policy.encode_prompts(tokenizer(), [prompt])[0], policy.Sample(ids, [0.0] * len(ids), ended),
                          *policy.decode(tokenizer(), ids, ended), step_rewards, mask or [True] * len(step_rewards), final)


def settings(**changes):
    """The script's own defaults, except that there is no KL, nothing limits the gradient and the samples' log-probabilities may be anything."""
    return Namespace(**vars(bigrpo.build_parser().parse_args([])) | {"beta": 0.0, "max_grad_norm": 1e9, "max_gap": 1e9} | changes)


def credits(group, **changes):
    """For each rollout, the distinct credits of its tokens in each piece of its text: block 1, ..., block k, the rest."""
    bigrpo.assign_credit(group, settings(**changes))
    found = []
    for one in group:
        ends = [m + len("</print>") for m in range(len(one.text)) if one.text.startswith("</print>", m)]
        pieces = [set() for _ in range(len(ends) + 1)]
        for start, credit in zip(one.starts, one.advantage.tolist(), strict=True):
            pieces[sum(start >= end for end in ends)].add(round(credit, 4))
        found.append(pieces)
    return found


def test_tokens_of_block_i_carry_both_advantages_and_all_others_the_answer_s():
    # anchors a, b. Rewards [1, 1], [1, 0]; answers right, wrong: A_final = 1, -1.
    # A_group = 0, 1 and 0, -1;  A_intra = 2, 1 and 1, 0;  A = 0.6, 1.3 and 0.3, -1
    group = [rollout(block("a: 1") + block("b: é") + ANSWER, [1.0, 1.0], 1.0), rollout(block("a: 1") + block("b: 44") + ANSWER, [1.0, 0.0], 0.0)]
    assert credits(group) == [[{1.6}, {2.3}, {1.0}], [{-0.7}, {-2.0}, {-1.0}]]
    torch.testing.assert_close(torch.tensor(group[0].step_advantage), torch.tensor([.6, 1.3]), atol=1e-4, rtol=0)
    assert group[1].final_advantage == pytest.approx(-1, abs=1e-4)


def test_blocks_beyond_n_carry_the_answer_s_advantage_only():
    group = [rollout(block("a: 1") + block("b: 2") + block("c: 3") + ANSWER, [1.0, 1.0], 1.0),
             rollout(block("a: 1") + block("b: 4") + ANSWER, [1.0, 0.0], 0.0)]
    assert credits(group)[0] == [{1.6}, {2.3}, {1.0}, {1.0}]


def test_a_missing_block_has_no_tokens_and_a_cut_block_is_none():
    # rollout 2 is cut within its second block, so it is unfinished, and what there is of it carries A_final; block 1 still has its own
    group = [rollout(block("a: 1") + block("b: 2") + ANSWER, [1.0, 1.0], 1.0),
             rollout(block("a: 1") + block("b: 2")[:-9], [1.0, 0.0], 0.0, ended=False)]
    assert credits(group) == [[{1.6}, {2.3}, {1.0}], [{-0.7}, {-1.0}]]
    assert len(group[1].advantage) == len(group[1].sample.ids)


def test_a_cut_response_has_no_end_token_and_an_ended_one_is_credited_for_it():
    group = [rollout(ANSWER, [], 1.0), rollout(ANSWER, [], 0.0, ended=False)]
    bigrpo.assign_credit(group, settings())
    assert len(group[0].advantage) == len(group[1].advantage) + 1
    close(group[0].advantage[-1], 1.0, atol=1e-4)


def test_the_reasoning_before_the_committed_input_belongs_to_no_step():
    commitment = "<reasoning>try</reasoning><input>1</input>"
    group = [rollout(commitment + block("a: 1") + block("b: 2") + ANSWER, [1.0, 1.0], 1.0),
             rollout(commitment + block("a: 1") + ANSWER, [1.0, 0.0], 0.0)]
    credits(group)
    inside = [credit for start, credit in zip(group[0].starts, group[0].advantage.tolist()) if start < len(commitment)]
    assert {round(credit, 4) for credit in inside} == {1.0}


def test_masked_anchors_push_nothing():
    # Input prediction: rollout 2's own trace has one anchor. Anchor 2 is left with two of three, [1, 0]: A_group = 1, -1.
    # anchor 1: 1, 1, 0: 1/sqrt(2), 1/sqrt(2), -sqrt(2).  A_intra = [2, 1], [1, masked], [0, 0].  Answers 1, 0, 0: sqrt(2), -1/sqrt(2) twice.
    text = block("a: 1") + block("b: 2") + ANSWER
    group = [rollout(text, [1.0, 1.0], 1.0), rollout(text, [1.0, 0.0], 0.0, mask=[True, False]), rollout(text, [0.0, 0.0], 0.0)]
    assert credits(group)[:2] == [[{2.7213}, {2.7142}, {1.4142}], [{0.3}, {-0.7071}, {-0.7071}]]


def test_one_anchor_repeats_the_answer_so_the_step_term_is_left_out():
    group = [rollout(block("return_val: 3") + ANSWER, [1.0], 1.0), rollout(block("return_val: 4") + ANSWER, [0.0], 0.0)]
    assert credits(group) == [[{1.0}, {1.0}], [{-1.0}, {-1.0}]]
    assert group[0].step_advantage == [0.0]


def test_each_switch_acts_where_it_says():
    group = [rollout(block("a: 1") + block("b: 2") + ANSWER, [1.0, 1.0], 1.0), rollout(block("a: 1") + block("b: 4") + ANSWER, [1.0, 0.0], 0.0)]
    assert credits(group, advantage="terminal") == [[{1.0}] * 3, [{-1.0}] * 3]  # plain GRPO
    assert credits(group, lam=0.0) == [[{1.0}, {2.0}, {1.0}], [{-1.0}, {-2.0}, {-1.0}]]  # Step-GRPO: A_group alone
    assert credits(group, lam=1.0) == [[{3.0}, {3.0}, {1.0}], [{0.0}, {-2.0}, {-1.0}]]
    # no std: A_group and A_final are 1/2 and -1/2;  A = 0.6, 0.8 and 0.3, -0.5
    assert credits(group, norm="none") == [[{1.1}, {1.3}, {0.5}], [{-0.2}, {-1.0}, {-0.5}]]
    # centred A_intra = 1/2, 1/2 and -1/2, -1/2;  A = 0.15, 1.15 and -0.15, -1.15
    assert credits(group, center_intra=True) == [[{1.15}, {2.15}, {1.0}], [{-1.15}, {-2.15}, {-1.0}]]


def test_rewards_reach_the_rollout_they_belong_to():
    example = {"task": "output", "anchors": [["a", "1"], ["b", "2"]], "output": "3"}
    groups = [[rollout(block("a: 1") + block("b: 5") + ANSWER, [], 0.0)], [rollout(block("a: 7") + block("b: 2") + "<answer>4</answer>", [], 0.0)]]
    for [one] in groups:
        one.example = example
    bigrpo.score(groups)
    assert [(one.step_rewards, one.mask, one.final) for [one] in groups] == [([1.0, 0.0], [True, True], 1.0), ([0.0, 1.0], [True, True], 0.0)]


def test_a_column_without_two_different_unmasked_rewards_counts_as_without_signal():
    group = [rollout("", [1.0, 1.0, 0.0], 1.0), rollout("", [1.0, 0.0, 0.0], 1.0), rollout("", [0.0, 0.0, 0.0], 1.0, mask=[False] * 3)]
    found = bigrpo.health([group])
    assert found["equal_columns"] == pytest.approx(2 / 3) and found["equal_groups"] == 1 and found["final_reward"] == 1
    assert found["step_reward"] == pytest.approx(3 / 6)  # three right of six that count


# ---------------------------------------------------------------------------------------------------------------------
# The gradient on a real model: what must not change it


def tiny_model(scale=2.0):
    """A random Qwen2 of one layer; weights twice the usual make its distributions uneven. Another scale is another policy."""
    network = toy.make_model(tokenizer(), width=16, layers=1)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(scale)
    return network


def weights(network):
    return torch.cat([parameter.detach().flatten() for parameter in network.parameters()])


def worked_groups(shift=0.0, **changes):
    """The two prompts of the worked batch as real responses of different lengths; wrong values are longer."""
    groups = []
    for prompt, rows, finals in ((FIRST, FIRST, FIRST_FINAL), (SECOND, SECOND, SECOND_FINAL)):
        group = [rollout("".join(block(f"{name}: {'1' if right else '[4, 5]' * (g + 1)}") for name, right in zip("abc", row)) + ANSWER,
                         [right + shift for right in row], final + shift, f"assert f({prompt}) == ??"[:9 if prompt is FIRST else None])
                 for g, (row, final) in enumerate(zip(rows, finals))]
        bigrpo.assign_credit(group, settings(**changes))
        groups.append(group)
    return groups


def worked_batch(**changes):
    return [one for group in worked_groups(**changes) for one in group]


def tokens(batch):
    return sum(len(one.sample.ids) for one in batch)


def move(batch, reference=None, lr=1.0, **changes):
    """(how one call of update moved the weights, its metrics): with SGD, lr 1 and one update that is minus the gradient."""
    network = tiny_model()
    before = weights(network)
    optimizers = [torch.optim.SGD(network.parameters(), 99.0)]  # update sets the learning rate
    metrics = bigrpo.update(network, optimizers, reference, batch, lr, settings(**changes))
    return weights(network) - before, metrics


def same(a, b, atol=1e-6):
    assert a.abs().max() > 1e-2  # it moves at all
    torch.testing.assert_close(a, b, rtol=0, atol=atol)


def test_the_order_of_rollouts_and_prompts_does_not_matter():
    batch, rng = worked_batch(), random.Random(0)
    plain, _ = move(batch)
    same(plain, move(batch[4:] + batch[:4])[0])
    same(plain, move(rng.sample(batch, len(batch)))[0])
    groups = worked_groups()
    for group in groups:
        group.reverse()
        bigrpo.assign_credit(group, settings())
    same(plain, move([one for group in groups for one in group])[0])


def test_the_size_of_micro_batches_and_their_padding_do_not_matter():
    plain, metrics = move(worked_batch(), token_budget=10**6)  # one micro-batch, every row padded to the longest
    for budget in (1, 300, 700):  # 1: every rollout alone, nothing padded
        moved, others = move(worked_batch(), token_budget=budget)
        same(plain, moved)
        assert others == pytest.approx(metrics, abs=1e-5)


def test_the_only_normaliser_is_the_batch_s_number_of_response_tokens():
    batch = worked_batch()
    idle = rollout(ANSWER * 9, [], 0.0, "a much longer prompt than all of the others " * 3)
    idle.advantage = torch.zeros(len(idle.sample.ids))
    plain, with_idle = move(batch)[0], move(batch + [idle])[0]
    # a rollout without advantage adds nothing but its tokens, and padding beside the others
    same(plain * tokens(batch), with_idle * tokens(batch + [idle]), atol=1e-3)  # some 500 tokens times 2e-6


def test_a_batch_without_any_advantage_is_a_step_too_as_it_is_on_several_ranks():
    # AdamW with beta 0.9 and 0.95, first a gradient g, then zeros: m / (1 - 0.9^t) is g, then 0.9 * 0.1 g / 0.19 = 0.4737 g; v / (1 - 0.95^t) is
    # g^2, then 0.95 * 0.05 g^2 / 0.0975 = 0.4872 g^2. So a weight moves by lr, then by 0.4737 / sqrt(0.4872) = 0.6787 lr.
    network, batch = tiny_model(), worked_batch()
    optimizer = torch.optim.AdamW(network.parameters(), betas=(0.9, 0.95), weight_decay=0.0)
    places = [weights(network)]
    for _ in range(2):
        bigrpo.update(network, [optimizer], None, batch, 0.01, settings())
        places.append(weights(network))
        for one in batch:
            one.advantage = torch.zeros_like(one.advantage)
    first, second = places[1] - places[0], places[2] - places[1]
    far = first.abs() > 0.00999  # where g is not as small as AdamW's eps
    assert far.sum() > 1000
    torch.testing.assert_close(second[far], 0.6787 * first[far], rtol=0, atol=2e-5)


def test_a_stale_sampler_stops_the_run_before_the_weights_move(capsys):
    network, batch = tiny_model(), worked_batch()
    for one in batch:
        one.sample.logprobs = [-0.1] * len(one.sample.ids)
    with pytest.raises(SystemExit) as stopped:
        bigrpo.update(network, [torch.optim.SGD(network.parameters(), 1.0)], None, batch, 1.0, settings(max_gap=0.1))
    assert stopped.value.code == 2 and "--max-gap 0.1" in capsys.readouterr().err
    assert torch.equal(weights(network), weights(tiny_model()))


def test_a_constant_added_to_every_reward_does_not_matter_without_intra_advantage():
    same(move(worked_batch(lam=0.0))[0], move(worked_batch(lam=0.0, shift=0.25))[0], atol=5e-6)
    same(move(worked_batch(advantage="terminal"))[0], move(worked_batch(advantage="terminal", shift=-3.0))[0], atol=5e-6)
    assert (move(worked_batch())[0] - move(worked_batch(shift=0.25))[0]).abs().max() > 1e-2  # A_intra is no difference


RANK = """
import sys, torch, bigrpo, policy, test_bigrpo as t
rank, world = policy.start_ranks()
batch, network = t.worked_batch(), policy.shard(t.tiny_model(), checkpointing=True)
share = batch[:1] if rank == 0 else batch[1:]
reference = policy.shard(t.tiny_model(1.9))
metrics = bigrpo.update(network, [torch.optim.SGD(network.parameters(), 1.0)], reference, share, 1.0, t.settings(**t.TWO_RANKS))
assert all(weight.to_local().numel() < weight.numel() for weight in network.parameters())  # each rank holds a piece of every weight
moved = [weight.flatten() for name, weight in policy.whole_weights(network) if name != "lm_head.weight"]  # which is the embedding
torch.save((world, torch.cat(moved), metrics), f"{sys.argv[1]}/{rank}")
policy.leave(0)
"""
TWO_RANKS = {"updates": 2, "beta": 0.1, "max_grad_norm": 0.5, "token_budget": 400}


def test_one_rank_and_two_ranks_learn_the_same(tmp_path):
    # Rank 0 holds one of the eight rollouts, rank 1 seven, so that a mean per rank would show, and so would a rank with fewer micro-batches.
    (tmp_path / "rank.py").write_text(RANK)
    environment = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}", "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", tmp_path / "rank.py", tmp_path],
                   check=True, env=environment, cwd=ROOT, timeout=300)
    moved, metrics = move(worked_batch(), tiny_model(1.9), **TWO_RANKS)
    for rank in "01":
        world, found, found_metrics = torch.load(tmp_path / rank)
        assert world == 2
        same(moved, found - weights(tiny_model()), atol=1e-6)
        assert found_metrics == pytest.approx(metrics, abs=1e-5)


# ---------------------------------------------------------------------------------------------------------------------
# The gradient on a real model: what it must be


def plain_logprobs(network, one, temperature=1.0):
    """log pi of every token of one response, [tokens], from the model's logits and nothing else."""
    ids = torch.tensor([one.prompt + one.sample.ids])
    logits = network(input_ids=ids).logits[0, len(one.prompt) - 1:-1] / temperature
    return logits.log_softmax(-1).gather(1, torch.tensor(one.sample.ids)[:, None])[:, 0]


def plain_move(network, loss, lr=1.0):
    network.zero_grad()
    loss.backward()
    change = -lr * torch.cat([parameter.grad.flatten() for parameter in network.parameters()])
    network.zero_grad()
    return change


@pytest.mark.parametrize("temperature", [1.0, 1.3])
def test_terminal_advantage_is_plain_grpo(temperature):
    groups, network = worked_groups(advantage="terminal"), tiny_model()
    batch = [one for group in groups for one in group]
    loss = 0.0
    for group in groups:
        r = torch.tensor([one.final for one in group])
        A = (r - r.mean()) / (r.std(correction=0) + 1e-6)
        for one, a in zip(group, A):
            logprobs = plain_logprobs(network, one, temperature)
            loss = loss - (a * (logprobs - logprobs.detach()).exp()).sum() / tokens(batch)
    moved, metrics = move(batch, temperature=temperature)
    assert metrics["loss"] == pytest.approx(loss.item(), abs=1e-6)
    same(moved, plain_move(network, loss), atol=1e-6)


def test_no_step_rewards_at_all_is_plain_grpo_too():
    groups = worked_groups()
    for group in groups:
        for one in group:
            one.step_rewards, one.mask = [], []
        bigrpo.assign_credit(group, settings())
    same(move([one for group in groups for one in group])[0], move(worked_batch(advantage="terminal"))[0])


def test_a_loss_near_0_is_normal():
    # On the first pass the ratio is 1, so the loss's *value* is -(sum of token advantages) / tokens. Advantages are differences within
    # a group, so for rollouts of equal length they cancel and the loss is 0, while its gradient, -(sum of A * d log pi) / tokens, is not.
    # What is left of the value: rollouts of different lengths, and A_intra, which is not centred. A falling loss is no sign of learning.
    batch = worked_batch()
    moved, metrics = move(batch)
    assert metrics["ratio"] == pytest.approx(1, abs=1e-6) and metrics["clipped"] == 0
    assert metrics["loss"] == pytest.approx(-sum(one.advantage.sum().item() for one in batch) / tokens(batch), abs=1e-6)

    equal = [rollout("<answer>" + answer + "</answer>", [], float(answer == "1")) for answer in "1142"]
    bigrpo.assign_credit(equal, settings())
    moved, metrics = move(equal)
    assert abs(metrics["loss"]) < 1e-6 < 1e-2 < moved.abs().max()
    assert metrics["grad_norm"] == pytest.approx(moved.norm().item(), rel=1e-4)


def test_one_step_makes_what_was_right_likelier_and_what_was_wrong_less_likely():
    right, wrong = group = [rollout("<answer>1</answer>", [], 1.0), rollout("<answer>24</answer>", [], 0.0)]
    bigrpo.assign_credit(group, settings())
    network = tiny_model()
    before = [plain_logprobs(network, one).sum().item() for one in group]
    bigrpo.update(network, [torch.optim.SGD(network.parameters(), 0.01)], None, group, 0.01, settings())
    assert plain_logprobs(network, right).sum() > before[0] and plain_logprobs(network, wrong).sum() < before[1]


@pytest.mark.parametrize("kind", ["k3", "k2"])
def test_two_updates_with_kl_are_two_steps_of_the_printed_loss(kind):
    # Eq. 15 token by token: old log-probabilities from before the first step, the reference's from another model.
    batch, network, reference, lr = worked_batch(), tiny_model(), tiny_model(1.9), 0.1
    old = [plain_logprobs(network, one).detach() for one in batch]
    ref = [plain_logprobs(reference, one).detach() for one in batch]
    losses, clipped, divergence, ratios = [], 0, 0.0, 0.0
    for _ in range(2):
        loss = 0.0
        for one, o, q in zip(batch, old, ref):
            logprobs = plain_logprobs(network, one)
            ratio, d = (logprobs - o).exp(), q - logprobs
            stopped = ((one.advantage > 0) & (ratio > 1.2)) | ((one.advantage < 0) & (ratio < 0.8))
            bound = torch.where(one.advantage > 0, 1.2, 0.8)
            penalty = d.exp() - 1 - d if kind == "k3" else 0.5 * d * d
            loss = loss + (-torch.where(stopped, bound, ratio) * one.advantage + 0.05 * penalty).sum() / tokens(batch)
            clipped, divergence, ratios = clipped + stopped.sum().item(), divergence + penalty.sum().item(), ratios + ratio.sum().item()
        change = plain_move(network, loss, lr)
        with torch.no_grad():
            torch.nn.utils.vector_to_parameters(weights(network) + change, network.parameters())
        losses.append(loss.item())
    moved, metrics = move(batch, reference, lr, updates=2, beta=0.05, kl=kind)
    same(moved, weights(network) - weights(tiny_model()))
    assert metrics["loss"] == pytest.approx(sum(losses) / 2, abs=1e-5)
    assert metrics["kl"] == pytest.approx(divergence / tokens(batch) / 2, rel=1e-4)
    assert metrics["ratio"] == pytest.approx(ratios / tokens(batch) / 2, rel=1e-4)
    assert metrics["clipped"] == pytest.approx(clipped / tokens(batch) / 2) and clipped > 10
    gap = sum((o - torch.tensor(one.sample.logprobs)).abs().sum().item() for one, o in zip(batch, old)) / tokens(batch)
    assert metrics["sampler_gap"] == pytest.approx(gap, rel=1e-4)  # of the policy that sampled, before its first update


def test_a_long_gradient_is_shortened_to_the_limit_and_reported_as_it_was():
    plain, metrics = move(worked_batch())
    short, short_metrics = move(worked_batch(), max_grad_norm=0.1)
    same(plain * 0.1 / plain.norm(), short, atol=1e-6)
    assert short_metrics["grad_norm"] == pytest.approx(metrics["grad_norm"])


def test_a_gradient_that_is_no_number_stops_the_run_and_spares_the_weights():
    batch, network = worked_batch(), tiny_model()
    batch[0].advantage[0] = math.nan
    with pytest.raises(SystemExit):
        bigrpo.update(network, [torch.optim.SGD(network.parameters(), 1.0)], None, batch, 1.0, settings())
    torch.testing.assert_close(weights(network), weights(tiny_model()))


def test_the_clipped_share_counts_the_tokens_that_the_clip_stopped():
    batch = [rollout("<answer>1</answer>", [], 1.0)]  # <answer> 1 </answer> end: four tokens
    batch[0].advantage = torch.tensor([1.0, 1.0, -1.0, -1.0])
    piece = bigrpo.prepare(tiny_model(), None, batch, settings(updates=2))
    piece["old"] = piece["old"] - torch.tensor([2.0, 0.5, 2.0, 0.5]).log()  # the ratios are 2, 1/2, 2, 1/2
    sums = defaultdict(float)
    bigrpo.token_loss(tiny_model(), piece, sums, settings(updates=2))
    assert sums["clipped"] == 2  # the first and the last
    assert sums["ratio"].item() == pytest.approx(5)
    assert sums["loss"].item() == pytest.approx(-1.2 - 0.5 + 2 + 0.8)


def test_the_end_token_is_trained_even_where_it_is_the_padding_too():
    short, long = rollout("<answer>1</answer>", [], 1.0), rollout(ANSWER * 3, [], 0.0)
    end = tokenizer().eos_token_id
    assert short.sample.ids[-1] == end
    short.sample.ids[1] = end  # and a response may hold the padding's id in its middle
    network = tiny_model()
    network.config.pad_token_id = end
    long.advantage = torch.zeros(len(long.sample.ids))
    for place in (-1, 1):
        short.advantage = torch.zeros(len(short.sample.ids))
        short.advantage[place] = 1.0  # only this token is pushed
        same(move([short, long])[0] * tokens([short, long]), plain_move(network, -plain_logprobs(network, short)[place]), atol=1e-4)


@pytest.mark.parametrize("temperature", [0.7, 1.3])
def test_sampler_and_trainer_agree_from_prompt_to_gradient(temperature):
    network, args = tiny_model(), settings(group=3, max_tokens=12, temperature=temperature)
    examples = [{"prompt": "assert f(1) == ??"}, {"prompt": "def f(a):"}]
    groups = bigrpo.roll_out(policy.TransformersSampler(network, tokenizer()), tokenizer(), examples, [(0, 0, 0), (0, 0, 1)], args)
    assert [len(group) for group in groups] == [3, 3] and groups[1][0].example is examples[1]
    batch = [one for group in groups for one in group]
    for g, one in enumerate(batch):
        assert one.prompt == tokenizer().encode(one.example["prompt"])
        assert one.text == tokenizer().decode([token for token in one.sample.ids if token != tokenizer().eos_token_id])
        one.advantage = torch.full((len(one.sample.ids),), float(g - 2))
    loss = sum(-one.advantage @ (plain_logprobs(network, one, temperature) - plain_logprobs(network, one, temperature).detach()).exp()
               for one in batch) / tokens(batch)
    expected = plain_move(network, loss)
    metrics = bigrpo.update(network, [torch.optim.SGD(network.parameters(), 1.0)], None, batch, 1.0, args)
    assert metrics["sampler_gap"] < 1e-4 and metrics["ratio"] == pytest.approx(1)
    same(weights(network) - weights(tiny_model()), expected, atol=1e-5)


# ---------------------------------------------------------------------------------------------------------------------
# Against plain loops, written from the equations


def plain_group_advantage(r, mask, eps, norm):
    advantage = [[0.0] * len(r[0]) for _ in r]
    for i in range(len(r[0])):
        has = [g for g in range(len(r)) if mask[g][i]]
        mean = sum(r[g][i] for g in has) / max(len(has), 1)
        std = math.sqrt(sum((r[g][i] - mean) ** 2 for g in has) / max(len(has), 1))
        for g in has:
            if len(has) >= 2 and std >= 1e-3:
                advantage[g][i] = (r[g][i] - mean) / (std + eps if norm == "std" else 1)
    return advantage


def plain_intra_advantage(r, mask, center):
    advantage = [[0.0] * len(r[0]) for _ in r]
    for g, row in enumerate(r):
        for i in range(len(row)):
            later = [row[j] for j in range(i + 1, len(row)) if mask[g][j]]
            if mask[g][i]:
                advantage[g][i] = row[i] * (1 + (sum(later) / len(later) if later else 0))
    for i in range(len(r[0]) if center else 0):
        has = [g for g in range(len(r)) if mask[g][i]]
        mean = sum(advantage[g][i] for g in has) / max(len(has), 1)
        for g in has:
            advantage[g][i] -= mean
    return advantage


def random_group(rng):
    """(r, mask) of lists: equal columns, columns with one rollout, rollouts without anchors; behind the mask anything may stand."""
    G, n = rng.choice((2, 2, 5, 5, 7, 7, 64)), rng.choice((1, 2, 3, 10))
    r = [[rng.choice((0.0, 1.0)) for _ in range(n)] for _ in range(G)]
    mask = [[True] * n for _ in range(G)]
    for i in range(n):
        kind = rng.choice(("binary", "binary", "equal", "real"))
        for g in range(G):
            r[g][i] = {"binary": r[g][i], "equal": 0.35, "real": rng.uniform(0, 1)}[kind]
    if rng.random() < 0.7:
        mask = [[i < length for i in range(n)] for length in (rng.randint(0, n) for _ in range(G))]
    if rng.random() < 0.2:  # a mask with holes
        mask = [[rng.random() < 0.7 for _ in range(n)] for _ in range(G)]
    if rng.random() < 0.2:  # the last anchor is seen by one rollout only
        for g in range(G):
            mask[g][-1] = g == 0
    return [[x if there else rng.uniform(-9, 9) for x, there in zip(*rows)] for rows in zip(r, mask)], mask


@pytest.mark.parametrize("norm", ["std", "none"])
@pytest.mark.parametrize("center", [False, True])
def test_advantages_equal_the_plain_loops(norm, center):
    for seed in range(200):
        rng = random.Random(seed)
        r, mask = random_group(rng)
        eps, lam = rng.choice((1e-6, 0.1)), rng.choice((0.0, 0.3, 1.0))
        group, intra = plain_group_advantage(r, mask, eps, norm), plain_intra_advantage(r, mask, center)
        close(group_advantage(matrix(r), torch.tensor(mask), eps, norm), group)
        close(intra_advantage(matrix(r), torch.tensor(mask), center), intra)
        both = matrix(plain_group_advantage(r, mask, 1e-6, norm)) + lam * matrix(intra)
        close(bilevel_advantage(matrix(r), torch.tensor(mask), lam, norm, center), both)
        close(bilevel_advantage(matrix(r).float(), torch.tensor(mask), lam, norm, center), both, atol=1e-3)  # fp32


def test_equal_rewards_give_exactly_zero_in_fp32_too():
    for G in (2, 5, 7, 64):
        for value in (0.0, 1.0, 0.35, 0.1):  # 7 * 0.35 is not 7 * 0.35 after rounding; at eps 1e-8 that would be |A| = 0.7
            assert (group_advantage(torch.full((G, 3), value), eps=1e-8) == 0).all()


def test_one_right_of_64_is_far_from_equal():
    # mean 1/64, std sqrt(63)/64: right 63/sqrt(63) = sqrt(63), wrong -1/sqrt(63)
    r = torch.zeros(64, 1, dtype=torch.float64)
    r[5] = 1
    close(group_advantage(r)[4:6, 0], [-1 / math.sqrt(63), math.sqrt(63)], atol=1e-3)


def plain_token_blocks(starts, spans, n):
    return [next((i for i, (start, end) in enumerate(spans[:n]) if start <= where < end), n) for where in starts]


def test_token_blocks_equal_the_plain_loop():
    for seed in range(400):
        rng = random.Random(seed)
        cuts = sorted(rng.sample(range(60), 2 * rng.randint(0, 6)))
        spans = list(zip(cuts[::2], cuts[1::2]))  # with gaps between them
        if rng.random() < 0.5:
            spans = list(zip(cuts, cuts[1:]))  # each begins where the last ended
        starts, n = sorted(rng.choices(range(61), k=40)), rng.randint(0, 8)  # missing blocks and extra ones
        assert token_blocks(torch.tensor(starts), spans, n).tolist() == plain_token_blocks(starts, spans, n)


def test_a_token_on_the_edge_of_two_blocks_belongs_to_the_one_it_begins():
    # block 0 holds characters 2, 3, 4; block 1 holds 5, 6
    assert token_blocks(torch.tensor([1, 2, 4, 5, 6, 7]), [(2, 5), (5, 7)], 2).tolist() == [2, 0, 0, 1, 1, 2]
    assert token_blocks(torch.tensor([1, 2, 4, 5, 6, 7]), [(2, 5), (5, 7)], 1).tolist() == [1, 0, 0, 1, 1, 1]  # the second is extra
    assert token_blocks(torch.tensor([1, 2, 4, 5, 6, 7]), [(2, 5)], 3).tolist() == [3, 0, 0, 3, 3, 3]  # two are missing
    assert token_blocks(torch.tensor([0, 1]), [], 3).tolist() == [3, 3]


def test_token_credit_loss_and_gradient_equal_the_plain_loops():
    for seed in range(300):
        rng = random.Random(seed)
        G, n, N = rng.choice((2, 5, 7)), rng.choice((1, 3, 10)), 30
        step = [[rng.gauss(0, 1) for _ in range(n)] for _ in range(G)]
        final = [rng.gauss(0, 1) for _ in range(G)]
        rollout, block = [rng.randrange(G) for _ in range(N)], [rng.randint(0, n) for _ in range(N)]
        credit = [final[g] + (step[g][i] if i < n else 0) for g, i in zip(rollout, block)]
        close(token_advantage(matrix(step), matrix(final), torch.tensor(rollout), torch.tensor(block)), credit)

        new, old, ref = ([rng.uniform(-3, -2) for _ in range(N)] for _ in range(3))
        low, high, kind = 0.2, rng.choice((0.2, 0.3)), rng.choice(("k3", "k2"))
        loss, gradient = [], []
        for A, x, o, q in zip(credit, new, old, ref):
            ratio = math.exp(x - o)
            loss.append(-min(ratio * A, min(max(ratio, 1 - low), 1 + high) * A))
            gradient.append(0 if (A > 0 and ratio > 1 + high) or (A < 0 and ratio < 1 - low) else -ratio * A)
            loss[-1] += 0.1 * (math.exp(q - x) - (q - x) - 1 if kind == "k3" else (q - x) ** 2 / 2)
            gradient[-1] += 0.1 * (1 - math.exp(q - x) if kind == "k3" else x - q)
        logprobs = matrix(new).requires_grad_()
        value = policy_loss(logprobs, matrix(old), matrix(credit), low, high) + 0.1 * kl_penalty(logprobs, matrix(ref), kind)
        close(value.detach(), loss)
        value.sum().backward()
        close(logprobs.grad, gradient)
