"""Commands that run as several processes: the flags for it, and the supervisor that starts and explains them.

    pixelthink train ... --processes 2                                        two processes on this machine
    pixelthink train ... --coordinator HOST:PORT --processes 4 --process-id I  this one of four machines
    pixelthink train ...                                                      on each worker of a TPU slice, or by srun

The command line itself stays a supervisor, and the work is done by a process of its own that it starts. Where one of
the processes of a run is lost, JAX aborts the others with pages of its own text; the supervisor holds these back and
says in one line what happened. Lines that libraries in C++ print go through it, those of Python do not.
"""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from pixelthink_jax.commands import INTERRUPTED
from pixelthink_jax.errors import InputError
from pixelthink_jax.runtime.startup import HEARTBEAT_SECONDS, WAIT_SECONDS, Launch, find_launch, join

_WORKER = "PIXELTHINK_WORKER"
_MET = "pixelthink: all processes are there\n"
_FIRST_WORD, _NEXT_WORD = 15.0, 60.0  # seconds
_BROKEN = 70  # how a worker ends that has shown the traceback of a fault
_REMEDY = "all processes have ended, the newest checkpoint and all complete rows are kept; the same command continues"
# What breaks in Python where another process is gone: collectives of CPUs, of GPUs, the runtime's own calls, and the
# barriers at which a checkpoint waits for every part of it.
_LOST = re.compile(r"Gloo|NCCL|UNAVAILABLE|closed by peer|heartbeat|barrier", re.IGNORECASE)

Command = Callable[[Any], int | None]
Reporter = Callable[[Callable[[], int]], int]


@dataclass(frozen=True)
class LaunchFlags:
    """Flags of a command that several processes can run together."""

    processes: int | None = None
    """Processes of the run. Alone, so many are started on this machine; with --coordinator, that many in all. On
    Cloud TPU, under Slurm and Open MPI none of the three is needed: start the same command on every worker."""
    process_id: int | None = None
    """Number of this process, from 0."""
    coordinator: str | None = None
    """HOST:PORT at which process 0 is found by the others."""


def run(main: Command, args: LaunchFlags, argv: Sequence[str], reported: Reporter) -> int:
    """Runs a command alone, as the supervisor of one or several processes, or as one of these.

    Args:
        main: The command.
        args: Its flags.
        argv: The same as they were written, the command's name first.
        reported: Calls a function, and turns what a user can mend into one line and an exit status.
    """
    if _WORKER in os.environ:
        return _work(main, args, json.loads(os.environ.pop(_WORKER)), reported)
    given = Launch(args.coordinator, args.processes, args.process_id)
    if given.processes is not None and given.processes < 1:
        raise InputError(f"--processes {given.processes}: expected at least 1")
    here = given.processes if given.coordinator is None and given.process_id is None else None
    if here is not None and here > 1 and "JAX_COORDINATOR_ADDRESS" not in os.environ:
        meeting = f"127.0.0.1:{_free_port()}"
        return _supervise(argv, [Launch(meeting, here, number) for number in range(here)])
    launch = find_launch(given, os.environ)
    return main(args) or 0 if launch is None else _supervise(argv, [launch])


# The supervisor.


