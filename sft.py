"""Supervised warm start: learn to write traces before being rewarded for them.

The loss is the mean negative log-likelihood of the response tokens, end token included; prompt tokens carry none. One
normaliser a step, the number of response tokens of the whole batch, so that the gradient does not depend on how the
batch is cut into micro-batches.

    python sft.py                                              # the toy: runs/toy/model -> runs/sft/model
    torchrun --nproc_per_node 8 sft.py --model ...             # the same batch, split over 8 processes (FSDP2)
    python sft.py --model Qwen/Qwen2.5-Coder-0.5B-Instruct --data data.jsonl --out runs/qwen-sft --optimizer adamw --lr 1e-5

The paper states no hyperparameter of this stage; the defaults are the toy's.
"""

import argparse
import time
from pathlib import Path

import policy  # before torch: it says how OpenMP's threads wait

import torch


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(formatter_class=argparse.ArgumentDefaultsHelpFormatter, description="Supervised fine-tuning on the responses of examples.")
    parser.add_argument("--model", default="runs/toy/model", help="checkpoint folder or Hugging Face id to start from")
    parser.add_argument("--data", type=Path, default=Path("runs/toy/sft_examples.jsonl"), help="JSONL from augment.py")
    parser.add_argument("--out", type=Path, default=Path("runs/sft"), help="folder for model, settings and metrics")
    parser.add_argument("--epochs", type=policy.positive(float), default=4.0, help="passes over the examples")
    parser.add_argument("--batch", type=policy.positive(int), default=16, help="examples per optimizer step")
    parser.add_argument("--lr", type=policy.positive(float), default=6e-3, help="peak learning rate: short warm-up, then linear to zero")
    parser.add_argument("--optimizer", choices=["muon", "adamw"], default="muon", help="muon for the toy, adamw to fine-tune a real model")
    parser.add_argument("--token-budget", type=policy.positive(int), default=2048, help="tokens per micro-batch, padding counted")
    parser.add_argument("--checkpointing", action="store_true", help="activation checkpointing: a third more work, far less memory")
    parser.add_argument("--max-length", type=policy.positive(int), default=4096, help="longer examples are dropped and counted")
    parser.add_argument("--seed", type=policy.positive(int, or_zero=True), default=0, help="of the order of examples")
    parser.add_argument("--save-every", type=policy.positive(int), default=100, help="steps between checkpoints")
    parser.add_argument("--keep", type=policy.positive(int), default=2, help="checkpoints kept")
    parser.add_argument("--fresh", action="store_true", help="start again, without the checkpoints in --out")
    return parser


def encode_examples(path: Path, rows: list[dict], tokenizer, max_length: int) -> tuple[list[list[int]], list[list[int]]]:
    """(prompts, responses) as token ids; examples over max_length are dropped, counted and reported."""
    pairs = list(zip(policy.encode_prompts(tokenizer, [row["prompt"] for row in rows]), policy.encode_responses(tokenizer, [row["response"] for row in rows])))
    kept = [pair for pair in pairs if len(pair[0]) + len(pair[1]) <= max_length]
    if len(kept) < len(pairs):
        policy.say(f"{path}: dropped {len(pairs) - len(kept)} of {len(pairs)} examples, longer than {max_length} tokens")
    if not kept:
        policy.fail(f"{path}: no example is left to train on")
    return [prompt for prompt, _ in kept], [response for _, response in kept]


def train_step(model, optimizers, prompts, responses, token_budget: int, lr: float) -> dict[str, float]:
    """One step on a batch of token ids: mean loss per response token, and gradient norm."""
    model.train()
    total = policy.all_sum(torch.tensor(float(sum(map(len, responses))), device=model.device))  # the one normaliser of the whole batch, over all ranks

    def gradient(parts: int) -> torch.Tensor:
        loss = torch.zeros((), device=model.device)
        batches = policy.micro_batches([len(p) + len(r) for p, r in zip(prompts, responses)], token_budget // parts)
        spare = policy.missing(batches)  # the first once more, of weight 0, so that every rank makes equally many
        for k, rows in enumerate(batches + batches[:1] * spare):
            weight = 1.0 if k < len(batches) else 0.0
            logprobs, _ = policy.token_logprobs(model, [prompts[i] for i in rows], [responses[i] for i in rows])
            part = -logprobs.sum() / total * weight
            part.backward()
            loss += part.detach()
        return loss

    loss, retries = policy.accumulate(gradient, model)
    return {"loss": policy.all_sum(loss).item(), "grad_norm": policy.optimizer_step(model, optimizers, lr, max_grad_norm=1.0), "retries": retries}


@policy.memory_errors()
def main() -> None:
    args = build_parser().parse_args()
    rank, world = policy.start_ranks()
    if args.batch < world:
        policy.fail(f"--batch must be at least the number of ranks ({world})")
    rows = policy.read_jsonl(args.data, ("prompt", "response"))
    run = policy.Run(args)
    model, tokenizer = policy.load(run.weights)
    prompts, responses = encode_examples(args.data, rows, tokenizer, min(args.max_length, model.config.max_position_embeddings))
    model = policy.shard(model, args.checkpointing)
    steps = max(1, round(args.epochs * len(prompts) / args.batch))
    optimizers = policy.make_optimizers(model, args.optimizer, args.lr, weight_decay=0.01)
    run.restore(model, optimizers)
    bar = run.steps(steps, "sft")
    for step in bar:
        start = time.time()
        policy.seed_step(args.seed, step)
        share = policy.batch_indices(step, args.batch, len(prompts), args.seed)[rank::world]  # this rank's examples
        record = {"step": step, "lr": policy.learning_rate(step, steps, args.lr, warmup=50)}
        record |= train_step(model, optimizers, [prompts[i] for i in share], [responses[i] for i in share], args.token_budget, record["lr"])
        run.log(record | {"timing": {"step_s": time.time() - start}})
        run.save(step + 1, model, tokenizer, optimizers)
        bar.set_postfix_str(f"loss {record['loss']:.3f}")
    run.finish(model, tokenizer)


if __name__ == "__main__":
    main()
