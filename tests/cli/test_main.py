"""The command table, its errors and exit codes, and that a help text imports nothing heavy."""

import argparse
import errno
import re
import subprocess
import sys
import time
import types
from pathlib import Path

import pytest
from lightsleeper import cli as program
from lightsleeper.cli import COMMANDS, Parser, main, split_overrides
from lightsleeper.errors import UserError

HEAVY = ("torch", "lightning", "jsonargparse", "rich", "yaml", "numpy", "wandb", "datasets", "onnx", "transformers")


@pytest.fixture
def fake(monkeypatch):
    """A command `fake` whose main is given; returns the namespaces it saw."""

    def install(action=lambda args: 0, overrides=True):
        module = types.ModuleType("fake_command")
        module.HELP = "A fake."

        def add_arguments(parser):
            parser.add_argument("recipes", nargs="*")
            parser.add_argument("--resume")

        module.add_arguments, module.main = add_arguments, action
        monkeypatch.setitem(sys.modules, "fake_command", module)
        monkeypatch.setitem(COMMANDS, "fake", ("fake_command", "a fake"))
        if overrides:
            monkeypatch.setattr(program, "WITH_OVERRIDES", ("fake",))

    return install


# --- help ---


@pytest.mark.parametrize("command", [None, *COMMANDS])
def test_help_imports_nothing_heavy_and_is_quick(command, spawn):
    words = [command, "--help"] if command else ["--help"]
    seconds = []
    for _ in range(3):  # the best of three: other work on the machine is not ours
        start = time.perf_counter()
        result = spawn(*words, options=("-X", "importtime"))
        seconds.append(time.perf_counter() - start)
        if seconds[-1] < 0.4:
            break
    assert result.returncode == 0, result.stderr[-500:]
    assert "usage:" in result.stdout
    loaded = {name.partition(".")[0] for name in re.findall(r"^import time:.*\|\s*(\S+)$", result.stderr, re.MULTILINE)}
    assert "lightsleeper" in loaded
    assert loaded.isdisjoint(HEAVY)
    assert min(seconds) < 0.4


def test_help_lists_every_command(cli):
    for words in ([], ["--help"], ["-h"], ["help"]):
        result = cli(*words)
        assert result.code == 0
        assert all(f"  {name} " in result.out and text in result.out for name, (_, text) in COMMANDS.items())


@pytest.mark.parametrize("command", list(COMMANDS))
def test_every_command_has_help_arguments_and_main(command):
    module = __import__(COMMANDS[command][0], fromlist=["main"])
    assert isinstance(module.HELP, str)
    parser = Parser(prog="x")
    module.add_arguments(parser)
    assert callable(module.main)


def test_the_version_is_printed(cli):
    assert re.fullmatch(r"lightsleeper \d+\.\d+\.\d+\n", cli("--version").out)


def test_both_scripts_are_this_program():
    from importlib.metadata import entry_points

    targets = {entry.name: entry.value for entry in entry_points(group="console_scripts")}
    assert targets["lightning"] == targets["lightsleeper"] == "lightsleeper.cli:main"


# --- refusals ---


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["rum"], "error: unknown command 'rum'. Did you mean 'run'?\n"),
        (["login"], "error: unknown command 'login'. Valid: bench, dashboard, data, "),
        (["--verison"], "error: unknown option '--verison'."),
        (["validate"], "error: the following arguments are required: RECIPE; see `lightning validate --help`.\n"),
        (["validate", "a.yaml", "--prnt"], "has no option '--prnt'. Did you mean '--print'?\n"),
        (["validate", "a.yaml", "--pri"], "has no option '--pri'."),
        (["schema", "extra"], "unexpected argument 'extra'"),
        (["schema", "--model.dim=3"], "takes no override '--model.dim'."),
        (["validate", "a.yaml", "--model.dim"], "override '--model.dim' has no value; expected --model.dim=VALUE."),
        (["validate", "a.yaml", "--model.dim", "--print"], "override '--model.dim' has no value"),
        (["validate", "nowhere.yaml"], "error: no recipe 'nowhere.yaml'."),
    ],
)
def test_a_wrong_command_line_is_refused_with_exit_code_2(words, message, cli):
    result = cli(*words)
    assert result.code == 2
    assert message in result.err
    assert result.err.count("\n") == 1
    assert result.out == ""


def test_an_unknown_command_starts_no_other_program(monkeypatch, cli):
    def refuse(*args, **kwargs):
        raise AssertionError("started another program")

    for name in ("run", "Popen", "call"):
        monkeypatch.setattr(subprocess, name, refuse)
    monkeypatch.setattr("os.system", refuse)
    monkeypatch.setattr("os.execvp", refuse)
    assert cli("studio").code == 2


# --- overrides ---


