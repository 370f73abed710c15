"""mlx-lm's own server, on the BLAS that ours has."""

from mlx_mcp.engines.blas import load_fast_blas


def main() -> None:
    load_fast_blas()
    from mlx_lm.server import main as serve  # noqa: PLC0415 - imports MLX, which must come second

    serve()


if __name__ == "__main__":
    main()
