"""Three questions that a load alone does not answer."""

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack
from itertools import pairwise
from pathlib import Path
from time import perf_counter
from typing import Any

from benchmarks.client import OK, Endpoint
from benchmarks.figures import ratio, spread
from benchmarks.load import Answer, Load
from benchmarks.pairs import load_of
from benchmarks.plan import Plan
from benchmarks.prompts import Conversation, Prompts
from benchmarks.report import Report
from benchmarks.servers import Server, TargetFailed, open_ours, open_target

SETTLE_S = 1.0
"""For what was hung up to be noticed."""
STEADY_TOKENS = 4
"""Not counted at the beginning of a stream."""
BEFORE_TOKENS = 24
"""Over so many a stream's rate is taken before it is disturbed."""
SHORT_ANSWER = 8
LONG_ANSWER = 4000


async def warm_prefix(plan: Plan, path: Path, prompts: Prompts, report: Report) -> dict[str, Any]:
    """Time to first token of a conversation whose beginning was read before, and of the one that was the first."""
    async with AsyncExitStack() as stack:
        server = await _server(stack, plan, path)
        await server.run(load_of(plan, prompts, "warm-up", answer_tokens=SHORT_ANSWER))
        for trial in range(plan.pairs):
            series = prompts.make(
                f"prefix-{trial}", 2, plan.shared_prefix + plan.prompt_tokens, shared=plan.shared_prefix
            )
            load = load_of(plan, prompts, "", conversations=series, streams=1)
            cold, warm = await server.run(load)
            report.add(
                {
                    "trial": trial,
                    "cold_ttft_s": ttft(cold),
                    "warm_ttft_s": ttft(warm),
                    "ratio": ratio(ttft(warm), ttft(cold)),
                    "prompt_tokens": warm.prompt_tokens,
                    "cached_tokens_cold": cold.cached_tokens,
                    "cached_tokens_warm": warm.cached_tokens,
                    "problems": "".join(cold.problems + warm.problems) or None,
                }
            )
    return spreads(report, "cold_ttft_s", "warm_ttft_s", "ratio")


async def long_prompt(plan: Plan, path: Path, prompts: Prompts, report: Report) -> dict[str, Any]:
    """The rate of running streams while a long prompt is read, by their rate just before."""
    async with AsyncExitStack() as stack:
        server = await _server(stack, plan, path)
        await server.run(load_of(plan, prompts, "warm-up", answer_tokens=SHORT_ANSWER))
        for trial in range(plan.pairs):
            running = prompts.make(f"running-{trial}", plan.streams, plan.prompt_tokens)
            (long,) = prompts.make(f"long-{trial}", 1, plan.long_prompt_tokens)
            report.add({"trial": trial} | await _disturb(server.endpoint, plan, prompts, running, long))
            await asyncio.sleep(SETTLE_S)
    return spreads(report, "rate_before", "rate_during", "ratio", "long_ttft_s", "longest_pause_s")


async def _disturb(
    endpoint: Endpoint, plan: Plan, prompts: Prompts, running: Sequence[Conversation], long: Conversation
) -> dict[str, Any]:
    going = Streams(endpoint, load_of(plan, prompts, "", conversations=running, answer_tokens=LONG_ANSWER))
    async with going:
        await going.reached(STEADY_TOKENS)
        steady = perf_counter()
        await going.reached(STEADY_TOKENS + BEFORE_TOKENS)
        answer = await endpoint.ask(long, load_of(plan, prompts, "", conversations=[long], answer_tokens=2))
        first = answer.arrivals[0] if answer.arrivals else answer.ended
        ended = going.ended
    before, during = going.rate(steady, answer.sent), going.rate(answer.sent, first)
    return {
        "rate_before": before,
        "rate_during": during,
        "ratio": None if ended else ratio(during, before),
        "long_prompt_tokens": answer.prompt_tokens,
        "long_ttft_s": ttft(answer),
        "longest_pause_s": going.longest_pause(answer.sent, first),
        "note": "a stream ended too early: another --seed, or a shorter long prompt" if ended else None,
        "problems": "".join(answer.problems) or None,
    }


