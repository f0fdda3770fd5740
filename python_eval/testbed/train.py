"""Train the small LLaMA that ships with livekv: seeded, resumable, CPU or one GPU, Hugging Face format out.

    python -m python_eval.testbed.train --text BOOKS... --out DIR [--tokens 12e6] [--resume]

The run is a function of its options and seed: batches are drawn from a generator that is part of the checkpoint, the
learning rate follows the tokens seen (not the clock), and sequences grow from 256 tokens to the full context, because
short sequences cost less attention and teach the local language that long ones build on.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from . import corpus


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the result, saved beside it as `recipe.json`."""

    n_embd: int = 256
    n_layer: int = 4
    n_head: int = 4
    n_head_kv: int = 2
    n_ff: int = 704
    n_vocab: int = 4096
    n_ctx: int = 2048
    rope_theta: float = 100000.0
    tokens: int = 12_000_000
    batch_tokens: int = 4096  # per optimizer step
    learning_rate: float = 3e-3
    weight_decay: float = 0.1
    warmup_steps: int = 100
    # (share of the run, sequence length): reached in this order, the last one is the full context
    stages: tuple[tuple[float, int], ...] = ((0.72, 256), (0.20, 512), (0.08, 2048))
    seed: int = 1

    @property
    def steps(self) -> int:
        return self.tokens // self.batch_tokens

    def seq_len(self, step: int) -> int:
        done = step / self.steps
        for share, length in self.stages:
            if done < share:
                return length
            done -= share
        return self.stages[-1][1]

    def lr_at(self, step: int) -> float:
        """Linear warm-up, then a straight line to zero at the last token."""
        warm = min(1.0, (step + 1) / self.warmup_steps)
        return self.learning_rate * warm * max(0.0, 1.0 - step / self.steps)


def build_model(recipe: Recipe, bos: int, eos: int) -> LlamaForCausalLM:
    config = LlamaConfig(
        vocab_size=recipe.n_vocab,
        hidden_size=recipe.n_embd,
        intermediate_size=recipe.n_ff,
        num_hidden_layers=recipe.n_layer,
        num_attention_heads=recipe.n_head,
        num_key_value_heads=recipe.n_head_kv,
        max_position_embeddings=recipe.n_ctx,
        rms_norm_eps=1e-5,
        rope_parameters={"rope_type": "default", "rope_theta": recipe.rope_theta},
        tie_word_embeddings=True,
        bos_token_id=bos,
        eos_token_id=eos,
        attn_implementation="sdpa",
    )
    return LlamaForCausalLM(config)


def build_optimizer(model: LlamaForCausalLM, recipe: Recipe) -> torch.optim.Optimizer:
    """AdamW; norms and embeddings are not decayed (they are scales and rows seen rarely)."""
    decay = [p for name, p in model.named_parameters() if p.ndim == 2 and "embed" not in name]
    plain = [p for name, p in model.named_parameters() if p.ndim != 2 or "embed" in name]
    groups = [{"params": decay, "weight_decay": recipe.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=recipe.learning_rate, betas=(0.9, 0.95), fused=True)


def draw_batch(stream: np.ndarray, seq_len: int, n_seq: int, bos: int, rng: np.random.Generator) -> torch.Tensor:
    """[n_seq, seq_len] token ids; each sequence starts with <bos>, as every prompt will."""
    starts = rng.integers(0, len(stream) - seq_len, size=n_seq)
    batch = np.stack([stream[s : s + seq_len] for s in starts]).astype(np.int64)
    batch[:, 0] = bos
    return torch.from_numpy(batch)


@torch.no_grad()
def held_out_loss(model: LlamaForCausalLM, stream: np.ndarray, bos: int, device: str, seq_len: int = 512) -> float:
    """Mean next-token loss in nats over fixed windows of the held-back text."""
    model.eval()
    rng = np.random.default_rng(0)
    losses = []
    for _ in range(8):
        batch = draw_batch(stream, seq_len, 4, bos, rng).to(device)
        losses.append(model(batch, labels=batch).loss.item())
    model.train()
    return float(np.mean(losses))


def save_result(model: LlamaForCausalLM, tokenizer, recipe: Recipe, log: list[dict], out: Path) -> None:
    model.save_pretrained(out)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=corpus.BOS, eos_token=corpus.EOS, model_max_length=recipe.n_ctx
    ).save_pretrained(out)
    (out / "recipe.json").write_text(json.dumps({"recipe": asdict(recipe), "log": log}, indent=1))


