"""`vlpretrain COMMAND`. A command imports what it needs when it runs: help comes at once."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from functools import partial

from vlpretrain.cli import failure
from vlpretrain.errors import UserError

USAGE = """\
usage: vlpretrain COMMAND ...

  pretrain CONFIG [--section.field VALUE ...] [--processes N] [--hostfile FILE]
                 pretrain; alone on a machine it starts DeepSpeed's launcher for every GPU
                 (without one, for N processes), inside torchrun, srun or mpirun it joins in
  finetune CONFIG --init EXPORT ...
                 the same for a task (task.name: vqa, retrieval, classification)
  evaluate CONFIG --init EXPORT --data.val SHARDS --out FOLDER ...
                 judge an exported model; nothing is trained
  config CONFIG [--section.field VALUE ...]
                 print the configuration, defaults filled in, every field documented
  doctor CONFIG [--section.field VALUE ...] [--ranks N]
                 look at data, sizes, memory and cost, and name every problem, before training
  index-images DIR --model EXPORT [--out index.safetensors] [--faiss]
                 the embeddings of all pictures under DIR in one file; again, only of new ones
  search "text" | --image PIC [--index FILE] [--top N] [--rerank K] [--out answer.png]
                 the nearest pictures of an index, as JSON and as a sheet
  report RUN [RUN ...] [--chain] [--out FILE]
                 write RUN/report.html again; of several runs one page, story.html in the last
                 one's folder; --chain adds the runs that a run began from
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
    commands: dict[str, Callable[[list[str]], int]] = {
        **{name: partial(_launch, name) for name in ("pretrain", "finetune", "evaluate")},
        "config": _config,
        "doctor": _doctor,
        "report": _report,
        "explain": _explain,
        "index-images": _index_images,
        "search": _search,
    }
    if name not in commands:
        raise UserError(f"unknown command {name!r}", fix=f"one of {', '.join(commands)}")
    return commands[name]


def _launch(command: str, arguments: list[str]) -> int:
    from vlpretrain.cli.launch import launch

    return launch(command, arguments)


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


def _index_images(arguments: list[str]) -> int:
    from vlpretrain.cli.index_images import index_images

    return index_images(arguments)


def _search(arguments: list[str]) -> int:
    from vlpretrain.cli.search import search

    return search(arguments)


def _report(arguments: list[str]) -> int:
    from vlpretrain.cli.arguments import read_report_options
    from vlpretrain.report import find_chain, write_report, write_story

    if "-h" in arguments or "--help" in arguments:
        print(USAGE, end="")
        return 0
    options = read_report_options(arguments)
    if options.chain:
        runs = [run for last in options.runs for run in find_chain(last)]
        print(write_story(runs, options.out))
    elif len(options.runs) > 1:
        print(write_story(options.runs, options.out))
    else:
        print(write_report(options.runs[0], options.out))
    return 0


def _explain(arguments: list[str]) -> int:
    from vlpretrain.cli.explain import explain

    return explain(arguments)


if __name__ == "__main__":
    sys.exit(main())
