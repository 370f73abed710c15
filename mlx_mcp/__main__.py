"""python -m mlx_mcp"""

from mlx_mcp.cli import main

main()
