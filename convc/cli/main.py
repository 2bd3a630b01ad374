"""`convc VERB ...`: the parser over all verbs, and what becomes of exceptions.

Exit codes: 0 done, 1 the answer is no (outputs differ, an assertion fails), 2 wrong use or a convc.Error, 130
interrupted.
"""

from __future__ import annotations

import argparse
import importlib
import io
import os
import sys
import warnings
from collections.abc import Sequence

from convc import __version__
from convc.cli.start import listen
from convc.errors import Error

VERBS = {
    "compile": "compile a network and save it",
    "run": "run a network on files, pictures, or random inputs",
    "inspect": "show layers, passes, program or kernels of a network",
    "bench": "measure a network, fused against unfused",
    "check": "compare a network with the interpreter, and find what is wrong",
    "demo": "compile a digit classifier and show what was gained",
    "passes": "list the passes and pipelines",
    "zoo": "list the networks that are built in",
    "cache": "show or clear the kernels kept on disk",
    "env": "show versions, processor, threads and kernel store",
}


def build_parser(chosen: str | None) -> argparse.ArgumentParser:
    """The parser. Only the chosen verb's module is imported, so that `convc --help` is quick."""
    parser = argparse.ArgumentParser(
        prog="convc",
        description="Compile convolutional networks, run them, and see what was done to them.",
        epilog="convc VERB --help tells more. Text output may change; --json output is stable.",
    )
    parser.add_argument("--version", action="version", version=f"convc {__version__}")
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--debug", action="store_true", help="show where an error was raised")
    verbs = parser.add_subparsers(metavar="VERB", required=True)
    for name, help in VERBS.items():
        if name != chosen:
            verbs.add_parser(name, help=help, add_help=False)
            continue
        module = importlib.import_module(f"convc.cli.{name}")
        verb = verbs.add_parser(
            name,
            help=help,
            description=module.__doc__,
            parents=[common],
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        module.add_arguments(verb)
        verb.set_defaults(run=module.run)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    words = sys.argv[1:] if argv is None else list(argv)
    chosen = next((word for word in words if word in VERBS), None)
    parser = build_parser(chosen)
    if chosen == "inspect":
        from convc.cli.inspect import complete

        words = complete(words)
    args = parser.parse_args(words)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        listen()
        with warnings.catch_warnings():
            warnings.showwarning = _tell_warning
            code: int = args.run(args)
        sys.stdout.flush()
        return code
    except Error as error:
        if args.debug:
            raise
        from convc.cli.output import clean, in_options

        print(f"convc: {clean(error.message)}", file=sys.stderr)
        if error.hint:
            print(f"Hint: {clean(in_options(error.hint))}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        if args.debug:
            raise
        print("convc: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader, such as `head`, has seen enough. What is still buffered goes nowhere, also when Python ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141


def _tell_warning(message: Warning | str, category: type[Warning], *_: object, **more: object) -> None:
    from convc.cli.output import note

    note(f"warning: {message}")


if __name__ == "__main__":
    sys.exit(main())
