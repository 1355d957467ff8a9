"""Processes in which only xsda has been imported.

The import takes two seconds. One interpreter does it once a session, and each process is a fork of that interpreter.
"""

import multiprocessing
from multiprocessing import forkserver
from pathlib import Path
from subprocess import CompletedProcess

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["xsda"])
LIMIT = 240  # seconds

MODULE = """
import os, runpy, sys
os.chdir(folder)
os.environ |= environment
for number, path in ((1, out), (2, err)):
    os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), number)
sys.argv = arguments
runpy.run_module(arguments[0], run_name="__main__", alter_sys=True)
"""


def start(code, **names):
    """Run code with these names in a new process. It can use ``pipe``. Return the process and our end of the pipe."""
    ours, theirs = CONTEXT.Pipe()
    process = CONTEXT.Process(target=exec, args=(code, {"__name__": "__main__", "pipe": theirs, **names}))
    process.start()
    theirs.close()
    return process, ours


def answer(code, **names):
    """Return what the code sends through its ``pipe``."""
    process, pipe = start(code, **names)
    try:
        assert pipe.poll(LIMIT), "no answer"
        return pipe.recv()
    finally:
        end(process)


def end(process):
    """Wait for a process, and end it if it takes too long."""
    process.join(LIMIT)
    process.kill()


def run_module(arguments, folder, logs, **environment):
    """Run ``python -m`` with these arguments in a folder. Its output is written to the folder ``logs``."""
    out, err = Path(logs) / "out", Path(logs) / "err"
    names = {"folder": folder, "environment": environment, "out": out, "err": err, "arguments": list(arguments)}
    process, _ = start(MODULE, **names)
    end(process)
    return CompletedProcess(arguments, process.exitcode, out.read_text(), err.read_text())


def prepare():
    """Start the interpreter now, before other libraries change what it imports."""
    forkserver.ensure_running()
