"""Logits and greedy continuations of a Hugging Face folder by transformers, in float32 on the CPU."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.utils import logging

logging.disable_progress_bar()


def load(folder: Path) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()


@torch.no_grad()
def logits(model: PreTrainedModel, tokens: list[int]) -> np.ndarray:
    """float32 [n_tokens, n_vocab]"""
    return model(torch.tensor([tokens])).logits[0].numpy()


@torch.no_grad()
def greedy(model: PreTrainedModel, tokens: list[int], n: int, least_lead: float = 0.0) -> list[int] | None:
    """n greedy ids, past any end token; None when a choice leads by less than this share of the logit range."""
    ids = list(tokens)
    for _ in range(n):
        last = model(torch.tensor([ids])).logits[0, -1]
        best = last.topk(2)
        if best.values[0] - best.values[1] < least_lead * (last.max() - last.min()):
            return None
        ids.append(int(best.indices[0]))
    return ids[len(tokens) :]
