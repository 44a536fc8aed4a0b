"""main: the commands, their errors in one line, and the exit status."""

import os
import sys
import warnings
from collections.abc import Sequence

import click

from .. import __version__
from ._compare import compare
from ._demo import demo
from ._doctor import doctor
from ._duplicates import duplicates
from ._index import index
from ._info import info
from ._pages import app, report
from ._search import search


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    arguments : sequence of str, optional
        Without the name of the program; by default those of the process.

    Returns
    -------
    status : int
        0 if all went well, 1 after an error, 2 for wrong arguments, 130 when interrupted.

    Examples
    --------
    >>> from imgembed.cli import main
    >>> main(["--version"])
    imgembed 0.1.0
    0
    """
    given = sys.argv[1:] if arguments is None else list(arguments)
    with warnings.catch_warnings():
        warnings.simplefilter("default", UserWarning)  # shown, whatever was set around
        warnings.showwarning = _show_warning  # type: ignore[assignment]
        try:
            with _commands.make_context("imgembed", given) as context:
                _commands.invoke(context)
        except click.exceptions.Exit as leaving:
            return leaving.exit_code
        except click.UsageError as error:
            return _fail(f"{_told(error)} (see {_program(error)} --help)", status=2)
        except BrokenPipeError:  # who reads has seen enough, as in: imgembed ... | head
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 1
        except (OSError, ValueError, RuntimeError, ImportError, LookupError, TypeError) as error:
            return _fail(str(error), status=1)
        except KeyboardInterrupt:
            print("imgembed: interrupted", file=sys.stderr)
            return 130
    return 0


@click.group(no_args_is_help=False, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, message="imgembed %(version)s")
def _commands() -> None:
    """Search images by image."""


for _command in (index, search, compare, duplicates, report, app, info, doctor, demo):
    _commands.add_command(_command)


def _fail(message: str, status: int) -> int:
    print(f"imgembed: error: {' '.join(message.split())}", file=sys.stderr)
    return status


def _told(error: click.UsageError) -> str:
    return error.format_message().rstrip(".")


def _program(error: click.UsageError) -> str:
    return "imgembed" if error.ctx is None else error.ctx.command_path


def _show_warning(message: Warning | str, *_: object) -> None:
    print(f"imgembed: warning: {' '.join(str(message).split())}", file=sys.stderr)