def train(
    recipe: Recipe,
    texts: list[str],
    held_out: list[str],
    out: Path,
    resume: bool = False,
    threads: int | None = None,
    checkpoint_seconds: float = 300.0,
) -> None:
    """Trains on `texts` and writes model, tokenizer, recipe.json and (while running) checkpoint.pt into `out`."""
    if threads:
        torch.set_num_threads(threads)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(recipe.seed)
    tokenizer = corpus.train_tokenizer(texts, recipe.n_vocab)
    bos, eos = tokenizer.token_to_id(corpus.BOS), tokenizer.token_to_id(corpus.EOS)
    stream = corpus.token_stream(tokenizer, texts)
    eval_stream = corpus.token_stream(tokenizer, held_out) if held_out else None
    model = build_model(recipe, bos, eos).to(device)
    optimizer = build_optimizer(model, recipe)
    rng = np.random.default_rng(recipe.seed)
    first_step, log = 0, []

    out.mkdir(parents=True, exist_ok=True)
    checkpoint = out / "checkpoint.pt"
    if resume and checkpoint.exists():
        state = torch.load(checkpoint, map_location=device, weights_only=False)
        if state["recipe"] != asdict(recipe):
            sys.exit(f"train: {checkpoint} was made with other options; start without --resume")
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        rng.bit_generator.state = state["rng"]
        first_step, log = state["step"], state["log"]

    n_params = sum(p.numel() for p in model.parameters())
    print(f"{n_params / 1e6:.2f} M parameters, {len(stream) / 1e6:.2f} M tokens of text, {recipe.steps} steps on {device}")
    bar = tqdm(range(first_step, recipe.steps), initial=first_step, total=recipe.steps, unit="step", mininterval=10)
    running, last_save = None, time.monotonic()
    for step in bar:
        seq_len = recipe.seq_len(step)
        for group in optimizer.param_groups:
            group["lr"] = recipe.lr_at(step)
        batch = draw_batch(stream, seq_len, recipe.batch_tokens // seq_len, bos, rng).to(device)
        with torch.autocast("cuda", dtype=torch.bfloat16, enabled=device == "cuda"):
            loss = model(batch, labels=batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        running = loss.item() if running is None else 0.98 * running + 0.02 * loss.item()
        if (step + 1) % 20 == 0:
            bar.set_postfix(loss=f"{running:.3f}", seq=seq_len)
        if (step + 1) % 250 == 0 or step + 1 == recipe.steps:
            entry = {"step": step + 1, "tokens": (step + 1) * recipe.batch_tokens, "loss": round(running, 4)}
            if eval_stream is not None:
                entry["held_out"] = round(held_out_loss(model, eval_stream, bos, device), 4)
            log.append(entry)
            tqdm.write(json.dumps(entry))
        if time.monotonic() - last_save >= checkpoint_seconds:
            state = {"recipe": asdict(recipe), "model": model.state_dict(), "optimizer": optimizer.state_dict(),
                     "rng": rng.bit_generator.state, "step": step + 1, "log": log}
            torch.save(state, out / "checkpoint.tmp")
            (out / "checkpoint.tmp").replace(checkpoint)
            last_save = time.monotonic()
    save_result(model, tokenizer, recipe, log, out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", type=Path, nargs="+", required=True, help="training text files (books, WikiText)")
    parser.add_argument("--held-out", type=Path, nargs="*", default=[], help="text that is only evaluated, never trained on")
    parser.add_argument("--out", type=Path, required=True, help="result folder (Hugging Face format)")
    parser.add_argument("--tokens", type=float, default=Recipe.tokens, help="training tokens (default: %(default)s)")
    parser.add_argument("--layers", type=int, default=Recipe.n_layer)
    parser.add_argument("--batch-tokens", type=int, default=Recipe.batch_tokens)
    parser.add_argument("--learning-rate", type=float, default=Recipe.learning_rate)
    parser.add_argument("--seed", type=int, default=Recipe.seed)
    parser.add_argument("--threads", type=int, help="CPU threads (default: all)")
    parser.add_argument("--resume", action="store_true", help="continue from the last checkpoint in --out")
    args = parser.parse_args()
    held_out = {path.resolve() for path in args.held_out}
    missing = [str(path) for path in [*args.text, *args.held_out] if not path.is_file()]
    if missing:
        sys.exit(f"train: no such file: {', '.join(missing)}")
    recipe = Recipe(tokens=int(args.tokens), n_layer=args.layers, batch_tokens=args.batch_tokens,
                    learning_rate=args.learning_rate, seed=args.seed)
    texts = corpus.load_texts([path for path in args.text if path.resolve() not in held_out])
    train(recipe, texts, corpus.load_texts(args.held_out), args.out, args.resume, args.threads)


if __name__ == "__main__":
    main()
