"""Processes in which only xsda has been imported.

An import takes two seconds. One interpreter imports xsda, once a session, and every process is a fork of it.
"""

import multiprocessing
from multiprocessing import forkserver
from pathlib import Path
from subprocess import CompletedProcess

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["xsda"])

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
    """Run code with these names in a new process; it can send to us through its ``pipe``. Return (process, our end)."""
    ours, theirs = CONTEXT.Pipe()
    process = CONTEXT.Process(target=exec, args=(code, {"__name__": "__main__", "pipe": theirs, **names}))
    process.start()
    theirs.close()
    return process, ours


def answer(code, **names):
    """What code sends through its ``pipe``."""
    process, pipe = start(code, **names)
    try:
        return pipe.recv()
    finally:
        process.join()


def run_module(arguments, folder, logs, **environment):
    """``python -m`` with these arguments, in a folder; its output passes through files in the folder ``logs``."""
    out, err = Path(logs) / "out", Path(logs) / "err"
    names = {"folder": folder, "environment": environment, "out": out, "err": err, "arguments": list(arguments)}
    process, _ = start(MODULE, **names)
    process.join()
    return CompletedProcess(arguments, process.exitcode, out.read_text(), err.read_text())


def prepare():
    """Start the interpreter, if it does not run, before others who fork from it say what it should import."""
    forkserver.ensure_running()
