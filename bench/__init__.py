"""The benchmarks: each checks that nothing was lost before it prints a number."""
