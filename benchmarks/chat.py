"""
Streamed chats, measured.

`uv run python -m benchmarks.chat SCENARIO --help`
"""

import argparse
import asyncio
import dataclasses
import shlex
import sys
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.memory import load_cycles, steady_load
from benchmarks.pairs import run_pairs
from benchmarks.plan import MODEL, Plan
from benchmarks.prompts import Prompts, counter
from benchmarks.report import Report
from benchmarks.scenarios import long_prompt, second_model, warm_prefix
from benchmarks.servers import TARGETS, TargetFailed
from mlx_mcp.engines.sources import fetch
from mlx_mcp.errors import MlxMcpError
from mlx_mcp.settings import load_settings

Scenario = Callable[[Plan, Path, Prompts, Report], Awaitable[dict[str, Any]]]

DESCRIPTION = "Streamed chats: this server, mlx-lm's server, any OpenAI-compatible server, and mlx-lm's bare loops."

SCENARIOS: dict[str, tuple[Scenario, str, dict[str, Any]]] = {
    "load": (run_pairs, "Tokens a second and times to first token of many streams.", {}),
    "connect": (
        run_pairs,
        "Many clients that connect at the same moment, and what of them is refused or reset.",
        {"streams": 200, "pairs": 1, "retries": 0, "answer_tokens": 2, "prompt_tokens": 20},
    ),
    "warm-prefix": (
        warm_prefix,
        "Time to first token when the conversation's beginning was read before.",
        {"shared_prefix": 500, "answer_tokens": 8, "streams": 1},
    ),
    "long-prompt": (long_prompt, "The rate of running streams while another's long prompt is read.", {"streams": 2}),
    "second-model": (second_model, "The first token of a second model, while the first streams.", {"streams": 1}),
    "memory": (
        steady_load,
        "Resident memory with a full prompt cache, and many requests later.",
        {"answer_tokens": 8, "requests": 1000, "prompt_cache_bytes": 64 << 20},
    ),
    "cycles": (load_cycles, "Resident memory over loads and unloads of three models.", {"answer_tokens": 4}),
}
"""Each with its purpose and its own defaults."""


def parser() -> argparse.ArgumentParser:
    root = argparse.ArgumentParser(prog="python -m benchmarks.chat", description=DESCRIPTION)
    scenarios = root.add_subparsers(dest="scenario", required=True, metavar="SCENARIO")
    for name, (_, purpose, defaults) in SCENARIOS.items():
        scenario = scenarios.add_parser(
            name, help=purpose, description=purpose, formatter_class=argparse.ArgumentDefaultsHelpFormatter
        )
        _add_options(scenario)
        scenario.set_defaults(**defaults)
    return root


def _add_options(scenario: argparse.ArgumentParser) -> None:
    targets = f"{', '.join(TARGETS)} or url:http://HOST:PORT"
    what = scenario.add_argument_group("what is measured")
    what.add_argument("--target", default="ours", help=targets)
    what.add_argument("--against", help="a second target, loaded in turn with the first: A B, B A, ...")
    what.add_argument("--pairs", type=_count, default=5, help="how often each target is loaded")
    what.add_argument("--model", default=MODEL, help="directory, hub id or starter:NAME; the tokenizer counts")
    what.add_argument("--second", help="another model, for second-model and cycles; the same weights if not given")
    what.add_argument("--third", help="another model, for cycles")
    what.add_argument("--url-model", help="the name a server at a URL has for its model; its first if not given")
    load = scenario.add_argument_group("load")
    load.add_argument("--streams", type=_count, default=8, help="clients at a time")
    load.add_argument("--requests", type=_count, help="of each run; two a stream if not given, one for connect")
    load.add_argument("--prompt-tokens", type=_count, default=40, help="of the text; the chat template adds its own")
    load.add_argument("--answer-tokens", type=_count, default=24, help="the most; what came really is reported")
    load.add_argument("--shared-prefix", type=int, default=0, help="with so many tokens all prompts begin")
    load.add_argument(
        "--unique",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="other prompts for each pair, so that none is in a prompt cache yet; both targets of a pair get the same",
    )
    load.add_argument("--temperature", type=float, default=0.0, help="0 is greedy")
    load.add_argument("--seed", type=int, default=0, help="of the prompts and the sampling")
    load.add_argument("--retries", type=int, default=5, help="for refused and reset connections, the clock running")
    load.add_argument("--timeout", type=float, default=600.0, help="seconds a request may take")
    special = scenario.add_argument_group("of single scenarios")
    special.add_argument("--long-prompt-tokens", type=_count, default=2000, help="long-prompt: the third's prompt")
    special.add_argument("--fill", type=_count, help="memory: requests to fill the cache; enough if not given")
    special.add_argument("--cycles", type=_count, default=60, help="cycles: loads and unloads, over three models")
    servers = scenario.add_argument_group("servers that are started here")
    servers.add_argument("--max-concurrency", type=_count, help="slots of a model; at least 32 and --streams")
    servers.add_argument("--queue-size", type=_count, help="of ours; at least 100 and --streams")
    servers.add_argument("--prompt-cache-bytes", type=_count, default=1 << 30, help="of ours and of mlx-lm")
    servers.add_argument("--prompt-cache-size", type=_count, default=1024, help="prompts that mlx-lm keeps, as ours")
    scenario.add_argument("--json", type=Path, metavar="FILE", help="everything, for programs")


def _count(text: str) -> int:
    if (number := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not at least 1")
    return number


def plan_of(arguments: Sequence[str]) -> Plan:
    """The command line's. Ends the process with a message if that is wrong, or asks for help."""
    options = vars(parser().parse_args(arguments))
    if options["requests"] is None:
        options["requests"] = options["streams"] * (1 if options["scenario"] == "connect" else 2)
    return Plan(**options, command=shlex.join(["python", "-m", "benchmarks.chat", *arguments]))


async def measure(plan: Plan) -> dict[str, Any]:
    """
    The summary. Writes lines, the table and the JSON file as it goes.

    Raises: TargetFailed, MlxMcpError.
    """
    report = Report(plan)
    plan = await asyncio.to_thread(_with_models, plan)
    path = Path(plan.model)
    prompts = Prompts(counter(path), plan.seed)
    summary = await SCENARIOS[plan.scenario][0](plan, path, prompts, report)
    report.finish(summary)
    return summary


def _with_models(plan: Plan) -> Plan:
    """With directories for sources. Raises: MlxMcpError."""
    cache = load_settings().cache_dir
    found = {
        name: str(fetch(source, cache, lambda _: None))
        for name in ("model", "second", "third")
        if (source := getattr(plan, name))
    }
    return dataclasses.replace(plan, **found)


def main(arguments: Sequence[str] | None = None) -> None:
    plan = plan_of(sys.argv[1:] if arguments is None else arguments)
    try:
        asyncio.run(measure(plan))
    except (TargetFailed, MlxMcpError) as exc:
        sys.exit(f"benchmarks.chat: {exc}")
    except ExceptionGroup as group:
        known, others = group.split((TargetFailed, MlxMcpError))
        if others or not known:
            raise
        sys.exit("\n".join(f"benchmarks.chat: {exc}" for exc in known.exceptions))
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
