"""What the program does before it computes: light imports, one line for every failure, completion."""

import json
import os
import pty
import signal
import subprocess
import sys
import termios
import time
from contextlib import suppress
from pathlib import Path

import fresh
import pytest

import xsda
from xsda.cli import values
from xsda.diffusion.samplers import SAMPLERS
from xsda.files import FORMATS
from xsda.guidance import GUIDANCE
from xsda.likelihood import LAWS
from xsda.systems.simulation import SYSTEMS
from xsda.training.networks import NAMES

ROOT = Path(xsda.__file__).parents[1]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
COMMANDS = [
    "demo",
    "simulate",
    "fit",
    "train",
    "explain",
    "check",
    "assimilate",
    "reanalyse",
    "sample",
    "evaluate",
    "plot",
    "models",
]
HEAVY = {"torch", "xarray", "numpy", "dask", "pandas", "matplotlib", "tqdm"}


@pytest.fixture(params=["xsda", "python -m xsda"])
def program(request, tmp_path):
    """The command line of the two ways to start the program."""
    if request.param == "python -m xsda":
        return [sys.executable, "-m", "xsda"]
    script = tmp_path / "bin" / "xsda"
    script.parent.mkdir()
    script.write_text(
        "import sys\nfrom xsda.cli import main\nif __name__ == '__main__':\n    sys.exit(main())\n"
    )  # as an installer writes it
    return [sys.executable, str(script)]


def run(command, folder, path=(), **environment):
    """The finished process of a command in a folder, which imports from ``path`` first."""
    env = {**ENVIRONMENT, "PYTHONPATH": os.pathsep.join(map(str, [*path, ROOT])), **environment}
    return subprocess.run([str(c) for c in command], cwd=folder, env=env, capture_output=True, text=True)


@pytest.fixture
def ready(tmp_path_factory):
    """Runs a command as ``run`` does, in a process that has already imported torch."""

    def run_ready(command, folder, **environment):
        return fresh.run_module(command, folder, tmp_path_factory.mktemp("logs"), **environment)

    return run_ready


def imported(done):
    """Top-level modules that ``python -X importtime`` saw."""
    lines = [line for line in done.stderr.splitlines() if line.startswith("import time:")]
    return {line.rsplit("|", 1)[1].strip().split(".")[0] for line in lines}


@pytest.mark.parametrize("arguments", [["--version"], ["--help"], *([c, "--help"] for c in COMMANDS)], ids=" ".join)
def test_help_imports_nothing_heavy(program, tmp_path, arguments):
    done = run([program[0], "-X", "importtime", *program[1:], *arguments], tmp_path)
    assert done.returncode == 0
    assert "xsda" in done.stdout
    assert "click" in imported(done)
    assert not imported(done) & HEAVY


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("xsda s", {"simulate", "sample"}),
        ("xsda simulate lo", {"lorenz63", "lorenz96", "lotkavolterra"}),
        ("xsda assimilate a.nc --model l", {"lorenz63", "lorenz96", "local"}),
        ("xsda assimilate a.nc --guidance p", {"pigdm", "projection", "proximal"}),
        ("xsda sample --sampler dpm", {"dpmpp2m_sde", "dpmpp2m"}),
        ("xsda sample --precision f", {"float32", "float64", "fp16"}),
        ("xsda train a.nc --network s", {"spacetime"}),
        ("xsda sample --mem", {"--members"}),
    ],
)
def test_completion_of_names_and_values(tmp_path, words, expected):
    (tmp_path / "registry.json").write_text(json.dumps({"priors": {"local": {"file": "a", "sha256": "b"}}}))
    line = {"COMP_WORDS": words, "COMP_CWORD": str(len(words.split()) - 1), "XSDA_REGISTRY": "registry.json"}
    command = [sys.executable, "-X", "importtime", "-m", "xsda"]
    done = run(command, tmp_path, _XSDA_COMPLETE="bash_complete", **line)
    assert {item.split(",")[1] for item in done.stdout.split()} == expected
    assert not imported(done) & HEAVY


def test_completion_scripts(program, tmp_path):
    for shell, hook in (
        ("bash", "complete -o nosort -F"),
        ("zsh", "compdef"),
        ("fish", "complete --no-files --command xsda"),
    ):
        done = run(program, tmp_path, _XSDA_COMPLETE=f"{shell}_source")
        assert done.returncode == 0
        assert hook in done.stdout
        assert f"_XSDA_COMPLETE={shell}_complete" in done.stdout


def test_names_of_the_command_line_are_those_of_the_library():
    assert set(values.GUIDANCE) == {"auto", *GUIDANCE}
    assert set(values.SAMPLERS) == {"auto", *SAMPLERS}
    assert set(values.LAWS) == set(LAWS)
    assert set(values.SYSTEMS) == set(SYSTEMS)
    assert set(values.NETWORKS) == set(NAMES)
    assert set(values.FILE_ENDINGS) == set(FORMATS)
    assert values.model_names() == sorted(xsda.models())


