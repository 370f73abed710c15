"""Whether memory stays what it was: under a long load, and over loads and unloads of models."""

import asyncio
import json
import statistics
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from benchmarks.client import OK, Endpoint
from benchmarks.pairs import load_of
from benchmarks.plan import Plan
from benchmarks.processes import used
from benchmarks.prompts import Prompts
from benchmarks.report import Report
from benchmarks.servers import IDS, Server, TargetFailed, open_ours, open_target

SETTLE_S = 1.0
SAMPLES = 5
BATCH = 50
"""Requests between two looks."""
FULL_TIMES = 2
"""A cache counts as full when twice what it holds has gone through it."""
FLOAT32 = 4
FILL = 500
NO_ROUTE = {404, 405}


async def steady_load(plan: Plan, path: Path, prompts: Prompts, report: Report) -> dict[str, Any]:
    """Resident memory when the prompt cache is full, and so many requests later."""
    async with AsyncExitStack() as stack:
        target = await stack.enter_async_context(open_target(plan.target, plan, path))
        if target.pid is None:
            raise TargetFailed("Only of a process that is started here the memory is known.")
        report.note("targets", {plan.target: target.command})
        done, tokens, needed = 0, 0, _tokens_to_fill(plan, path)
        while tokens < needed if plan.fill is None else done < plan.fill:
            answers = await target.run(
                load_of(plan, prompts, f"fill-{done}", conversations=_batch(plan, prompts, done))
            )
            done += len(answers)
            tokens += sum(answer.prompt_tokens + answer.answer_tokens for answer in answers)
            report.add({"requests": done, "tokens": tokens, "rss_bytes": await resident(target.pid), "phase": "fill"})
            if not any(answer.finish for answer in answers):
                raise TargetFailed("Not one request was answered.")
        full, last = report.rows[-1]["rss_bytes"], done + plan.requests
        while done < last:
            conversations = _batch(plan, prompts, done)[: last - done]
            answers = await target.run(load_of(plan, prompts, "", conversations=conversations))
            done += len(answers)
            report.add({"requests": done, "rss_bytes": await resident(target.pid), "phase": "full"})
    end = report.rows[-1]["rss_bytes"]
    return {"rss_full_bytes": full, "rss_end_bytes": end, "requests": plan.requests, "growth": end / full - 1}


def _batch(plan: Plan, prompts: Prompts, done: int) -> Any:
    return prompts.make(f"memory-{done}", BATCH, plan.prompt_tokens, plan.shared_prefix)


def _tokens_to_fill(plan: Plan, path: Path) -> int:
    """By the size of a token's keys and values in float32, the largest that there is."""
    try:
        config: dict[str, Any] = json.loads((path / "config.json").read_text(encoding="utf-8"))
        heads = config["num_attention_heads"]
        head = config.get("head_dim") or config["hidden_size"] // heads
        per_token = 2 * config["num_hidden_layers"] * config.get("num_key_value_heads", heads) * head * FLOAT32
    except (OSError, KeyError) as exc:
        raise TargetFailed(f"How large a token's cache is, {path} does not say; give --fill REQUESTS.") from exc
    return FULL_TIMES * plan.prompt_cache_bytes // per_token


async def load_cycles(plan: Plan, path: Path, prompts: Prompts, report: Report) -> dict[str, Any]:
    """Resident memory with no model loaded, after each of so many loads and unloads over three models."""
    paths = [path, *(Path(other) if other else path for other in (plan.second, plan.third))]
    async with open_ours(plan, paths) as server:
        report.note("targets", {plan.target: server.command})
        # The first model is loaded at the start: an answer says that it is there.
        (hello,) = prompts.make("hello", 1, plan.prompt_tokens)
        await server.endpoint.ask(hello, load_of(plan, prompts, "", conversations=[hello]))
        if missing := await _unload(server, IDS[0]):
            return {"skipped": missing}
        for cycle in range(plan.cycles):
            name = IDS[cycle % len(IDS)]
            status, _ = await server.endpoint.call("POST", "/v1/models/load", {"model": name})
            if status in NO_ROUTE:
                return {"skipped": f"POST /v1/models/load is not there ({status})"}
            endpoint = Endpoint(server.endpoint.base_url, name)
            (words,) = prompts.make(f"cycle-{cycle}", 1, plan.prompt_tokens)
            answer = await endpoint.ask(words, load_of(plan, prompts, "", conversations=[words]))
            loaded = await resident(server.pid)
            problem = await _unload(server, name)
            report.add(
                {
                    "cycle": cycle + 1,
                    "model": name,
                    "rss_loaded_bytes": loaded,
                    "rss_bytes": await resident(server.pid),
                    "load_status": status,
                    "problems": " ".join([*answer.problems, problem]).strip() or None,
                }
            )
    return _growth(report)


def _growth(report: Report) -> dict[str, Any]:
    sizes = [row["rss_bytes"] for row in report.rows]
    start = sizes[min(len(IDS), len(sizes)) - 1]
    return {
        "rss_first_cycle_bytes": sizes[0],
        "rss_start_bytes": start,
        "rss_end_bytes": sizes[-1],
        "rss_most_bytes": max(sizes),
        "growth_from_first_cycle": sizes[-1] / sizes[0] - 1,
        "growth": sizes[-1] / start - 1,
    }


async def _unload(server: Server, name: str) -> str:
    """Empty, or what was wrong."""
    status, _ = await server.endpoint.call("POST", f"/v1/models/{name}/unload")
    if status in NO_ROUTE:
        return f"POST /v1/models/{{id}}/unload is not there ({status})"
    return "" if OK <= status < OK + 100 else f"unload: HTTP {status}"


async def resident(pid: int | None) -> int:
    """The median of a few looks, after a pause for what is let go to be gone. Raises: TargetFailed."""
    await asyncio.sleep(SETTLE_S)
    sizes: list[int] = []
    for _ in range(SAMPLES):
        if (now := used(pid)) is None:
            raise TargetFailed("The process has ended, or nothing here can say how much memory it has.")
        sizes.append(now.rss_bytes)
        await asyncio.sleep(SETTLE_S / SAMPLES)
    return int(statistics.median(sizes))
