"""What a model can do, measured while it trains: loss on held-back text and the share of questions answered."""

from __future__ import annotations

import numpy as np
import torch

from . import haystack
from .layout import layout
from .llama import Llama
from .mix import Mixer
from .task import Maker
from .tasks import FORMS


def sample_text(seed: int, n_tasks: int) -> str:
    """Text of generated tasks, for the tokenizer to learn from."""
    rng = np.random.default_rng([seed, 2])
    parts = []
    for i in range(n_tasks):
        form = list(FORMS.values())[i % len(FORMS)]
        task = form(Maker(_words, 512, n_questions=2), rng)
        glue = "" if task.packed else " "
        parts.append(task.head + glue.join(task.facts) + "".join(q.prompt + q.answer for q in task.questions))
    # 200 of every 208: the shipped model's tokenizer was made of these.
    parts += ["".join([haystack.made_up_sentence(rng) for _ in range(208)][:200]) for _ in range(20)]
    return "\n\n".join(parts)


def _words(text: str) -> list[int]:
    """Stands in for a tokenizer that is not there yet: as many ids as words."""
    return [0] * len(text.split())


def text_loss(model: Llama, stream: np.ndarray, bos: int, device: str, seq_len: int = 512, n: int = 24) -> float:
    """Mean next-token loss in nats over fixed windows."""
    rng = np.random.default_rng(0)
    losses = []
    for start in rng.integers(0, len(stream) - seq_len, n):
        ids = stream[start : start + seq_len].astype(np.int64)
        ids[0] = bos
        tokens = torch.from_numpy(ids)[None].to(device)
        losses.append(model.token_losses(model(tokens)[0, :-1], tokens[0, 1:]).mean().item())
    return float(np.mean(losses))


def retrieval(model: Llama, mixer: Mixer, seq_len: int, device: str) -> dict[str, float]:
    """Share of the questions whose whole answer is the most likely continuation, by form; greedy decoding agrees."""
    shares = {}
    n = max(1, min(4, 1024 // seq_len))
    for at, (name, form) in enumerate(FORMS.items()):
        rng = np.random.default_rng([7, at, seq_len])
        right, asked = 0, 0
        for _ in range(n):
            maker = Maker(mixer.encode, seq_len - 1, n_questions=2)
            laid = layout(form(maker, rng), maker, mixer.text_haystack, rng, all_questions=False)
            for prompt, answer, _ in laid.questions:
                ids = torch.tensor([[mixer.bos, *laid.context, *prompt, *answer]], device=device)
                best = model.logits(model(ids)[0, -len(answer) - 1 : -1]).argmax(-1)
                right += int((best == ids[0, -len(answer) :]).all())
                asked += 1
        shares[name] = round(right / asked, 3)
    return shares
