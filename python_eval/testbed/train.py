"""Train the small LLaMA that ships with livekv: seeded, resumable, CPU or one GPU, Hugging Face format out.

    python -m python_eval.testbed.train --preset tiny --text BOOKS... --held-out BOOK --out DIR [--time-budget MINUTES]

The run is a function of its options and seed: the batch of a step is drawn from a generator seeded with the step, and
learning rate, mix and sequence length follow the progress: tokens seen of `--tokens`, or, where that is more, time
trained of `--time-budget`. Sequences grow to the full context: short ones cost less and teach the language and the
looking back that long ones build on.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from tqdm import tqdm

from ..arguments import named
from ..errors import EvalError, run_tool
from ..files import refuse_input, written_whole
from . import corpus, curve, probe
from .clean_text import load_texts
from .feed import Feed
from .llama import Llama, Shape
from .mix import Mixer
from .recipes import PRESETS, Recipe

PAUSE_SECONDS = 60.0  # a step that took longer was stopped from outside; no more than this of it counts as training

RESULTS = (  # files of --out
    "model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json", "recipe.json", "loss.csv",
    "loss.png", "checkpoint.pt",
)  # fmt: skip


def shape_of(recipe: Recipe) -> Shape:
    return Shape(recipe.n_embd, recipe.n_layer, recipe.n_head, recipe.n_head_kv, recipe.head_dim, recipe.n_ff,
                 recipe.n_vocab, recipe.n_ctx, recipe.rope_theta)  # fmt: skip


def build_optimizers(model: Llama, recipe: Recipe) -> list[torch.optim.Optimizer]:
    """Muon for the layers' matrices, AdamW for embeddings and norms, which are neither decayed nor orthogonalized."""
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and "embed" not in name]
    rest = [p for name, p in model.named_parameters() if p.ndim != 2 or "embed" in name]
    muon = torch.optim.Muon(matrices, lr=recipe.muon_rate, weight_decay=recipe.weight_decay, momentum=0.95, ns_steps=4,
                            adjust_lr_fn="match_rms_adamw")  # fmt: skip
    adam = torch.optim.AdamW(rest, lr=recipe.learning_rate, betas=(0.9, recipe.beta2), weight_decay=0.0, fused=True)
    return [muon, adam]