@pytest.mark.parametrize(
    ("line", "overrides", "rest"),
    [
        ("a.yaml --trainer.max_epochs=3 b.yaml", ["--trainer.max_epochs=3"], ["a.yaml", "b.yaml"]),
        ("--trainer.max_epochs 3 a.yaml", ["--trainer.max_epochs=3"], ["a.yaml"]),
        ("a.yaml --model.gain -3.5", ["--model.gain=-3.5"], ["a.yaml"]),
        ("a.yaml --seed_everything=3", ["--seed_everything=3"], ["a.yaml"]),
        ("a.yaml --model KeywordDSP", ["--model=KeywordDSP"], ["a.yaml"]),
        ("a.yaml --callbacks.prune=null", ["--callbacks.prune=null"], ["a.yaml"]),
        ("a.yaml --resume run.1", [], ["a.yaml", "--resume", "run.1"]),
        ("a.yaml --resume=run.1", [], ["a.yaml", "--resume=run.1"]),
        ("a.yaml -- --b.c=3", [], ["a.yaml", "--", "--b.c=3"]),
        ("--data.words=[a.b] x", ["--data.words=[a.b]"], ["x"]),
    ],
)
def test_dotted_options_are_overrides_and_the_rest_is_for_argparse(line, overrides, rest):
    parser = argparse.ArgumentParser()
    parser.add_argument("--resume")
    assert split_overrides(line.split(), parser, allowed=True) == (overrides, rest)


def test_an_option_of_the_command_wins_over_a_section_of_the_same_name():
    parser = argparse.ArgumentParser()
    parser.add_argument("--data")
    assert split_overrides(["--data", "x.csv"], parser, allowed=True) == ([], ["--data", "x.csv"])


def test_the_command_sees_overrides_and_arguments(fake, cli):
    seen = []
    fake(lambda args: seen.append(args) or 0)
    assert cli("fake", "a.yaml", "--model.dim", "3", "--resume", "x", "b.yaml").code == 0
    assert seen[0].overrides == ["--model.dim=3"]
    assert (seen[0].recipes, seen[0].resume) == (["a.yaml", "b.yaml"], "x")


# --- exit codes ---


def raising(error):
    def action(args):
        raise error

    return action


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (UserError("no such thing."), 2, "error: no such thing.\n"),
        (KeyboardInterrupt(), 130, "interrupted.\n"),
        (OSError(errno.ENOSPC, "No space left on device", "/x/y"), 2, "error: No space left on device: '/x/y'.\n"),
        (PermissionError(errno.EACCES, "Permission denied", "/x"), 2, "error: Permission denied: '/x'.\n"),
        (KeyError("x"), 1, "internal error: KeyError: 'x' (--debug shows the traceback)\n"),
        (BrokenPipeError(errno.EPIPE, "Broken pipe"), 1, "internal error: BrokenPipeError"),  # a socket, not stdout
        (RuntimeError("two\nlines"), 1, "internal error: RuntimeError: two lines (--debug"),
    ],
)
def test_an_error_is_one_line_and_an_exit_code(fake, cli, error, code, text):
    fake(raising(error))
    result = cli("fake")
    assert result.code == code
    assert result.err.startswith(text)
    assert result.err.count("\n") == 1


@pytest.mark.parametrize("place", [0, 1, 2])
def test_debug_anywhere_shows_the_traceback(fake, cli, place):
    fake(raising(UserError("no such thing.")))
    words = ["fake", "a.yaml"]
    words.insert(place, "--debug")
    result = cli(*words)
    assert result.code == 2
    assert "Traceback (most recent call last)" in result.err
    assert result.err.endswith("error: no such thing.\n")


def test_the_exit_code_of_a_command_is_passed_on(fake, cli):
    fake(lambda args: 2)
    assert cli("fake").code == 2
    fake(lambda args: None)
    assert cli("fake").code == 0


def test_a_reader_that_goes_away_is_no_error(tmp_path: Path):
    script = tmp_path / "loud.py"
    script.write_text(
        "import sys, types\nfrom lightsleeper import cli\nm = types.ModuleType('loud')\nm.HELP = ''\n"
        "m.add_arguments = lambda parser: None\n"
        "def run(args):\n    for _ in range(100000): print('x' * 80)\n"
        "m.main = run\nsys.modules['loud'] = m\ncli.COMMANDS['loud'] = ('loud', '')\nsys.exit(cli.main(['loud']))\n"
    )
    with subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.readline()
        process.stdout.close()
        errors = process.stderr.read()
    assert process.returncode == 141
    assert errors == b""


def test_python_dash_m_is_the_same_program(spawn):
    result = spawn("rum")
    assert result.returncode == 2
    assert result.stderr == "error: unknown command 'rum'. Did you mean 'run'?\n"


def test_main_reads_the_command_line_of_the_process(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["/usr/bin/lightsleeper", "rum"])
    assert main() == 2
    monkeypatch.setattr(sys, "argv", ["/usr/bin/lightsleeper", "--help"])
    assert main() == 0
    assert "usage: lightsleeper COMMAND" in capsys.readouterr().out
