"""The thread that steps a scheduler, and requests as coroutines see them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future
from typing import Any

from livekv.serve.freed_memory import FreedMemory
from livekv.serve.request import Failure, Piece, Refused, Request
from livekv.serve.scheduler import Scheduler

log = logging.getLogger("livekv.serve")
ENDS = "the server ends"


class Worker:
    """Steps while there is anything to do, in a thread of its own."""

    def __init__(self, scheduler: Scheduler) -> None:
        self.scheduler = scheduler
        self._wake = threading.Event()
        self._closing = False
        self._ended = False
        self._said = ""  # of the store
        self._freed = FreedMemory()
        self._asked: deque[tuple[Callable[[], Any], Future[Any]]] = deque()
        self._listening: set[Request] = set()  # of the loop
        self._thread = threading.Thread(target=self._run, name="livekv-engine", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def tell_the_end(self) -> None:
        """From the loop: no more requests are taken, and everybody who listens is told now, not when the step under way
        has ended."""
        self._closing = True
        self._wake.set()
        for request in self._listening:
            request.on_event(Failure(503, ENDS))
        self._answer(ended=True)

    def close(self) -> None:
        """Ends all requests. Waits for the step under way."""
        self._closing = True
        self._wake.set()
        self._thread.join()

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def submit(self, request: Request) -> None:
        """Raises Refused as Scheduler.submit, and when the server ends."""
        if self._closing:
            raise Refused(503, ENDS)
        self.scheduler.submit(request)
        self._wake.set()
        if self._ended:  # meanwhile: nobody else would tell it
            self.scheduler.fail_all(Failure(503, ENDS))

    async def between_steps(self, look: Callable[[], Any]) -> Any:
        """What look returns, called in the thread that steps. Raises what it does, and Refused when the server ends."""
        if self._closing:
            raise Refused(503, ENDS)
        answer: Future[Any] = Future()
        self._asked.append((look, answer))
        self._wake.set()
        if self._ended:
            self._answer(ended=True)
        return await asyncio.wrap_future(answer)

    def _answer(self, ended: bool = False) -> None:
        while self._asked:
            with contextlib.suppress(IndexError):  # another thread has it
                look, answer = self._asked.popleft()
                if not answer.set_running_or_notify_cancel():
                    continue
                try:
                    if ended:
                        raise Refused(503, ENDS)
                    answer.set_result(look())
                except Exception as problem:
                    answer.set_exception(problem)

    def _run(self) -> None:
        while not self._closing:
            self._wake.clear()
            self._answer()
            try:
                busy = self.scheduler.step()
            except Exception:  # nobody under way can go on; those to come can
                log.exception("a step failed")
                self.scheduler.fail_all(Failure(500, "the server failed; its log says more"))
                busy = False
            self._say_of_the_store()
            self._freed.give_back()
            if not busy:
                self._wake.wait()
        self._ended = True
        self._answer(ended=True)
        self.scheduler.fail_all(Failure(503, ENDS))

    def _say_of_the_store(self) -> None:
        """Once, and once when it works again."""
        store = self.scheduler.model.store
        problem = store.problem if store else ""
        if problem and not self._said:
            log.warning("livekv.serve: not everything is stored: %s", problem)
        elif self._said and not problem:
            log.warning("livekv.serve: everything is stored again")
        self._said = problem


async def events(worker: Worker, request: Request) -> AsyncIterator[Piece]:
    """Submits a request: its pieces as they come, until all its choices have ended. The request is cancelled when the
    iteration is left before that. Raises Refused, also for a failure on the way."""
    loop = asyncio.get_running_loop()
    queue: asyncio.Queue[Piece | Failure] = asyncio.Queue()

    def tell(event: Piece | Failure) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits
            loop.call_soon_threadsafe(queue.put_nowait, event)

    request.on_event = tell
    worker.submit(request)
    worker._listening.add(request)
    n_left = request.n
    try:
        while n_left > 0:
            event = await queue.get()
            if isinstance(event, Failure):
                n_left = 0
                raise Refused(event.status, event.message)
            n_left -= event.reason is not None
            yield event
    finally:
        worker._listening.discard(request)
        request.cancelled = n_left > 0
