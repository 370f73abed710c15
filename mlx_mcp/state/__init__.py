"""Jobs, their queue, the models in memory and what is remembered. No protocol, no MLX."""
