"""How commands speak beside their answer, and how they end.

Lines on stderr begin with `error:`, `warning:`, `note:`, `plan:` or `interrupted:`, or with what
is counted (see `diffeat.progress`). Exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted
(Ctrl-C), 143 ended (SIGTERM): 128 and the number of the signal, as shells have it.
"""

from __future__ import annotations

import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any, NoReturn

import click

from diffeat.errors import DiffeatError, reason_of

INTERRUPTED, TERMINATED = 128 + signal.SIGINT, 128 + signal.SIGTERM


class Terminated(KeyboardInterrupt):
    """SIGTERM, after which is tidied up as after Ctrl-C."""


class Interrupted(click.ClickException):
    """A command that was stopped from outside.

    Args:
        stop: what ended it; its text says what is left.
    """

    def __init__(self, stop: KeyboardInterrupt):
        super().__init__("interrupted" + (f": {stop}" if str(stop) else ""))
        self.exit_code = TERMINATED if isinstance(stop, Terminated) else INTERRUPTED

    def show(self, file: Any = None) -> None:
        click.echo(self.message, file=file, err=file is None)


def note(text: str) -> None:
    """Something that a user may want to know."""
    click.echo(f"note: {text}", err=True)


def warn(text: str) -> None:
    """Something that a user should know."""
    click.echo(f"warning: {text}", err=True)


@contextmanager
def resumable(left: str) -> Iterator[None]:
    """Say, where the work is stopped from outside, what is left of it and how it goes on."""
    try:
        yield
    except KeyboardInterrupt as stop:
        stop.args = (left,)
        raise


def interruptible(function: Callable) -> Callable:
    """The function of a command, which ends without a traceback when it is stopped."""

    @wraps(function)
    def run_until_stopped(*args: Any, **values: Any) -> Any:
        try:
            return function(*args, **values)
        except KeyboardInterrupt as stop:
            raise Interrupted(stop) from stop

    return run_until_stopped


def run(group: click.Command) -> None:
    """Run a command as the program that this process is; ends it where it fails."""
    warnings.showwarning = lambda message, *_, **__: warn(str(message))
    # of `diffeat.companions`: here no code of the user's would import the other one
    warnings.filterwarnings("ignore", ".* is called like diffeat's package")
    signal.signal(signal.SIGTERM, _terminate)
    try:
        group(standalone_mode=False)
    except click.ClickException as error:
        _show(error)
        sys.exit(error.exit_code)
    except DiffeatError as error:
        _fail(str(error), error.exit_code)
    except BrokenPipeError:  # the reader of our output has seen enough
        sys.exit(1)
    except OSError as error:  # a table or picture that cannot be read or written
        _fail(os_error_text(error), 1)
    except (KeyboardInterrupt, click.Abort) as error:  # before the command began, or after it
        stop = error if isinstance(error, KeyboardInterrupt) else error.__cause__
        stopped = Interrupted(stop if isinstance(stop, KeyboardInterrupt) else KeyboardInterrupt())
        stopped.show()
        sys.exit(stopped.exit_code)


def os_error_text(error: OSError) -> str:
    """ "f.h5: No such file or directory" for "[Errno 2] No such file or directory: 'f.h5'"."""
    names = [str(name) for name in (error.filename, error.filename2) if name is not None]
    return ": ".join([*([" → ".join(names)] if names else []), reason_of(error)])


def _fail(text: str, code: int) -> NoReturn:
    click.echo(f"error: {text}", err=True)
    sys.exit(code)


def _show(error: click.ClickException) -> None:
    """As click shows it, but in our words: the usage first, where that was wrong."""
    if isinstance(error, (Interrupted, click.exceptions.NoArgsIsHelpError)):
        error.show()
        return
    context = error.ctx if isinstance(error, click.UsageError) else None
    if context is not None:
        click.echo(context.get_usage(), err=True)
        if context.help_option_names and context.command.get_help_option(context) is not None:
            flag = context.help_option_names[-1]
            click.echo(f"Try '{context.command_path} {flag}' for help.\n", err=True)
    click.echo(f"error: {error.format_message()}", err=True)


def _terminate(*_: object) -> None:
    raise Terminated
