"""The `lightning` command: one table of sub-commands, each imported only when it is chosen.

Printing a help text imports neither torch nor YAML. A user's mistake (UserError) is one line on stderr and exit code 2;
`--debug`, anywhere on the line, adds the traceback. An unknown command is refused, never handed to another program.
"""

import argparse
import errno
import importlib
import os
import re
import sys
import traceback
from collections.abc import Sequence
from typing import NoReturn

from lightsleeper import __version__
from lightsleeper.errors import UserError, did_you_mean

COMMANDS: dict[str, tuple[str, str]] = {
    "run": ("lightsleeper.cli.run", "train, compress, test, export and benchmark a recipe"),
    "sweep": ("lightsleeper.cli.sweep", "run a sweep file: here, on many machines, or by W&B's agents"),
    "validate": ("lightsleeper.cli.validate", "parse and check recipes without running them"),
    "recipes": ("lightsleeper.cli.recipes", "list the shipped recipes, or copy them to a folder"),
    "explain": ("lightsleeper.cli.explain", "what a key of a recipe means, its type and default"),
    "schema": ("lightsleeper.cli.schema", "JSON schema of recipes, for editors"),
    "runs": ("lightsleeper.cli.runs", "list runs, compare two, clean up"),
    "dashboard": ("lightsleeper.cli.dashboard", "all runs on one page: quality against latency, size, context"),
    "show": ("lightsleeper.cli.show", "one run: quality, size, latency, where things lie"),
    "export": ("lightsleeper.cli.export", "export the model of a run"),
    "evaluate": ("lightsleeper.cli.evaluate", "score a run or an exported file on other data"),
    "subclone": ("lightsleeper.cli.subclone", "start a smaller transformer from a larger one's weights"),
    "generate": ("lightsleeper.cli.generate", "text from a trained language model, out of its packed file"),
    "ttft": ("lightsleeper.cli.ttft", "time to first token of a language model on several processes"),
    "bench": ("lightsleeper.cli.bench", "measure an exported file or a kernel"),
    "data": ("lightsleeper.cli.data", "build, inspect, hear or see the data of a recipe, or speak its texts"),
    "detect": ("lightsleeper.cli.detect", "find a keyword in audio files or a microphone"),
    "listen": ("lightsleeper.cli.listen", "run a wake-word detector over recordings or a microphone"),
    "doctor": ("lightsleeper.cli.doctor", "versions, devices, tracking and disk of this machine"),
}
WITH_OVERRIDES = ("run", "validate", "explain", "data", "ttft")  # commands whose line may hold --section.key=value
OVERRIDE_HELP = "--section.key=VALUE changes a value of the recipe: --trainer.max_epochs=3 --callbacks.prune=null"

_DOTTED = re.compile(r"--[A-Za-z_]\w*(\.[^.=\s]+)+(=.*)?", re.DOTALL)
_MACHINE = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS)  # disk full, no rights: not a bug of ours


