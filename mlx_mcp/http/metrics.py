"""GET /metrics"""

from fastapi import APIRouter, Request, Response

from mlx_mcp.telemetry.metrics import Metrics


def register(router: APIRouter, metrics: Metrics) -> None:
    @router.get("/metrics", response_model=None)
    async def scrape(http: Request) -> Response:  # pyright: ignore[reportUnusedFunction]
        """Numbers for Prometheus: plain text, or OpenMetrics for a client that asks for it."""
        body, content_type = await metrics.scrape(", ".join(http.headers.getlist("accept")))
        return Response(body, headers={"content-type": content_type})
