"""Joining the processes of a run: who they are, by flags, environment or cluster.

The engine is `jax.distributed`. It finds the other processes by itself on Cloud TPU, under Slurm and under Open MPI;
elsewhere they are named by `--coordinator HOST:PORT --processes N --process-id I` or by the variables
`JAX_COORDINATOR_ADDRESS`, `JAX_NUM_PROCESSES` and `JAX_PROCESS_ID`.
"""

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pixelthink_jax.errors import InputError

HEARTBEAT_SECONDS = 25
"""A process that has not been heard of for so long is lost, and the others end."""
WAIT_SECONDS = 300
"""A start-up that has not found all processes by then ends."""


@dataclass(frozen=True)
class Launch:
    """How this process joins the others; None is found by JAX.

    Attributes:
        coordinator: `HOST:PORT` of process 0.
        processes: How many there are.
        process_id: Number of this one.
    """

    coordinator: str | None = None
    processes: int | None = None
    process_id: int | None = None

    @property
    def awaited(self) -> str:
        """What a start-up waits for.

        >>> Launch("host0:8476", 4, 1).awaited
        '4 processes to meet at host0:8476, of which this is number 1'
        """
        if self.coordinator is None or self.processes is None:
            return "the other processes of this cluster"
        return f"{self.processes} processes to meet at {self.coordinator}, of which this is number {self.process_id}"


def find_launch(given: Launch, environ: Mapping[str, str]) -> Launch | None:
    """How a command joins others; None where it is alone.

    Args:
        given: What flags say.
        environ: The environment; flags go before it.

    Raises:
        InputError: Some of coordinator, number of processes and number of this one are missing, or do not fit.

    >>> find_launch(Launch(), {})
    >>> find_launch(Launch(process_id=1), {"JAX_COORDINATOR_ADDRESS": "a:1", "JAX_NUM_PROCESSES": "2"})
    Launch(coordinator='a:1', processes=2, process_id=1)
    >>> find_launch(Launch(coordinator="a:1"), {})
    Traceback (most recent call last):
    ...
    pixelthink_jax.errors.InputError: --coordinator a:1: --processes and --process-id are missing; give all three, \
    or none where the cluster is found by itself (Cloud TPU, Slurm, Open MPI)
    """
    if given.processes == 1:
        return None
    launch = Launch(
        given.coordinator or environ.get("JAX_COORDINATOR_ADDRESS"),
        _number(given.processes, "JAX_NUM_PROCESSES", environ),
        _number(given.process_id, "JAX_PROCESS_ID", environ),
    )
    if launch.coordinator is None and launch.process_id is None:
        return Launch() if _in_cluster(environ) else None
    missing = [
        name
        for name, value in (
            ("--coordinator", launch.coordinator),
            ("--processes", launch.processes),
            ("--process-id", launch.process_id),
        )
        if value is None
    ]
    if missing and _in_cluster(environ):
        return launch
    where = (
        f"--coordinator {launch.coordinator}" if launch.coordinator else f"--process-id {launch.process_id}"
    )
    if missing:
        raise InputError(
            f"{where}: {' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing; give all three, or none "
            "where the cluster is found by itself (Cloud TPU, Slurm, Open MPI)"
        )
    assert launch.coordinator is not None and launch.processes is not None and launch.process_id is not None
    if not launch.coordinator.rpartition(":")[2].isdigit():
        raise InputError(f"--coordinator {launch.coordinator}: expected HOST:PORT, such as 10.0.0.2:8476")
    if not 0 <= launch.process_id < launch.processes:
        raise InputError(
            f"--process-id {launch.process_id}: expected 0 to {launch.processes - 1} with --processes "
            f"{launch.processes}"
        )
    return None if launch.processes == 1 else launch


def join(launch: Launch) -> None:
    """Meets the other processes; nothing in this process runs until they are all there.

    If they do not come within `WAIT_SECONDS`, or one is lost later, JAX ends this process by a signal.

    Raises:
        InputError: JAX cannot tell where the others are.
    """
    import jax

    # Its handler would take SIGTERM from the commands, which end or stop by it themselves.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        jax.distributed.initialize(
            launch.coordinator,
            launch.processes,
            launch.process_id,
            initialization_timeout=WAIT_SECONDS,
            heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
        )
    except (ValueError, RuntimeError) as error:
        raise InputError(
            f"the processes of this run cannot be found ({' '.join(str(error).split()):.200}); give --coordinator "
            "HOST:PORT, --processes and --process-id, or --processes 1 to run alone"
        ) from error
    # The devices are counted at the first look, and every process has to look.
    jax.device_count()


def _number(flag: int | None, name: str, environ: Mapping[str, str]) -> int | None:
    if flag is not None or name not in environ:
        return flag
    if not environ[name].isdigit():
        raise InputError(f"{name}={environ[name]}: expected a number")
    return int(environ[name])


def _in_cluster(environ: Mapping[str, str]) -> bool:
    """Whether JAX can find the other processes by itself."""
    if int(environ.get("SLURM_STEP_NUM_TASKS", "1")) > 1 or int(environ.get("OMPI_COMM_WORLD_SIZE", "1")) > 1:
        return True
    if environ.get("JAX_PLATFORMS", "tpu").partition(",")[0] != "tpu":
        return False
    chips = Path("/dev/accel0").exists() or any(Path("/dev").glob("vfio/[0-9]*"))
    return chips and importlib.util.find_spec("libtpu") is not None