async def second_model(plan: Plan, path: Path, prompts: Prompts, report: Report) -> dict[str, Any]:
    """Whether a model's first token comes while another model streams, and what it costs both."""
    if plan.target != "ours":
        raise TargetFailed("Only our own server is asked for two models: it has to be started with both.")
    async with open_ours(plan, [path, Path(plan.second) if plan.second else path]) as server:
        report.note("targets", {plan.target: server.command})
        first, second = server.endpoint, Endpoint(server.endpoint.base_url, "second", takes_seed=True)
        await first.ask(prompts.make("warm-up", 1, plan.prompt_tokens)[0], load_of(plan, prompts, "warm-up"))
        for trial in range(plan.pairs):
            loaded = await _loaded(second)
            one, other, alone = prompts.make(f"models-{trial}", 3, plan.prompt_tokens)
            short = load_of(plan, prompts, "", conversations=[other], answer_tokens=SHORT_ANSWER)
            going = Streams(first, load_of(plan, prompts, "", conversations=[one], answer_tokens=LONG_ANSWER))
            async with going:
                await going.reached(STEADY_TOKENS + BEFORE_TOKENS)
                answer = await second.ask(other, short)
                streaming = not going.ended and any(t > ttft_at(answer) for t in going.arrivals)
            await asyncio.sleep(SETTLE_S)
            by_itself = await second.ask(alone, short)
            report.add(
                {
                    "trial": trial,
                    "second_was_loaded": loaded,
                    "ttft_s": ttft(answer),
                    "ttft_alone_s": ttft(by_itself),
                    "ratio": ratio(ttft(answer), ttft(by_itself)) if loaded else None,
                    "first_still_streamed": streaming,
                    "first_longest_pause_s": going.longest_pause(answer.sent, answer.ended),
                    "problems": "".join(answer.problems) or None,
                }
            )
    summary = spreads(report, "ttft_alone_s", "ratio", "first_longest_pause_s")
    for loaded in (False, True):
        times = [row["ttft_s"] for row in report.rows if row["second_was_loaded"] is loaded]
        summary["ttft_loaded_s" if loaded else "ttft_with_load_s"] = spread(times)
    summary["first_still_streamed"] = all(row["first_still_streamed"] for row in report.rows)
    return summary


async def _loaded(endpoint: Endpoint) -> bool | None:
    """None, where the server doesn't say."""
    status, model = await endpoint.call("GET", f"/v1/models/{endpoint.model}")
    return model.get("loaded") if status == OK else None


class Streams:
    """Answers that are read in the background for the length of a block, then hung up."""

    def __init__(self, endpoint: Endpoint, load: Load) -> None:
        self._endpoint, self._load = endpoint, load
        self._tasks: list[asyncio.Task[Answer]] = []
        self._times: list[list[float]] = [[] for _ in load.conversations]
        self._group = asyncio.TaskGroup()
        self._news = asyncio.Event()

    async def __aenter__(self) -> None:
        await self._group.__aenter__()
        for conversation, times in zip(self._load.conversations, self._times, strict=True):
            task = self._group.create_task(self._endpoint.ask(conversation, self._load, self._hear(times)))
            task.add_done_callback(lambda _: self._news.set())
            self._tasks.append(task)

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await self._group.__aexit__(None, None, None)  # an error of the block is to go on as it is, in no group

    def _hear(self, times: list[float]) -> Any:
        def on_text(now: float) -> None:
            times.append(now)
            self._news.set()

        return on_text

    @property
    def ended(self) -> bool:
        """Whether one of them has nothing more to say."""
        return any(task.done() for task in self._tasks)

    @property
    def arrivals(self) -> list[float]:
        return sorted(time for times in self._times for time in times)

    async def reached(self, pieces: int) -> None:
        """Returns when each stream has had so many pieces. Raises: TargetFailed, if one ended before."""
        while min(map(len, self._times)) < pieces:
            if self.ended:
                raise TargetFailed(f"A stream ended before its {pieces}th token; try another --seed.")
            self._news.clear()
            await self._news.wait()

    def rate(self, begin: float, end: float) -> float:
        """Pieces a second, of all streams together."""
        return sum(begin < time <= end for time in self.arrivals) / (end - begin)

    def longest_pause(self, begin: float, end: float) -> float:
        """Of any stream between two moments."""
        pauses = [
            later - earlier
            for times in self._times
            for earlier, later in pairwise([begin, *(t for t in times if begin < t < end), end])
        ]
        return max(pauses, default=0.0)


async def _server(stack: AsyncExitStack, plan: Plan, path: Path) -> Server:
    target = await stack.enter_async_context(open_target(plan.target, plan, path))
    if not isinstance(target, Server):
        raise TargetFailed(f"{plan.scenario} needs a server, and {plan.target} is none.")
    return target


def ttft(answer: Answer) -> float | None:
    """Seconds to the first piece of text."""
    return answer.arrivals[0] - answer.sent if answer.arrivals else None


def ttft_at(answer: Answer) -> float:
    return answer.arrivals[0] if answer.arrivals else answer.ended


def spreads(report: Report, *names: str) -> dict[str, Any]:
    return {name: spread(row[name] for row in report.rows) for name in names}
