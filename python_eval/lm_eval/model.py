"""The model `livekv` of lm-evaluation-harness.

Model arguments: path=FILE (GGUF), kv=SPEC (livekv), n_ctx=N (what the model was trained with), threads=N (all cores),
n_gpu_layers=N (0), max_gen_toks=N (256, for tasks that do not say), seed=N (0, of sampling), batch=N (8,
sequences that advance together), workers=N (1), ray=ADDRESS.
"""

from __future__ import annotations

import logging
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lm_eval import utils  # type: ignore[import-untyped]
from lm_eval.api.instance import Instance  # type: ignore[import-untyped]
from lm_eval.api.model import TemplateLM  # type: ignore[import-untyped]
from lm_eval.api.registry import register_model  # type: ignore[import-untyped]
from lm_eval.models.utils import normalize_gen_kwargs  # type: ignore[import-untyped]
from tqdm import tqdm

from ..errors import EvalError
from ..identity import run_config
from ..model_file import fingerprint, model_facts, size_warning
from ..run_folder import check_same
from ..workers import run_jobs, threads_each
from .engine import Answer, Engine, Generate, Score
from .prefixes import split_runs

# In a file of --use_cache, beside the harness's answers by the hash of their request.
_CONFIG = "livekv config"

# Requests that a worker takes at once: enough to share their beginnings, few enough to be lost with it.
REQUESTS = 16

_SAMPLING = {"top_k": 0, "top_p": 1.0, "min_p": 0.0, "repetition_penalty": 1.0}
# Given by tasks and without effect on one sequence at a time.
_WITHOUT_EFFECT = {"do_sample", "num_beams", "use_cache", "num_return_sequences", "skip_special_tokens"}


