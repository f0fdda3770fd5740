"""What decides a training run: the shape, the schedule, the mix; the presets."""

from __future__ import annotations

from dataclasses import dataclass

from .mix import Shares


@dataclass(frozen=True)
class Stage:
    """A part of the run, `until` this share of its progress: sequences of `seq_len`, `batch_tokens` a step."""

    until: float
    seq_len: int
    batch_tokens: int
    shares: Shares


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the result, saved beside it as `recipe.json`."""

    n_embd: int = 256
    n_layer: int = 6
    n_head: int = 4
    n_head_kv: int = 2
    head_dim: int = 64
    n_ff: int = 704
    n_vocab: int = 4096
    tokenizer_tasks: int = 2400  # generated tasks that the tokenizer learns from beside the text
    n_ctx: int = 4096
    rope_theta: float = 100000.0
    tokens: int = 10_000_000
    muon_rate: float = 5e-3  # of the layers' matrices
    learning_rate: float = 3e-3  # of embeddings and norms (AdamW)
    beta2: float = 0.98
    weight_decay: float = 0.1
    warmup_steps: int = 100
    flat: float = 0.5  # share of the run before the learning rate falls
    micro_tokens: int = 2048  # at most so many in one forward pass
    stages: tuple[Stage, ...] = (
        Stage(0.34, 256, 2048, Shares(text=0.25, copies=0.40)),
        Stage(0.62, 256, 4096, Shares(text=0.60, copies=0.08)),
        Stage(0.73, 512, 4096, Shares(text=0.50, copies=0.08)),
        Stage(0.81, 1024, 4096, Shares(text=0.45, copies=0.08)),
        Stage(0.89, 2048, 4096, Shares(text=0.35, copies=0.04)),
        Stage(1.00, 4096, 4096, Shares(text=0.30, copies=0.03)),
    )
    seed: int = 1

    def stage(self, progress: float) -> Stage:
        return next((s for s in self.stages if progress < s.until), self.stages[-1])

    def lr_factor(self, step: int, progress: float) -> float:
        """Of the learning rates: linear warm-up, flat, then a straight line to zero at the end of the run."""
        warm = min(1.0, (step + 1) / self.warmup_steps)
        fall = 1.0 if progress < self.flat else (1.0 - progress) / (1.0 - self.flat)
        return warm * max(0.0, fall)


SMALL = Recipe(
    n_embd=768, n_layer=12, n_head=8, n_head_kv=2, head_dim=128, n_ff=2048, n_vocab=8192, n_ctx=16384,
    rope_theta=500000.0, tokens=300_000_000, muon_rate=4e-3, learning_rate=2e-3, micro_tokens=65536,
    stages=(
        Stage(0.40, 512, 65536, Shares(text=0.30, copies=0.30)),
        Stage(0.70, 1024, 131072, Shares(text=0.45, copies=0.12)),
        Stage(0.85, 4096, 131072, Shares(text=0.45, copies=0.10)),
        Stage(1.00, 16384, 131072, Shares(text=0.40, copies=0.08)),
    ),
)  # fmt: skip

PRESETS: dict[str, Recipe] = {"tiny": Recipe(), "small": SMALL}
