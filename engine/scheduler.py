"""Decides which requests run and which wait: gives rows and cache pages to requests, in order, and takes them back."""

import itertools
from collections import deque
from dataclasses import replace

from engine.cache import KVCache
from engine.requests import Prefill, Request
from engine.rows import Rows


class Scheduler:
    """`running` has one Request per row, `waiting` the others in order. The host makes all decisions. It knows how many tokens
    each request has, even if it has not read the tokens yet."""

    def __init__(self, cache: KVCache, rows: Rows):
        self.cache, self.rows = cache, rows
        self.running: list[Request] = []
        self.waiting: deque[Request] = deque()
        self.submitted = 0                                # number of requests so far
        self.crowded = False                              # a request was preempted, and no request has left since then

    def reserve(self) -> bool:
        """Reserves a page for the pending token of each running row, the oldest request first. False if pages are missing."""
        return all(self._reserve(row) for row in self._oldest_first())

    def preempt(self) -> int:
        """Like `reserve`, but if the pool has no page, the newest request is preempted: its pages are freed. It waits at the
        front of the queue with its tokens, and is prefilled again later. No request enters until another one has left. Returns
        the number of preempted requests."""
        rows, gone = self._oldest_first(), []
        while rows:
            if self._reserve(rows[0]):
                rows.pop(0)
            else:
                gone.append(rows.pop())
                self.cache.release(gone[-1:])
        self.put_back([self.running[row] for row in gone])
        self.leave(sorted(gone))
        self.crowded = self.crowded or bool(gone)
        return len(gone)

    def put_back(self, requests: list[Request]) -> None:
        """Requests that have tokens wait at the front of the queue, the oldest of them first."""
        for r in sorted(requests, key=lambda r: -r.number):
            r.prefill = replace(r.prefill or Prefill([]), ids=r.completion.prompt + r.completion.tokens)
            self.waiting.appendleft(r)

    def _oldest_first(self):
        return sorted(range(len(self.running)), key=lambda row: self.running[row].number)

    def _reserve(self, row):
        r = self.running[row]
        tokens = len(r.completion.prompt) + r.drawn
        return self.cache.reserve(row, tokens, since=tokens - 1)

    def free_rows(self) -> int:
        return self.rows.count - len(self.running)

    def next(self) -> Request | None:
        """The waiting request that enters next, if there is a row for it."""
        return self.waiting[0] if self.waiting and self.free_rows() and not self.crowded else None

    def admit(self) -> int | None:
        """Gives the next request a row, and pages for its prompt and one more token. Returns the row; None if too few pages are
        free."""
        r, row = self.waiting[0], len(self.running)
        if not self.cache.reserve(row, len(r.prefill.ids) + 1, since=len(r.prefill.ids)):
            return None
        self.running.append(self.waiting.popleft())
        return row

    def prompts(self, version: int, budget: int) -> list[Prefill]:
        """The next prompts to prefill together, of requests for which there is a row: at most `budget` tokens, at least one."""
        chosen, total = [], 0
        for p in [r.prefill for r in itertools.islice(self.waiting, self.free_rows())]:
            if not p.ready(version) and not any(p is c for c in chosen):
                size = len(p.ids) - p.kept(version)
                if chosen and total + size > budget:
                    break
                chosen.append(p)
                total += size
        return chosen

    def leave(self, rows: list[int]) -> None:
        """Frees rows, given in rising order. The last ones of those that go on take their places."""
        gone, left = set(rows), len(self.running) - len(rows)
        targets = [row for row in rows if row < left]
        sources = [row for row in range(left, len(self.running)) if row not in gone]
        self.cache.release(rows)
        if targets:
            self.cache.move(sources, targets)
            self.rows.move(sources, targets)
        for source, target in zip(sources, targets):
            self.running[target] = self.running[source]
        del self.running[left:]
        self.crowded = self.crowded and not rows

    def remove(self, request: Request) -> None:
        if request in self.waiting:
            self.waiting.remove(request)
        else:
            self.leave([self.running.index(request)])
