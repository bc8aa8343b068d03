"""`vlpretrain COMMAND`. A command imports what it needs when it runs: help comes at once."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from vlpretrain.cli import failure
from vlpretrain.errors import UserError

USAGE = """\
usage: vlpretrain COMMAND ...

  pretrain CONFIG [--section.field VALUE ...] [--processes N] [--hostfile FILE]
                 pretrain; alone on a machine it starts DeepSpeed's launcher for every GPU
                 (without one, for N processes), inside torchrun, srun or mpirun it joins in
  config CONFIG [--section.field VALUE ...]
                 print the configuration, defaults filled in, every field documented
  doctor CONFIG [--section.field VALUE ...] [--ranks N]
                 look at data, sizes, memory and cost, and name every problem, before training
  report RUN     write RUN/report.html again
  explain IMAGE [IMAGE ...] "text" --model EXPORT [--out explain.png] [--layer N] [--question]
                 show where the model looks for each word of the text: one PNG a picture, and JSON

`vlpretrain config --help` lists every field.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command; returns the exit code: 2 after a mistake of the user's."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if not given or given[0] in ("-h", "--help", "help"):
        print(USAGE, end="", file=sys.stdout if given else sys.stderr)
        return 0 if given else failure.USER_ERROR_CODE
    try:
        return _command(given[0])(given[1:])
    except BrokenPipeError:  # `vlpretrain config ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (UserError, OSError) as error:
        return failure.report(error)
    except KeyboardInterrupt:
        return 130


def _command(name: str) -> Callable[[list[str]], int]:
    commands = {
        "pretrain": _pretrain,
        "config": _config,
        "doctor": _doctor,
        "report": _report,
        "explain": _explain,
    }
    if name not in commands:
        raise UserError(f"unknown command {name!r}", fix=f"one of {', '.join(commands)}")
    return commands[name]


def _pretrain(arguments: list[str]) -> int:
    from vlpretrain.cli.launch import launch

    return launch(arguments)


def _config(arguments: list[str]) -> int:
    from vlpretrain.cli.arguments import read_run_config
    from vlpretrain.config.check import check
    from vlpretrain.config.dump import dump_yaml

    config = read_run_config(arguments, prog="vlpretrain config")
    print(dump_yaml(config), end="")
    check(config)
    return 0


def _doctor(arguments: list[str]) -> int:
    from vlpretrain.cli.doctor import doctor

    return doctor(arguments)


def _report(arguments: list[str]) -> int:
    from vlpretrain.report import write_report

    if len(arguments) != 1:
        raise UserError("report needs one run folder", fix="vlpretrain report RUN")
    print(write_report(Path(arguments[0])))
    return 0


def _explain(arguments: list[str]) -> int:
    from vlpretrain.cli.explain import explain

    return explain(arguments)


if __name__ == "__main__":
    sys.exit(main())
