"""The most that the caches of requests can come to take, so that memory is never promised twice."""

from __future__ import annotations

from livekv.serve.job import Job
from livekv.serve.request import Request
from livekv.session import Session


class Promises:
    """probe: a session without tokens, as those of requests will be; it gets one."""

    def __init__(self, probe: Session, n_ctx: int) -> None:
        self._n_ctx = n_ctx
        self._text_bytes, self._token_bytes = probe.kv_bytes, 0
        self.grows = self._text_bytes == 0
        """Whether a cache has what its tokens take, not all of its context from the start."""
        if self.grows:
            probe.prefill([0])
            # A quarter more: of an open chunk, queries are kept too where key channels have widths of their own.
            self._text_bytes, self._token_bytes = probe.kv_bytes, probe.kv_stats().f16_bytes * 5 // 4

    def to_request(self, request: Request) -> int:
        """In bytes, before it begins."""
        return self._most_bytes(request.n, len(request.prompt) + request.n * self._most_new(request))

    def to_job(self, job: Job) -> int:
        """In bytes: what its caches hold now, and the most that tokens yet to come can take."""
        if not self.grows:
            return self._most_bytes(job.request.n, 0)
        n_new = sum(text.n_left for text in job.texts if not text.ended)
        if not job.texts:
            n_new = len(job.prompt) - job.n_read + job.request.n * self._most_new(job.request)
        return sum(session.kv_bytes for session in job.sessions()) + self._most_bytes(job.request.n, n_new)

    def _most_new(self, request: Request) -> int:
        room = self._n_ctx - len(request.prompt)
        return room if request.max_tokens is None else min(room, max(1, request.max_tokens))

    def _most_bytes(self, n_texts: int, n_tokens: int) -> int:
        return n_texts * self._text_bytes + n_tokens * self._token_bytes
