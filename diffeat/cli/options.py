"""Options that several commands share."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import click


def comma_list(_context: click.Context, _option: click.Parameter, value: str | None):
    """Callback: "a,b" → ("a", "b"), without empty parts."""
    if value is None:
        return None
    return tuple(part.strip() for part in value.split(",") if part.strip())


def model_options(command: Callable) -> Callable:
    """--device, --model-dtype and --allow-pickle, as `diffeat.load` takes them."""
    for option in (
        click.option("--allow-pickle", is_flag=True,
                     help="Also load pickled weights, which can run code."),
        click.option("--model-dtype", default="auto", show_default=True,
                     help="Precision of the forward: float32, float16, bfloat16."),
        click.option("--device", default="auto", show_default=True, help="cpu, cuda, cuda:1, …"),
    ):  # fmt: skip
        command = option(command)
    return command


json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")


def print_json(values: Any) -> None:
    click.echo(json.dumps(values, indent=1, ensure_ascii=False))
