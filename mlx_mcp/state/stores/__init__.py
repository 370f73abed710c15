"""Where jobs are remembered."""
