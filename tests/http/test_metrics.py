"""GET /metrics"""

import httpx2 as httpx
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_open_metrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

BODY = {"model": "echo", "messages": [{"role": "user", "content": "one two"}]}


async def test_it_is_plain_text_that_prometheus_reads(client: httpx.AsyncClient) -> None:
    await client.post("/v1/chat/completions", json=BODY)
    reply = await client.get("/metrics")
    assert reply.status_code == 200
    assert reply.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    families = {family.name: family for family in parse_text(reply.text)}
    (requests,) = families["mlx_mcp_requests"].samples
    assert requests.value == 1
    assert requests.labels == {"door": "http", "kind": "chat", "model": "echo", "status": "succeeded"}


async def test_it_is_openmetrics_for_those_who_accept_it(client: httpx.AsyncClient) -> None:
    await client.post("/v1/chat/completions", json=BODY)
    accept = "application/openmetrics-text;version=1.0.0;q=0.6,text/plain;version=0.0.4;q=0.3,*/*;q=0.1"
    reply = await client.get("/metrics", headers={"accept": accept})
    assert reply.headers["content-type"] == "application/openmetrics-text; version=1.0.0; charset=utf-8"
    assert reply.text.endswith("# EOF\n")
    assert "mlx_mcp_requests" in {family.name for family in parse_open_metrics(reply.text)}


async def test_odd_accept_headers_get_plain_text(client: httpx.AsyncClient) -> None:
    for accept in ("*/*", "", "text/plain;version=nonsense", "application/json"):
        reply = await client.get("/metrics", headers={"accept": accept})
        assert (reply.status_code, reply.headers["content-type"][:10]) == (200, "text/plain")
    odd = await client.get("/metrics", headers={"accept": "application/openmetrics-text;version=nonsense"})
    assert odd.text.endswith("# EOF\n")