@dataclass
class _Worker:
    """A process that was started.

    Attributes:
        launch: How it joins.
        process: The process.
        said: What JAX wrote when it aborted, and what followed it.
        met: It has found the others, or ended.
    """

    launch: Launch
    process: subprocess.Popen[str]
    said: list[str] = field(default_factory=list)
    met: threading.Event = field(default_factory=threading.Event)
    reader: threading.Thread | None = None

    def listen(self) -> None:
        """Passes lines on to stderr until the first that tells of an abort."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if self.said or re.match(r"F\d{4} |E\d{4} .*coordination_service", line):
                self.said.append(line)
            elif line == _MET:
                self.met.set()
            elif not line.startswith("[Gloo]"):
                sys.stderr.write(line)
        self.met.set()

    def tell(self) -> None:
        """Says now and then what a start-up waits for."""
        waited, pause = 0.0, _FIRST_WORD
        while not self.met.wait(pause):
            waited, pause = waited + pause, _NEXT_WORD
            print(
                f"pixelthink: waiting for {self.launch.awaited} ({waited:.0f} s so far, at most {WAIT_SECONDS} s); "
                "start the same command on every worker: gcloud compute tpus tpu-vm ssh NAME --worker=all "
                "--command=..., srun, or a JobSet",
                file=sys.stderr,
                flush=True,
            )


def _supervise(argv: Sequence[str], launches: Sequence[Launch]) -> int:
    """Starts the processes, passes signals on, waits for all, and explains the first that ends badly."""
    workers: list[_Worker] = []
    passed: list[int] = []

    def relay(number: int, frame: Any) -> None:
        passed.append(number)
        for worker in workers:
            if worker.process.poll() is None:
                worker.process.send_signal(number)

    before = {number: signal.signal(number, relay) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        workers += [_start(argv, launch, local=len(launches) > 1) for launch in launches]
        bad = _wait(workers)
        if bad is None:
            return max(worker.process.returncode for worker in workers)
        if -bad.process.returncode in passed:  # as was wished
            return 128 - bad.process.returncode
        return _explain(bad, workers)
    finally:
        for worker in workers:
            if worker.process.poll() is None:
                worker.process.kill()
        for number, handler in before.items():
            signal.signal(number, handler)


def _start(argv: Sequence[str], launch: Launch, *, local: bool) -> _Worker:
    out, err = os.dup(1), os.dup(2)
    about = {**asdict(launch), "parent": os.getpid(), "local": local, "out": out, "err": err}
    more = {_WORKER: json.dumps(about)}
    if local:
        more |= {"JAX_LOCAL_DEVICE_IDS": os.environ.get("JAX_LOCAL_DEVICE_IDS", str(launch.process_id))}
    process = subprocess.Popen(
        [sys.executable, "-m", "pixelthink_jax", *argv],
        env={**os.environ, **more},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        pass_fds=(out, err),
        text=True,
        errors="replace",
        start_new_session=True,
    )
    os.close(out)
    os.close(err)
    worker = _Worker(launch, process)
    worker.reader = threading.Thread(target=worker.listen, daemon=True)
    worker.reader.start()
    if launch.process_id in (None, 0) or not local:
        threading.Thread(target=worker.tell, daemon=True).start()
    return worker


def _wait(workers: Sequence[_Worker]) -> _Worker | None:
    """Waits until all have ended, or one has ended badly; returns that one."""
    while True:
        ended = [worker for worker in workers if worker.process.poll() is not None]
        bad = [worker for worker in ended if worker.process.returncode not in (0, 1)]
        if bad:
            # A process that was killed from outside comes before one that noticed.
            return min(bad, key=lambda worker: worker.process.returncode == -signal.SIGABRT)
        if len(ended) == len(workers):
            return None
        time.sleep(0.1)


def _explain(bad: _Worker, workers: Sequence[_Worker]) -> int:
    """One line about a process that ended badly, where it has not told itself; returns the exit status."""
    code = bad.process.returncode
    if code == INTERRUPTED:
        _settle(workers, seconds=5)
        return code
    if code in (2, _BROKEN):
        return 1 if code == _BROKEN else 2
    if bad.reader is not None:
        bad.reader.join(timeout=2)
    if code == -signal.SIGABRT and bad.said:
        print(f"pixelthink: error: {_told(''.join(bad.said), bad.launch)}", file=sys.stderr)
        return 1
    number = "" if bad.launch.process_id is None else f" {bad.launch.process_id} of {bad.launch.processes}"
    how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"
    print(f"pixelthink: error: process{number} {how}; {_REMEDY}", file=sys.stderr)
    return 1


def _settle(workers: Sequence[_Worker], *, seconds: float) -> None:
    end = time.monotonic() + seconds
    for worker in workers:
        with contextlib.suppress(subprocess.TimeoutExpired):
            worker.process.wait(timeout=max(end - time.monotonic(), 0.1))


def _told(text: str, launch: Launch) -> str:
    r"""What JAX's text about its abort means.

    >>> _told("E1 unhealthy (stopped sending heartbeats):\n1\nThe tasks", Launch("a:1", 2, 0)).partition(";")[0]
    'process 1 of 2 was lost: nothing was heard of it for 25 s'
    """
    if "RegisterTask" in text or "DEADLINE_EXCEEDED" in text:
        return (
            f"waited {WAIT_SECONDS} s in vain for {launch.awaited}; start the same command on every worker, and see "
            "that they reach the coordinator"
        )
    if "unhealthy" in text:
        lost = re.search(r"unhealthy[^\n]*:\n([^\n]*)", text)
        numbers = re.findall(r"(?:task:)?(\d+)(?=\s|,|$)", lost[1]) if lost else []
        which = f"process {' and '.join(numbers)}" if numbers else "another process"
        return (
            f"{which} of {launch.processes or 'this run'} was lost: nothing was heard of it for {HEARTBEAT_SECONDS} s; "
            f"{_REMEDY}"
        )
    if "coordination service" in text and "RPC" in text:
        return f"process 0, which the others meet at, was lost; {_REMEDY}"
    return f"another process failed; {_REMEDY}"


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


# One of the processes.


def _work(main: Command, args: LaunchFlags, about: dict[str, Any], reported: Reporter) -> int:
    """Joins the others and runs the command; never ends by waiting for processes that wait for this one."""
    parent, local = about.pop("parent"), about.pop("local")
    sys.stdout = os.fdopen(about.pop("out"), "w", buffering=1)
    sys.stderr = os.fdopen(about.pop("err"), "w", buffering=1)
    threading.Thread(target=_follow, args=(parent,), daemon=True).start()
    status = _BROKEN
    try:
        status = reported(lambda: _joined(main, args, Launch(**about), local=local))
    except (ValueError, RuntimeError, TimeoutError) as error:
        if _LOST.search(str(error)):
            # The runtime is about to find out which process is gone, and to end this one with a word about it.
            time.sleep(2 * HEARTBEAT_SECONDS)
        traceback.print_exc()
    finally:
        if status not in (0, 1):
            if sys.exc_info()[0] is not None:
                traceback.print_exc()
            sys.stderr.flush()
            os._exit(status)  # an orderly end would wait for the others
    return status


def _joined(main: Command, args: LaunchFlags, launch: Launch, *, local: bool) -> int:
    """The command among the others; what is printed is printed once."""
    join(launch)
    os.write(1, _MET.encode())
    import jax

    from pixelthink_jax.runtime.hosts import SharedError

    if jax.process_index() > 0:
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - until the process ends
        os.environ["TTY_COMPATIBLE"] = "0"
    try:
        status = main(args) or 0
    except InputError as error:
        if local and jax.process_index() > 0:
            if isinstance(error, SharedError):
                sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - the first process says it
            else:
                time.sleep(
                    5
                )  # most often the first process makes the same mistake, says so, and all are ended
        raise
    sys.stdout.flush()
    # Waits for the others, so that none is missed while it works.
    jax.distributed.shutdown()
    return status


def _follow(parent: int) -> None:
    """Ends this process when its supervisor is gone."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(_BROKEN)
