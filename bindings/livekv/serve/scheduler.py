"""Who computes next. A step of the engine advances every text under way by a token, and between two tokens some prompts
by a chunk:

    step():  1. end what was cancelled or took too long
             2. let waiting requests begin, in the order they came, while there are places and memory
             3. one engine.step: each text's last token, and the next chunks of prompts up to limits.step_tokens
             4. sample a token for each text; a prompt that is read becomes its choices

Who has least left of its prompt is read first, so that a short one is not kept waiting by a long one; but what has
been read since a prompt began counts for it as if it had less left, so that none waits for ever. Memory is never
promised twice: a request counts with what its caches hold now and the most that tokens yet to come can take, which is
20 bits a value in whole pages. A policy that does not compress takes all of its context at once. What does not fit
waits.

A text that is alone may be given drafts (limits.lookup), of which a step keeps those that are right.

With a prefix cache, memory that nobody needs holds sequences that have ended (kept.py). A prompt goes on from the one
that it has most in common with; where several part in the middle of a chunk, the first of them leaves a copy.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from livekv._livekv import Error
from livekv.engine import Engine
from livekv.model import Model
from livekv.options import KVOptions
from livekv.sampling import Sampler, TextStream
from livekv.serve.job import Job, Work, common
from livekv.serve.kept import Kept, branch
from livekv.serve.limits import Limits
from livekv.serve.passes import Passes
from livekv.serve.promises import Promises
from livekv.serve.request import Failure, Piece, Refused, Request
from livekv.serve.text import Text
from livekv.session import Session

Part = npt.NDArray[np.int32]
SCORED_TOKENS = 128
"""Of a prompt that is scored, in a step: their logits are all there at a time."""


@dataclass
class Counters:
    """Since the start."""

    requests: int = 0
    refused: int = 0
    failed: int = 0
    cancelled: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    generated_tokens: int = 0
    drafted_tokens: int = 0
    accepted_tokens: int = 0
    steps: int = 0


class Scheduler:
    """submit and cancelled requests may come from any thread; one thread steps."""

    def __init__(self, model: Model, limits: Limits, n_ctx: int = 4096, kv: KVOptions | None = None) -> None:
        self.model = model
        self.limits = limits
        self.n_ctx = n_ctx
        self.kv = KVOptions() if kv is None else kv
        self.counters = Counters()
        self.kv_bytes_seen = self.n_kept_seen = self.kept_bytes_seen = self.prefix_bytes_seen = 0
        """Before the last step, for any thread."""
        self.engine = Engine(model)
        self._n_begun = 0
        self._n_given = 0  # tokens of prompts, to all steps
        self._lock = threading.Lock()  # of the queue
        self._queue: deque[Request] = deque()
        self._reading: list[Job] = []
        self._writing: list[Job] = []
        self._passes = Passes.of(model, self.kv.chunk_tokens)
        self.kept = Kept(self._passes)
        with self._new_session() as probe:
            self._promises = Promises(probe, n_ctx)
        self._shares = self.kv.can_be_stored  # chunks that another prompt may go on from
        self._keeps = self._promises.grows and self._shares and model.prefix_cache_bytes > 0

    # --- from any thread ---

    def check(self, request: Request) -> None:
        """Raises Refused for a request that can never be done."""
        if request.n > self.limits.parallel:
            raise Refused(400, f"n is {request.n}; this server writes at most {self.limits.parallel} texts at a time")
        if len(request.prompt) >= self.n_ctx:
            raise Refused(
                400, f"the prompt has {len(request.prompt)} tokens; the context of {self.n_ctx} (-c) leaves no room"
            )
        if not request.prompt:
            raise Refused(400, "the prompt has no tokens")
        if not 0 <= min(request.prompt) <= max(request.prompt) < self.model.n_vocab:
            raise Refused(400, f"the prompt has a token outside the vocabulary of {self.model.n_vocab}")
        try:
            Sampler(self.model, request.seed, **request.sampling)
            TextStream(self.model, request.stop)
        except Error as problem:
            raise Refused(400, str(problem)) from None

    def submit(self, request: Request) -> None:
        """Raises Refused for a request that can never be done, or not now: the queue is full."""
        self.check(request)
        with self._lock:
            self._forget_cancelled()
            if len(self._queue) >= self.limits.queue + max(0, self.limits.parallel - self.n_texts):
                self.counters.refused += 1
                raise Refused(429, f"{len(self._queue)} requests are waiting already", retry_after_s=1)
            self.counters.requests += 1
            self._queue.append(request)

    @property
    def n_waiting(self) -> int:
        return len(self._queue)

    @property
    def n_texts(self) -> int:
        """Places that are taken."""
        return sum(job.request.n for job in (*self._reading, *self._writing))

    # --- from the thread that steps ---

    @property
    def kv_bytes(self) -> int:
        """Of the caches of all requests under way."""
        return sum(session.kv_bytes for job in self.jobs() for session in job.sessions())

    def step(self) -> bool:
        """Whether there was anything to compute."""
        self._end_the_overdue()
        self._begin_waiting()
        texts = [(job, text) for job in self._writing for text in job.texts if not text.ended]
        parts = self._next_parts()
        self.kv_bytes_seen = self.kv_bytes
        self.n_kept_seen, self.kept_bytes_seen = len(self.kept), self.kept.n_bytes
        self.prefix_bytes_seen = self.engine.prefix_idle_bytes
        if not texts and not parts:
            return False
        self.counters.steps += 1
        if len(texts) == 1 and not parts and self._write_drafted(*texts[0]):
            return True
        work = [Work(text.session, [text.last_token], True) for _, text in texts]
        work += [
            Work(job.session, part, False, job.request.scores_prompt, len(job.prompt) - job.n_read - len(part))
            for job, part in parts
        ]
        self._compute([one for one in work if not one.wants_all], all_logits=False)
        self._compute([one for one in work if one.wants_all], all_logits=True)
        for (job, text), done in zip(texts, work):
            self._write(job, text, done)
        for (job, _), done in zip(parts, work[len(texts) :]):
            self._read(job, done)
        self._drop_ended()
        return True

    def _drop_ended(self) -> None:
        for job in [job for job in self._writing if all(text.ended for text in job.texts)]:
            self._drop(job, self._keeps)

    def fail_all(self, failure: Failure) -> None:
        """Ends every request, waiting or under way."""
        with self._lock:
            waiting, self._queue = self._queue, deque()
        for request in waiting:
            self._tell_failure(request, failure)
        for job in list(self.jobs()):
            self._fail(job, failure)

    def jobs(self) -> Iterator[Job]:
        yield from self._reading
        yield from self._writing

    def _new_session(self) -> Session:
        return Session(self.model, self.n_ctx, self.kv, None)

    def _forget_cancelled(self) -> None:
        kept = deque(request for request in self._queue if not request.cancelled)
        self.counters.cancelled += len(self._queue) - len(kept)
        self._queue = kept

    def _end_the_overdue(self) -> None:
        now = time.monotonic()
        for job in list(self.jobs()):
            if job.request.cancelled:
                self.counters.cancelled += 1
                self._drop(job, self._keeps)
            elif now - job.request.arrived > self.limits.run_s:
                self._fail(job, Failure(504, f"the request took more than {self.limits.run_s:g} seconds (--timeout)"))
        with self._lock:
            self._forget_cancelled()
            late = [request for request in self._queue if now - request.arrived > self.limits.wait_s]
            for request in late:
                self._queue.remove(request)
        for request in late:
            self._tell_failure(
                request,
                Failure(503, f"the server was busy for more than {self.limits.wait_s:g} seconds (--wait-timeout)"),
            )

    def _begin_waiting(self) -> None:
        while True:
            with self._lock:
                if not self._queue or not self._has_room(self._queue[0]):
                    return
                request = self._queue.popleft()
            try:
                session = self._new_session()
            except Error as problem:
                self._tell_failure(request, Failure(503, str(problem)))
                continue
            self._n_begun += 1
            self._reading.append(Job(request, session, self._n_begun, self._n_given))

    def _has_room(self, request: Request) -> bool:
        left = self._unpromised() - self._promises.to_request(request)
        # Alone, whatever it needs: its caches may take less than they could.
        if self.n_texts > 0 and (self.n_texts + request.n > self.limits.parallel or left < 0):
            return False
        self.kept.touch(request.ids)
        self.kept.shrink(left)
        return True

    def _unpromised(self) -> int:
        return self.limits.memory - sum(self._promises.to_job(job) for job in self.jobs())

    def _next_parts(self) -> list[tuple[Job, Part]]:
        """The next chunks of prompts, of those whose turn it is."""
        parts: list[tuple[Job, Part]] = []
        n_tokens = 0
        for job in sorted(self._reading, key=lambda job: job.n_given_before + len(job.prompt) - job.n_read):
            if self._is_being_read(job):
                continue
            if job.n_read == 0 and not job.request.scores_prompt:
                self._begin_as_known(job)
            n = self._to_branch(job, job.session.pass_size(len(job.prompt) - job.n_read))
            if job.request.scores_prompt:
                n = min(n, SCORED_TOKENS)
            if parts and n_tokens + n > self.limits.step_tokens:
                break
            n_tokens += n
            parts.append((job, job.prompt[job.n_read : job.n_read + n]))
        self._n_given += n_tokens
        return parts

    def _begin_as_known(self, job: Job) -> None:
        """From the prefix cache, or a kept sequence when that holds more."""
        n_stored = self._n_from_store()
        n = job.session.reuse(job.prompt)
        n_stored = self._n_from_store() - n_stored
        job.reused = {"prefix tree": n - n_stored, "store": n_stored}
        known = self.kept.take(job.prompt, n)
        if known is not None:
            job.session.close()
            job.session, n = known, known.n_tokens
            job.reused = {"a sequence that ended": n}
        job.request.n_cached = n
        job.branches |= {branch(job.prompt, tokens, self._passes) for tokens in self.kept.tokens()}

    def _n_from_store(self) -> int:
        return self.model.store.counts["tokens_read"] if self.model.store else 0

    def _to_branch(self, job: Job, n: int) -> int:
        """Of n tokens that a pass can read, those up to where the next prompt parts from this one."""
        if not self._keeps or job.request.scores_prompt:
            return n
        with self._lock:
            others = [request.ids for request in self._queue if not request.scores_prompt]
        others += [other.prompt for other in self._reading if other is not job and other.n_read == 0]
        job.branches |= {branch(job.prompt, other, self._passes) for other in others}
        least = self._passes.least(job.n_read)
        return min((at - job.n_read for at in job.branches if least <= at - job.n_read <= n - least), default=n)

    def _is_being_read(self, job: Job) -> bool:
        """Whether an earlier prompt is about to read a beginning of this one, which then need not be read again."""
        if not self._shares or not (self.model.prefix_cache_bytes or self.model.store):
            return False
        if job.n_read > 0 or job.request.scores_prompt:
            return False
        for other in self._reading:
            if other is job or other.request.arrived >= job.request.arrived or other.request.scores_prompt:
                continue
            n = branch(other.prompt, job.prompt, self._passes) if self._keeps else 0
            if (n or common(job.prompt, other.prompt) // self.kv.chunk_tokens * self.kv.chunk_tokens) > other.n_read:
                return True
        return False

    def _compute(self, work: list[Work], all_logits: bool) -> None:
        """One step for all. What fails as a whole is done one by one, so that only the guilty fails."""
        if not work:
            return
        try:
            batch = [(one.session, one.tokens) for one in work]
            generated, to_come = [one.generated for one in work], [one.to_come for one in work]
            for one, logits in zip(work, self.engine.step(batch, all_logits, generated, to_come)):
                one.take(logits)
        except Error:
            for one in work:
                one.compute_alone(self.engine)

    def _read(self, job: Job, done: Work) -> None:
        if done.logits is None:
            self._fail(job, Failure(503, done.problem))
            return
        if done.rows is not None:
            job.score(done.rows)
        if not self._passes.same(job.n_read - len(done.tokens), job.n_read):
            job.n_same = min(job.n_same, job.n_read - len(done.tokens))
        if job.n_read in job.branches:
            self._keep_a_copy(job)
        if job.n_read < len(job.prompt):
            self._end_over_budget(job)
            return
        self._reading.remove(job)
        self.counters.prompt_tokens += len(job.prompt)
        self.counters.cached_tokens += job.request.n_cached
        self._writing.append(job)
        job.since = time.monotonic()
        try:
            sessions = [job.session, *(job.session.fork() for _ in range(job.request.n - 1))]
            job.texts = [
                Text(job.request, choice, session, self.limits.lookup) for choice, session in enumerate(sessions)
            ]
        except Error as problem:
            self._fail(job, Failure(503, str(problem)))
            return
        for text in job.texts:
            self._write(job, text, done)

    def _write(self, job: Job, text: Text, done: Work) -> None:
        if job.closed:
            return  # it failed with another choice
        if done.logits is None:
            self._fail(job, Failure(503, done.problem))
            return
        n_before = text.request.n_generated
        try:
            piece = text.take(done.logits)
        except Error as problem:
            self._fail(job, Failure(500, str(problem)))
            return
        self.counters.generated_tokens += text.request.n_generated - n_before
        if piece is not None:
            text.request.on_event(piece)
        self._end_over_budget(job)

    def _write_drafted(self, job: Job, text: Text) -> bool:
        """A step of a text that is alone, with a draft; False when there is none."""
        drafted, n_before, n_generated = text.draft(), text.session.n_tokens, text.request.n_generated
        if not drafted:
            return False
        pieces: list[Piece] = []

        def choose(logits: npt.NDArray[np.float32]) -> int | None:
            piece = text.take(logits)
            if piece is not None:
                pieces.append(piece)
            return None if text.ended else text.last_token

        problem = ""
        try:
            n_right = text.session.verify([text.last_token, *drafted], choose) - 1
            text.learn(len(drafted), n_right)
            self.counters.drafted_tokens += len(drafted)
            self.counters.accepted_tokens += n_right
        except Error as error:
            problem = str(error)
        self.counters.generated_tokens += text.request.n_generated - n_generated
        for piece in pieces:
            text.request.on_event(piece)
        if problem:  # 500: no token could be chosen
            self._fail(job, Failure(500 if text.session.n_tokens > n_before else 503, problem))
        else:
            self._end_over_budget(job)
        self._drop_ended()
        return True

    def _end_over_budget(self, job: Job) -> None:
        """Only one that runs alone can come there."""
        if self.n_texts == job.request.n and self.kv_bytes > self.limits.memory:
            self._fail(
                job, Failure(503, f"its cache needs more than the {self.limits.memory} bytes there are (--memory)")
            )

    def _keep_a_copy(self, job: Job) -> None:
        with contextlib.suppress(Error):  # no memory: whoever needs it reads it again
            self.kept.add(job.session.fork(), job.n_read, min(job.n_read, job.n_same), is_beginning=True)

    def _drop(self, job: Job, keep: bool = False) -> None:
        if job in self._reading:
            self._reading.remove(job)
        if job in self._writing:
            self._writing.remove(job)
        for session in job.give_up():
            if keep and session.n_tokens > 0:
                n_prompt = min(session.n_tokens, len(job.prompt))
                self.kept.add(session, n_prompt, min(n_prompt, job.n_same))
            else:
                session.close()
        self.kept.shrink(self._unpromised())

    def _fail(self, job: Job, failure: Failure) -> None:
        self._drop(job)
        self._tell_failure(job.request, failure)

    def _tell_failure(self, request: Request, failure: Failure) -> None:
        self.counters.failed += 1
        request.on_event(failure)
