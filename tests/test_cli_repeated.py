"""Options that are given more than once: lists add up, contradictions are told."""

from __future__ import annotations

import click
import pytest

from benchmarks.__main__ import cli as benchmark
from diffeat.cli import cli
from diffeat.cli.options import LISTS, Option, comma_list, index_list, option, positive_numbers


def commands():
    for group in (cli, benchmark):
        for name, each in group.commands.items():
            yield pytest.param(each, id=f"{group.name}-{name}")


@pytest.mark.parametrize("command", list(commands()))
def test_every_option_of_every_command_may_be_repeated(command):
    found = [each for each in command.params if isinstance(each, click.Option)]
    assert all(isinstance(each, Option) for each in found), command.name


@click.command()
@option("-t", "steps", callback=comma_list)
@option("--heads", callback=index_list)
@option("-C", "penalties", callback=positive_numbers, default="1,2", show_default=True)
@option("--size", type=int)
@option("--flip/--no-flip", default=None)
@option("--json", is_flag=True)
@option("--vision", multiple=True)
def toy(**values):
    toy.values = values


def parsed(*arguments: str):
    toy.main(list(arguments), standalone_mode=False)
    return toy.values


def test_lists_add_up():
    found = parsed("-t", "20", "-t", "60,sigma=1", "-C", "1", "-C", "10", "--heads", "2",
                   "--heads=0,1", "--vision", "a", "--vision", "b")  # fmt: skip
    assert found["steps"] == ("20", "60", "sigma=1")
    assert found["penalties"] == (1.0, 10.0)
    assert found["heads"] == (2, 0, 1)
    assert found["vision"] == ("a", "b")
    assert parsed()["penalties"] == (1.0, 2.0)
    assert parsed()["steps"] is None


def test_equal_values_are_one():
    found = parsed("--size", "7", "--size", "7", "--flip", "--flip", "--json", "--json")
    assert found["size"] == 7
    assert found["flip"] is True
    assert found["json"] is True
    assert parsed("--no-flip")["flip"] is False


@pytest.mark.parametrize(
    ("arguments", "told", "field", "value"),
    [
        (
            ("--size", "7", "--size", "8"),
            "--size is given with different values, 7 and 8",
            "size",
            8,
        ),
        (("--flip", "--no-flip"), "different values, True and False", "flip", False),
    ],
)
def test_of_contradictions_the_last_counts_and_both_are_told(
    capsys, arguments, told, field, value
):  # fmt: skip
    assert parsed(*arguments)[field] == value
    assert told in capsys.readouterr().err


def test_what_adds_up_is_a_list():
    assert {each.__name__ for each in LISTS} == {"comma_list", "index_list", "positive_numbers"}