class Trainer:
    """One run: model, optimizer, data and the state that a checkpoint keeps."""

    def __init__(
        self,
        recipe: Recipe,
        texts: list[str],
        held_out: dict[str, str],
        out: Path,
        device: str = "cpu",
        n_workers: int = 0,
    ) -> None:
        self.recipe, self.out, self.device = recipe, out, device
        out.mkdir(parents=True, exist_ok=True)
        self.tokenizer = self._tokenizer(texts)
        self.mixer = Mixer(self.tokenizer, corpus.token_stream(self.tokenizer, texts))
        self.feed = Feed(self.mixer, recipe.seed, n_workers)
        self.held_out = {name: corpus.token_stream(self.tokenizer, [text]) for name, text in held_out.items()}
        torch.manual_seed(recipe.seed)
        self.model = Llama(shape_of(recipe)).to(device)
        self.optimizers = build_optimizers(self.model, recipe)
        self.step, self.tokens, self.seconds = 0, 0, 0.0
        self.mean_loss: float | None = None  # over the last fifty steps or so
        self.log: list[dict[str, object]] = []

    def _tokenizer(self, texts: list[str]) -> Tokenizer:
        path = self.out / "tokenizer.json"
        if not path.exists():
            corpus.train_tokenizer(
                [*texts, probe.sample_text(self.recipe.seed, self.recipe.tokenizer_tasks)], self.recipe.n_vocab
            ).save(str(path))
        return Tokenizer.from_file(str(path))

    @property
    def checkpoint(self) -> Path:
        return self.out / "checkpoint.pt"

    def resume(self) -> None:
        state = torch.load(self.checkpoint, map_location=self.device, weights_only=False)
        if state["recipe"] != asdict(self.recipe):
            sys.exit(f"train: {self.checkpoint} was made with other options; start without --resume")
        self.model.load_state_dict(state["model"])
        for optimizer, kept in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(kept)
        self.step, self.tokens, self.seconds = state["step"], state["tokens"], state["seconds"]
        self.mean_loss, self.log = state["mean_loss"], state["log"]

    def save_checkpoint(self) -> None:
        state = {
            "recipe": asdict(self.recipe),
            "model": self.model.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "step": self.step,
            "tokens": self.tokens,
            "seconds": self.seconds,
            "mean_loss": self.mean_loss,
            "log": self.log,
        }
        with written_whole(self.checkpoint) as temporary:
            torch.save(state, temporary)

    def progress(self, budget_seconds: float | None) -> float:
        by_time = self.seconds / budget_seconds if budget_seconds else 0.0
        return max(self.tokens / self.recipe.tokens, by_time)

    def train_step(self, progress: float) -> float:
        """One optimizer step; the mean weighted loss of its batch in nats."""
        stage = self.recipe.stage(progress)
        ids, weights = (torch.from_numpy(x) for x in self.feed.batch(self.step, stage))
        n_seq = len(ids)
        factor = self.recipe.lr_factor(self.step, progress)
        for optimizer, rate in zip(self.optimizers, (self.recipe.muon_rate, self.recipe.learning_rate), strict=True):
            for group in optimizer.param_groups:
                group["lr"] = rate * factor
        total = float(weights[:, 1:].sum())
        loss = 0.0
        n_micro = max(1, self.recipe.micro_tokens // stage.seq_len)
        for first in range(0, n_seq, n_micro):
            part = self._weighted_loss(ids[first : first + n_micro], weights[first : first + n_micro]) / total
            torch.autograd.backward(part)
            loss += part.item()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self.step += 1
        self.tokens += n_seq * stage.seq_len
        return loss

    def _weighted_loss(self, ids: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        """Sum of weight times loss, over the positions that have any weight."""
        ids, weights = ids.to(self.device), weights.to(self.device)
        wanted = weights[:, 1:] > 0
        with torch.autocast(self.device, dtype=torch.bfloat16):
            hidden = self.model(ids)[:, :-1][wanted]
            losses = self.model.token_losses(hidden, ids[:, 1:][wanted])
        return (losses * weights[:, 1:][wanted]).sum()

    def evaluate(self, seq_len: int) -> dict[str, object]:
        self.model.eval()
        eager = torch.compiler.set_stance("force_eager")  # every question has its own length
        with eager, torch.no_grad(), torch.autocast(self.device, dtype=torch.bfloat16):
            entry: dict[str, object] = {
                f"held_out_{name}": round(probe.text_loss(self.model, stream, self.mixer.bos, self.device), 4)
                for name, stream in self.held_out.items()
            }
            entry["retrieval"] = probe.retrieval(self.model, self.mixer, seq_len, self.device)
        self.model.train()
        return entry

    def run(
        self, budget_seconds: float | None = None, checkpoint_seconds: float = 300.0, eval_steps: int = 250
    ) -> None:
        n_params = sum(p.numel() for p in self.model.parameters())
        n_text = len(self.mixer.stream)
        print(f"{n_params / 1e6:.2f} M parameters, {n_text / 1e6:.2f} M tokens of text, on {self.device}")
        bar = tqdm(total=100.0, unit="%", mininterval=10, bar_format="{l_bar}{bar}| {elapsed} {postfix}")
        last_save = time.monotonic()
        while (progress := self.progress(budget_seconds)) < 1.0:
            began = time.monotonic()
            loss = self.train_step(progress)
            self.mean_loss = loss if self.mean_loss is None else 0.98 * self.mean_loss + 0.02 * loss
            seq_len = self.recipe.stage(progress).seq_len
            bar.n = round(100 * progress, 2)
            seen = f"{self.tokens / 1e6:.2f}M"
            bar.set_postfix(loss=f"{self.mean_loss:.3f}", seq=seq_len, tokens=seen, refresh=False)
            bar.update(0)
            if self.step % eval_steps == 0:
                self._log_entry(seq_len)
            self.seconds += min(time.monotonic() - began, PAUSE_SECONDS)
            if time.monotonic() - last_save >= checkpoint_seconds:
                self.save_checkpoint()
                last_save = time.monotonic()
        if not self.log or self.log[-1]["step"] != self.step:
            self._log_entry(self.recipe.stages[-1].seq_len)
        bar.close()
        self.feed.close()
        self.save_checkpoint()
        save_result(self)

    def _log_entry(self, seq_len: int) -> None:
        entry: dict[str, object] = {"step": self.step, "tokens": self.tokens, "seq_len": seq_len}
        loss = None if self.mean_loss is None else round(self.mean_loss, 4)
        entry |= {"seconds": round(self.seconds, 1), "loss": loss}
        self.log.append(entry | self.evaluate(seq_len))
        tqdm.write(json.dumps(self.log[-1]))
        sys.stdout.flush()


def save_result(trainer: Trainer) -> None:
    """Weights, config.json, the tokenizer's files and recipe.json with the loss curve."""
    out, mixer = trainer.out, trainer.mixer
    eot = corpus.special_id(trainer.tokenizer, corpus.EOT)
    weights = {name: w.detach().float().cpu().contiguous() for name, w in trainer.model.state_dict().items()}
    save_file(weights, out / "model.safetensors", metadata={"format": "pt"})
    config = trainer.model.shape.hf_config(mixer.bos, [mixer.eos, eot])
    (out / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    tokenizer_config = {
        "tokenizer_class": "PreTrainedTokenizerFast", "bos_token": corpus.BOS, "eos_token": corpus.EOS,
        "model_max_length": trainer.recipe.n_ctx, "chat_template": corpus.CHAT_TEMPLATE,
        "clean_up_tokenization_spaces": False,
    }  # fmt: skip
    (out / "tokenizer_config.json").write_text(json.dumps(tokenizer_config, indent=1) + "\n")
    result = {"recipe": asdict(trainer.recipe), "tokens": trainer.tokens, "steps": trainer.step,
              "seconds": round(trainer.seconds), "torch": torch.__version__, "log": trainer.log}  # fmt: skip
    (out / "recipe.json").write_text(json.dumps(result, indent=1) + "\n")
    curve.write_csv(trainer.log, out / "loss.csv")
    try:
        curve.write_png(trainer.log, out / "loss.png")
    except ImportError:
        print("note: no loss.png, as matplotlib is not installed", file=sys.stderr)


def run() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=list(PRESETS), default="tiny")
    parser.add_argument(
        "--text", type=named("--text"), nargs="+", required=True, help="training text files (books, WikiText)"
    )
    parser.add_argument(
        "--held-out", type=named("--held-out"), nargs="*", default=[], help="text that is only evaluated"
    )
    parser.add_argument("--out", type=named("--out"), required=True, help="result folder (Hugging Face format)")
    parser.add_argument("--tokens", type=float, help="training tokens (default: the preset's)")
    parser.add_argument("--time-budget", type=float, metavar="MINUTES", help="end the schedule after so much training")
    parser.add_argument("--learning-rate", type=float)
    parser.add_argument("--seed", type=int)
    parser.add_argument("--threads", type=int, help="CPU threads (default: all)")
    parser.add_argument("--workers", type=int, default=0, help="processes that make batches (for a GPU: 8)")
    parser.add_argument("--no-compile", action="store_true", help="without torch.compile (which needs a C++ compiler)")
    parser.add_argument("--resume", action="store_true", help="continue from the last checkpoint in --out")
    args = parser.parse_args()
    held_out = {path.resolve() for path in args.held_out}
    missing = [str(path) for path in [*args.text, *args.held_out] if not path.is_file()]
    if missing:
        raise EvalError(f"no such file: {', '.join(missing)}")
    changes = {"tokens": args.tokens and int(args.tokens), "learning_rate": args.learning_rate, "seed": args.seed}
    recipe = replace(PRESETS[args.preset], **{name: value for name, value in changes.items() if value is not None})
    if args.threads:
        torch.set_num_threads(args.threads)
    torch.set_float32_matmul_precision("high")
    for name in RESULTS:
        refuse_input(args.out / name, [*args.text, *args.held_out])
    if not args.resume:
        (args.out / "tokenizer.json").unlink(missing_ok=True)
    texts = load_texts([path for path in args.text if path.resolve() not in held_out])
    if not texts:
        raise EvalError("every file of --text is held out, there is nothing to train on")
    held_texts = dict(zip((path.stem for path in args.held_out), load_texts(args.held_out), strict=True))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    trainer = Trainer(recipe, texts, held_texts, args.out, device, args.workers)
    if args.resume and trainer.checkpoint.exists():
        trainer.resume()
    if not args.no_compile and (device == "cuda" or shutil.which("g++") or shutil.which("c++")):
        for layer in trainer.model.model.layers:  # alike, so one compilation a sequence length does for all
            layer.compile(dynamic=False)
    trainer.run(args.time_budget and args.time_budget * 60)
    return 0


if __name__ == "__main__":
    sys.exit(run_tool("train", run))
