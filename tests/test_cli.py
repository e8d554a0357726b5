"""The command: what it answers, how fast, and with which exit code."""

from __future__ import annotations

import subprocess
import sys

import pytest

import gradwatch
from gradwatch._cli import main


def test_version(capsys):
    """``--version`` names the version and ends with 0."""
    with pytest.raises(SystemExit) as stopped:
        main(["--version"])
    assert stopped.value.code == 0
    assert capsys.readouterr().out == f"gradwatch {gradwatch.__version__}\n"


def test_without_arguments_it_helps(capsys):
    """No subcommand: the help, on stdout, which is no error."""
    assert main([]) == 0
    out = capsys.readouterr().out
    assert out.startswith("usage: gradwatch")
    assert "demo" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["dmeo"], "invalid choice: 'dmeo'"),
        (["demo", "--steps", "0"], "'0' is not a whole number of at least 1"),
        (["demo", "--steps", "many"], "'many' is not a whole number of at least 1"),
        (["demo", "--seed", "x"], "invalid int value: 'x'"),
    ],
)
def test_wrong_arguments(arguments, message, capsys):
    """A wrong argument ends with 2 and says on stderr what is wrong."""
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


def test_an_error_is_a_message_and_no_traceback(tmp_path, capsys):
    """A logdir that cannot be written ends with 1 and one readable line."""
    (tmp_path / "file").write_text("")
    assert main(["demo", "--logdir", str(tmp_path / "file"), "--steps", "1"]) == 1
    captured = capsys.readouterr()
    assert "file" in captured.err
    assert len(captured.err.splitlines()) == 1


def test_missing_scikit_learn_is_explained(tmp_path, capsys, monkeypatch):
    """Without scikit-learn the demo names the extra to install, and makes nothing."""
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    monkeypatch.setitem(sys.modules, "sklearn", None)
    assert main(["demo", "--logdir", str(tmp_path / "runs")]) == 1
    assert "pip install 'gradwatch[demo]'" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_ctrl_c_is_no_traceback(capsys, monkeypatch):
    """Ctrl-C ends with 130, as a shell expects."""

    def interrupt(*_arguments: object, **_options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("gradwatch._demo.run", interrupt)
    assert main(["demo"]) == 130
    assert "stopped" in capsys.readouterr().err


def test_help_does_not_import_torch():
    """``python -m gradwatch`` answers at once: nothing heavy is imported for it."""
    code = (
        "import sys; from gradwatch._cli import main; main([]); "
        "print([name for name in ('torch', 'numpy', 'rich', 'sklearn') if name in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert out.endswith("[]\n")


def test_module_and_command_are_the_same():
    """``python -m gradwatch`` is the command."""
    out = subprocess.run(
        [sys.executable, "-m", "gradwatch", "--version"], check=True, capture_output=True, text=True
    ).stdout
    assert out == f"gradwatch {gradwatch.__version__}\n"


def test_a_closed_pipe_is_no_traceback():
    """``gradwatch explain | head -1``: the command stops without a word."""
    code = "import sys; from gradwatch._cli import main; sys.exit(main(['explain']))"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait() == 141


@pytest.mark.parametrize("command", ["explain", "replay"])
def test_every_command_is_in_the_help(command, capsys):
    """The help names it, and each has a help of its own."""
    assert main([]) == 0
    assert command in capsys.readouterr().out
    with pytest.raises(SystemExit) as stopped:
        main([command, "--help"])
    assert stopped.value.code == 0
    assert "usage: gradwatch" in capsys.readouterr().out