@pytest.mark.parametrize(("module", "arguments"), [("click", ["--help"]), ("torch", ["models"])])
def test_interrupted_imports_say_one_line(program, tmp_path, module, arguments):
    (tmp_path / "fake").mkdir()
    code = "import os, signal, time\nos.kill(os.getpid(), signal.SIGINT)\ntime.sleep(60)\n"
    (tmp_path / "fake" / f"{module}.py").write_text(code)
    done = run([*program, *arguments], tmp_path, path=[tmp_path / "fake"])
    assert (done.returncode, done.stderr, done.stdout) == (130, "interrupted\n", "")


def test_an_interrupted_computation_says_one_line_and_leaves_nothing(tmp_path):
    draw = ["sample", "--model", "lorenz63", "--length", "64", "--members", "100000", "--out", "a.nc", "--progress"]
    command = [sys.executable, "-m", "xsda", *draw]
    before = set(tmp_path.iterdir())
    running = subprocess.Popen(command, cwd=tmp_path, env=ENVIRONMENT, stderr=subprocess.PIPE)
    os.set_blocking(running.stderr.fileno(), False)
    seen, started = b"", time.monotonic()
    while b"sampling" not in seen and time.monotonic() - started < 60:  # the bar: members are being drawn
        time.sleep(0.05)
        seen += running.stderr.read() or b""
    os.set_blocking(running.stderr.fileno(), True)
    running.send_signal(signal.SIGINT)
    _, rest = running.communicate(timeout=60)
    assert running.returncode == 130
    assert rest.decode().splitlines()[-1] == "interrupted"
    assert b"Traceback" not in seen + rest
    assert set(tmp_path.iterdir()) == before


BAD = {
    "command": (["simulat"], "No such command 'simulat'"),
    "option": (["simulate", "lorenz63", "--lenght", "3", "--out", "a.nc"], "--length"),
    "missing": (["simulate", "lorenz63"], "--out"),
    "integer": (["simulate", "lorenz63", "--length", "long", "--out", "a.nc"], "'long' is not a valid integer"),
    "setting": (["simulate", "lorenz63", "--set", "rho=abc", "--out", "a.nc"], "--set rho=abc must be a number"),
    "flag": (["simulate", "lorenz63", "--set", "rho=true", "--out", "a.nc"], "must be a number"),
    "half": (["simulate", "lorenz96", "--set", "n=40.5", "--out", "a.nc"], "--set n=40.5 must be a whole number"),
    "members": (["sample", "--model", "lorenz63", "--length", "4", "--members", "4:x", "--out", "a.nc"], "'4:x'"),
    "precision": (["sample", "--model", "lorenz63", "--length", "4", "--precision", "fp", "--out", "a.nc"], "fp16"),
    "grid": (["sample", "--model", "lorenz63", "--out", "a.nc"], "--grid"),
    "picture": (["plot", "a.nc", "--out", "a.doc"], "must end in one of"),
    "no file": (["plot", "a.nc"], "no file a.nc"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_ends_with_two_and_one_line(tmp_path, ready, name):
    arguments, message = BAD[name]
    done = ready(["xsda", *arguments], tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("flags", "environment"), [(["--debug"], {}), ([], {"XSDA_DEBUG": "1"})])
def test_debug_shows_the_traceback(tmp_path, ready, flags, environment):
    done = ready(["xsda", *flags, "plot", "a.nc"], tmp_path, **environment)
    assert "Traceback" in done.stderr
    assert done.stderr.splitlines()[-1] == "FileNotFoundError: no file a.nc"


def test_an_unexpected_error_is_named_in_one_line(tmp_path):
    (tmp_path / "fake").mkdir()
    (tmp_path / "fake" / "torch.py").write_text("assert False\n")
    done = run([sys.executable, "-m", "xsda", "models"], tmp_path, path=[tmp_path / "fake"])
    assert done.returncode == 2
    assert done.stderr == "xsda: AssertionError: no message. `xsda --debug` shows where it happened.\n"


def test_warnings_are_one_line(tmp_path):
    (tmp_path / "fake").mkdir()
    (tmp_path / "fake" / "torch.py").write_text(
        "import warnings\nwarnings.warn('mind the gap')\nraise ValueError('end')\n"
    )
    done = run([sys.executable, "-m", "xsda", "models"], tmp_path, path=[tmp_path / "fake"])
    assert done.stderr == "xsda: warning: mind the gap\nxsda: end\n"


SHORT = ["sample", "--model", "lorenz63", "--length", "16", "--members", "2", "--steps", "2", "--out", "a.nc"]


def test_a_progress_bar_in_a_terminal(tmp_path):
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 100))
    command = [sys.executable, "-m", "xsda", *SHORT]
    running = subprocess.Popen(command, cwd=tmp_path, env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=theirs)
    os.close(theirs)
    shown = b""
    with suppress(OSError):  # the end, where nobody writes any more
        while piece := os.read(ours, 1024):
            shown += piece
    os.close(ours)
    assert running.wait(60) == 0
    assert b"member/s" in shown


def test_a_plain_import_has_everything(tmp_path):
    (tmp_path / "script.py").write_text(
        "import xsda, xarray\nassert all(hasattr(xsda, n) for n in xsda.__all__)\nxarray.Dataset().sda.assimilate\n"
    )
    done = run([sys.executable, tmp_path / "script.py", "-m", "xsda"], tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
