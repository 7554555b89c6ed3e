"""Benchmarks: each side by side with what people would otherwise use, in the same run.

``python -m benchmarks NAME`` measures one and ``make bench`` all of them; docs/benchmarks.md is
rendered from what they have written to ``benchmarks/results/``. Peers live in virtual environments
of their own (``benchmarks/peers/NAME/requirements.txt``), made when they are first needed.
"""
