"""Side-by-side measurements; each program has --help."""
