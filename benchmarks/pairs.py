"""A load on one target, or on two in turn, so that what else the machine does hits both."""

import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from benchmarks.figures import Figures, as_row, fold, ratios, side
from benchmarks.load import Load
from benchmarks.plan import Plan
from benchmarks.processes import forget_peak, used
from benchmarks.prompts import Prompts
from benchmarks.report import Report
from benchmarks.servers import Target, open_target

WARM_UP_STREAMS = 32
WARM_UP_TOKENS = 8


async def measure(target: Target, load: Load) -> Figures:
    forget_peak(target.pid)
    before, client_before = used(target.pid), time.process_time()
    answers = await target.run(load)
    after, client_after = used(target.pid), time.process_time()
    more: dict[str, Any] = {"client_cpu_s": client_after - client_before}
    if before and after:
        cpu = after.cpu_s - before.cpu_s
        more |= {"cpu_s": cpu, "cpu_s_per_request": cpu / len(answers), "peak_rss_bytes": after.peak_rss_bytes}
    return fold(answers, **more)


def load_of(plan: Plan, prompts: Prompts, series: str, **changes: Any) -> Load:
    options: dict[str, Any] = {
        "streams": plan.streams,
        "answer_tokens": plan.answer_tokens,
        "temperature": plan.temperature,
        "seed": plan.seed,
        "retries": plan.retries,
        "timeout_s": plan.timeout,
    }
    if "conversations" not in changes:
        changes["conversations"] = prompts.make(series, plan.requests, plan.prompt_tokens, plan.shared_prefix)
    return Load(**(options | changes))


async def run_pairs(plan: Plan, path: Path, prompts: Prompts, report: Report) -> dict[str, Any]:
    """
    Both targets are up all the time and get the same conversations: A B, B A, A B ...

    Other pairs have other conversations, since a prompt cache would know those of before; `plan.unique` False lets it.
    """
    names = [plan.target] if plan.against is None else [plan.target, plan.against]
    # A target against itself shows how much of a ratio is noise.
    labels = names if plan.target != plan.against else [f"{plan.target} A", f"{plan.target} B"]
    runs: dict[str, list[Figures]] = {label: [] for label in labels}
    async with AsyncExitStack() as stack:
        targets = {
            label: await stack.enter_async_context(open_target(name, plan, path))
            for label, name in zip(labels, names, strict=True)
        }
        report.note("targets", {label: target.command for label, target in targets.items()})
        conversations = prompts.make("warm-up", min(plan.streams, WARM_UP_STREAMS), plan.prompt_tokens)
        answer_tokens = min(WARM_UP_TOKENS, plan.answer_tokens)
        warm_up = load_of(plan, prompts, "", conversations=conversations, answer_tokens=answer_tokens)
        for label, target in targets.items():
            report.say(f"warming up {label}")
            await target.run(warm_up)
        for pair in range(plan.pairs):
            load = load_of(plan, prompts, f"pair-{pair}" if plan.unique else "pairs")
            for label in labels[:: -1 if pair % 2 else 1]:
                figures = await measure(targets[label], load)
                runs[label].append(figures)
                report.add({"pair": pair, "target": label} | dict(as_row(figures)))
    summary: dict[str, Any] = {label: _with_counts(figures) for label, figures in runs.items()}
    if len(labels) > 1:
        summary["ratio"] = ratios(list(zip(*runs.values(), strict=True)))
    return summary


def _with_counts(runs: list[Figures]) -> dict[str, Any]:
    counts: dict[str, int] = {}
    for run in runs:
        for problem, times in run.problems.items():
            counts[problem] = counts.get(problem, 0) + times
    return side(runs) | {
        "requests": sum(run.requests for run in runs),
        "completed": sum(run.completed for run in runs),
        "answer_tokens": sum(run.answer_tokens for run in runs),
        "cached_tokens": sum(run.cached_tokens for run in runs),
        "problems": counts or "none",
    }
