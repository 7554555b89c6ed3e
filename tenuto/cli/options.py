"""Options that several long-lived processes share."""

from __future__ import annotations

import click

metrics_port_option = click.option(
    "--metrics-port", type=int, help="serve Prometheus metrics there; 0 for none"
)