class Parser(argparse.ArgumentParser):
    """argparse that refuses with UserError and does not guess abbreviations."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        kwargs.setdefault("allow_abbrev", False)
        super().__init__(*args, **kwargs)  # type: ignore[arg-type]

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message[:1].lower()}{message[1:]}; see `{self.prog} --help`.")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line; returns the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in words
    words = [word for word in words if word != "--debug"]
    try:
        code = dispatch(words)
        sys.stdout.flush()  # so that a closed pipe shows here
        return code
    except SystemExit as stop:  # argparse after --help
        return stop.code if isinstance(stop.code, int) else 0
    except UserError as error:
        return _report(f"error: {error}", 2, debug)
    except KeyboardInterrupt:
        return _report("interrupted.", 130, debug)
    except OSError as error:
        if isinstance(error, BrokenPipeError) and _stdout_closed():
            return 128 + 13  # as a shell counts a program ended by SIGPIPE
        if error.errno in _MACHINE:
            place = f": '{error.filename}'" if error.filename else ""
            return _report(f"error: {error.strerror}{place}.", 2, debug)
        return _internal(error, debug)
    except Exception as error:
        return _internal(error, debug)


def dispatch(words: list[str]) -> int:
    """Choose the command, import it, parse its arguments and run it."""
    if not words or words[0] in ("-h", "--help", "help"):
        print(help_text())
        return 0
    if words[0] in ("-V", "--version"):
        print(f"lightsleeper {__version__}")
        return 0
    name, *rest = words
    if name not in COMMANDS:
        what = "option" if name.startswith("-") else "command"
        raise UserError(f"unknown {what} '{name}'.{did_you_mean(name, COMMANDS)}")
    module = importlib.import_module(COMMANDS[name][0])
    epilog = OVERRIDE_HELP if name in WITH_OVERRIDES else None
    parser = Parser(prog=f"{_program()} {name}", description=module.HELP, epilog=epilog)
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")  # main() took it out
    module.add_arguments(parser)
    overrides, rest = split_overrides(rest, parser, name in WITH_OVERRIDES)
    # intermixed: `run a.yaml --resume X b.yaml`; argparse cannot do that for a command with sub-commands
    parse = parser.parse_known_args if parser._subparsers else parser.parse_known_intermixed_args
    args, unknown = parse(rest)
    if unknown:
        raise UserError(_refusal(unknown[0], parser))
    args.overrides = overrides
    return int(module.main(args) or 0)


def split_overrides(words: list[str], parser: argparse.ArgumentParser, allowed: bool) -> tuple[list[str], list[str]]:
    """Separate `--a.b=v`, `--a.b v` and `--seed_everything=v` from what argparse reads.

    argparse alone would take the `v` of `--a.b v` for a positional argument.
    """
    own = _options(parser)
    overrides: list[str] = []
    rest: list[str] = []
    queue = list(words)
    while queue:
        word = queue.pop(0)
        if word == "--":
            return overrides, [*rest, word, *queue]
        key, equals, _ = word.partition("=")
        if key in own or not (_DOTTED.fullmatch(word) or _is_section(key)):
            rest.append(word)
        elif not allowed:
            raise UserError(f"`{parser.prog}` takes no override '{key}'.")
        elif equals:
            overrides.append(word)
        elif queue and not queue[0].startswith("--"):
            overrides.append(f"{word}={queue.pop(0)}")
        else:
            raise UserError(f"override '{word}' has no value; expected {word}=VALUE.")
    return overrides, rest


def _is_section(key: str) -> bool:
    if not key.startswith("--"):
        return False
    from lightsleeper.recipe import SECTIONS

    return key[2:] in SECTIONS


def help_text() -> str:
    """The program's help, from the table alone."""
    width = max(map(len, COMMANDS))
    lines = [f"usage: {_program()} COMMAND [ARGUMENTS]", "", "commands:"]
    lines += [f"  {name:<{width}}  {text}" for name, (_, text) in COMMANDS.items()]
    lines += [
        "",
        "options:",
        "  --help     after a command: its arguments",
        "  --version  print the version",
        "  --debug    show the traceback of an error",
        "",
        f"start: {_program()} run kws_dsp",
    ]
    return "\n".join(lines)


def _program() -> str:
    name = os.path.basename(sys.argv[0]) if sys.argv else ""
    return name if name in ("lightning", "lightsleeper") else "lightning"


def _options(parser: argparse.ArgumentParser) -> list[str]:
    return list(parser._option_string_actions)


def _refusal(word: str, parser: argparse.ArgumentParser) -> str:
    if not word.startswith("-"):
        return f"unexpected argument '{word}'; see `{parser.prog} --help`."
    key = word.partition("=")[0]
    return f"`{parser.prog}` has no option '{key}'.{did_you_mean(key, _options(parser))}"


def _report(text: str, code: int, debug: bool) -> int:
    if debug:
        traceback.print_exc()
    print(text, file=sys.stderr)
    return code


def _internal(error: BaseException, debug: bool) -> int:
    text = " ".join(str(error).split())
    hint = "" if debug else " (--debug shows the traceback)"
    return _report(f"internal error: {type(error).__name__}: {text}{hint}", 1, debug)


def _stdout_closed() -> bool:
    """Whether the reader of our output went away, which is no error; also quiets the interpreter's own last flush."""
    import select

    try:
        poller = select.poll()
        poller.register(sys.stdout.fileno(), select.POLLOUT)
        closed = any(event & (select.POLLERR | select.POLLHUP) for _, event in poller.poll(0))
    except (OSError, ValueError, AttributeError):  # no real file behind stdout, or a platform without poll
        return False
    if closed:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return closed