@register_model("livekv")
class LiveKV(TemplateLM):  # type: ignore[misc]
    """A GGUF model whose key/value cache is stored as `kv` says (a cache spec: `livekv:kv-bits=4,3`)."""

    def __init__(
        self,
        path: str = "",
        kv: str = "livekv",
        n_ctx: int | None = None,
        threads: int | None = None,
        n_gpu_layers: int = 0,
        max_gen_toks: int = 256,
        seed: int = 0,
        batch: int = 8,
        workers: int = 1,
        ray: str | None = None,
        batch_size: object = None,
        max_batch_size: object = None,
        device: object = None,
        **unknown: object,
    ) -> None:
        super().__init__()
        import livekv

        if unknown:
            raise EvalError(f"unknown model argument '{next(iter(unknown))}'; see python_eval/lm_eval/model.py")
        if not path:
            raise EvalError("which model? --model_args path=FILE.gguf")
        if batch < 1:
            raise EvalError(f"batch is {batch}; it must be 1 or more")
        self.identity = fingerprint(Path(path))
        self.kv = livekv.KVOptions.parse(str(kv)).spec
        engine = Engine(Path(path).resolve(), self.kv, 0, threads_each(threads, workers), n_gpu_layers, batch)
        self.model = engine.model
        engine.n_ctx = self.max_length = n_ctx or self.model.n_ctx_train
        self._engine, self._workers, self._ray = engine, workers, ray
        self.max_gen_toks, self._seed = max_gen_toks, seed
        self._config = run_config("benchmark", "lm_eval", Path(path), n_gpu_layers, cache=self.kv,
                                  n_ctx=self.max_length, max_gen_toks=max_gen_toks, seed=seed)  # fmt: skip
        self.warnings = size_warning(self.model.n_params)
        for line in self.warnings:
            logging.getLogger(__name__).warning(line)
        self.totals = {"tokens_processed": 0, "tokens_reused": 0, "kv_bytes": 0, "kv_f16_bytes": 0}

    def set_cache_hook(self, cache_hook: Any) -> None:
        """The harness's file of answers (--use_cache), which knows requests and no models: EvalError for one that holds
        the answers of another model, cache or context."""
        answers = cache_hook.dbdict
        if answers is not None:
            path = Path(answers.filename)
            if len(answers) and _CONFIG not in answers:
                raise EvalError(f"{path}: does not say which model gave its answers; name another file")
            check_same(path, answers.get(_CONFIG, self._config), self._config)
            answers[_CONFIG] = self._config
        super().set_cache_hook(cache_hook)

    # --- tokens and templates ---

    @property
    def eot_token_id(self) -> int:
        return self.model.eos_token

    @property
    def prefix_token_id(self) -> int:
        """What a text without a context is conditioned on: bos, or eos for a model without one."""
        return self.model.bos_token if self.model.bos_token >= 0 else self.model.eos_token

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: object) -> list[int]:
        """Token ids; bos in front as the model asks, unless it is there already or `add_special_tokens` is False; never
        eos, even where the file adds_eos to texts, as every text here is a context or begins with one."""
        if add_special_tokens is False:
            ids = self.model.tokenize(string, add_special=False, parse_special=True)
        else:
            ids = self.model.tokenize_prompt(string)
        bos = self.model.bos_token
        return ids[1:] if ids[:2] == [bos, bos] else ids

    @property
    def tokenizer_name(self) -> str:
        return f"{self.identity['file']}-{self.identity['sha256'][:16]}"

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        return self.model.chat_family if chat_template else None

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        return self.model.apply_chat_template(chat_history, add_generation_prompt)

    # --- the three requests ---

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        """ln p of each whole text after bos, in windows of the context, each token scored once."""
        windows: list[tuple[tuple[str, str], list[int], list[int]]] = []
        owners: list[int] = []
        for owner, (text,) in enumerate(request.args for request in requests):
            pairs = utils.get_rolling_token_windows(
                # bos is the prefix and no token to be predicted
                token_list=self.tok_encode(text, add_special_tokens=False),
                prefix_token=self.prefix_token_id,
                max_seq_len=self.max_length,
                context_len=1,
            )
            for context, continuation in map(utils.make_disjoint_window, pairs):
                windows.append((("", ""), context, continuation))
                owners.append(owner)
        sums = [0.0] * len(requests)
        for owner, (value, _) in zip(owners, self._loglikelihood_tokens(windows, disable_tqdm), strict=True):
            sums[owner] += value
        for request, value in zip(requests, sums, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, value)
        return sums

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[tuple[str, str], list[int], list[int]]], disable_tqdm: bool = False, **_: object
    ) -> list[tuple[float, bool]]:
        # Answers to one question share its context: one request of the engine.
        together: dict[tuple[int, ...], list[int]] = {}
        for at, (_pair, context, continuation) in enumerate(requests):
            if not continuation:
                raise EvalError("a task asks for the likelihood of an empty text")
            room = self.max_length + 1 - len(continuation)
            if room < 1:
                raise EvalError(
                    f"{len(continuation)} tokens to be scored do not fit into the context of {self.max_length}"
                )
            # The oldest tokens go, as the harness's own models do.
            together.setdefault(tuple(context[-room:]), []).append(at)
        scores = [Score(list(context), [requests[at][2] for at in members]) for context, members in together.items()]
        values: list[tuple[float, bool]] = [(0.0, False)] * len(requests)
        members_of = list(together.values())
        for index, answer in self._run(scores, len(requests), "loglikelihood", disable_tqdm):
            for at, value in zip(members_of[index], answer.value, strict=True):
                values[at] = value
                if any(requests[at][0]):
                    self.cache_hook.add_partial("loglikelihood", requests[at][0], value)
        return values

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Texts up to a stop string, the model's end of text or max_gen_toks; greedy unless the task samples."""
        wanted = [self._generation(*request.args) for request in requests]
        texts = [""] * len(requests)
        for index, answer in self._run(wanted, len(requests), "generate_until", disable_tqdm):
            texts[index] = answer.value
            self.cache_hook.add_partial("generate_until", requests[index].args, answer.value)
        return texts

    def _generation(self, context: str, arguments: dict[str, Any]) -> Generate:
        given: dict[str, Any] = dict(normalize_gen_kwargs(arguments, self.max_gen_toks))
        n, stop = given.pop("max_gen_toks"), given.pop("until")
        temperature = float(given.pop("temperature", 1.0)) if given.get("do_sample") else 0.0
        given.pop("temperature", None)
        sampling = {name: given.pop(name, default) for name, default in _SAMPLING.items()}
        unknown = given.keys() - _WITHOUT_EFFECT
        if unknown or given.get("num_beams", 1) != 1:
            raise EvalError(f"livekv has no generation argument '{min(unknown, default='num_beams')}'")
        if n >= self.max_length:
            raise EvalError(f"max_gen_toks {n} leaves no room for a prompt in a context of {self.max_length}")
        ids = self.tok_encode(context)[n - self.max_length :]
        return Generate(
            ids or [self.prefix_token_id],
            n,
            tuple(one for one in stop if one),
            temperature,
            int(sampling["top_k"]),
            float(sampling["top_p"]),
            float(sampling["min_p"]),
            float(sampling["repetition_penalty"]),
            zlib.crc32(f"{self._seed} {context}".encode()),
        )

    def _run(
        self, requests: Sequence[Score | Generate], n: int, what: str, disable_tqdm: bool
    ) -> list[tuple[int, Answer]]:
        size = self._engine.batch
        runs = split_runs([request.context for request in requests], max(REQUESTS, size), size)
        batches = [[requests[index] for index in run] for run in runs]
        answers = []
        with tqdm(total=n, desc=what, disable=disable_tqdm or not n, unit="request") as bar:
            for number, results in run_jobs(batches, self._engine, self._workers, self._ray):
                for index, answer in zip(runs[number], results, strict=True):
                    answers.append((index, answer))
                    self._count(answer)
                    bar.update(len(answer.value) if isinstance(answer.value, list) else 1)
        return answers

    # --- what a run says of itself ---

    def _count(self, answer: Answer) -> None:
        self.totals["tokens_processed"] += answer.n_tokens
        self.totals["tokens_reused"] += answer.n_reused
        self.totals["kv_bytes"] += answer.kv_bytes
        self.totals["kv_f16_bytes"] += answer.kv_f16_bytes

    def get_model_info(self) -> dict[str, Any]:
        """For the results file: the model, its cache, and over all sequences what the cache took."""
        total = self.totals
        ratio = total["kv_bytes"] / total["kv_f16_bytes"] if total["kv_f16_bytes"] else None
        return {
            "model_num_parameters": self.model.n_params,
            "livekv": {
                "model": self.identity | model_facts(self.model),
                "warnings": self.warnings,
                "kv": self.kv,
                "n_ctx": self.max_length,
                "tokens_processed": total["tokens_processed"],
                "tokens_reused": total["tokens_reused"],
                "kv_compression_ratio": ratio,
                "kv_bits_per_value": None if ratio is None else 16 * ratio,
            },
        }
