"""Several processes over one mesh: the same numbers as one, files written once, lost processes told of, exact resume.

The processes are commands of their own, as on several machines; what they are compared with runs in this one.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import yaml

from pixelthink_jax.commands.segment import Args as SegmentArgs
from pixelthink_jax.commands.segment import main as segment_command
from pixelthink_jax.config import load_config
from pixelthink_jax.evaluation.config import EvalConfig
from pixelthink_jax.evaluation.run import evaluate
from pixelthink_jax.grpo import TrainConfig, train
from pixelthink_jax.runtime.run_log import read_log
from tests.evaluation.tiny import tiny_policy, tiny_segmenter

pytestmark = pytest.mark.timeout(600)
ROOT = Path(__file__).parents[2]
STEPS = 6
TIMED = ("seconds/", "tokens_per_second", "update_tflops_per_second")
ONE_DEVICE = "--xla_force_host_platform_device_count=1 --xla_backend_optimization_level=0"
ANSWER = '<think>a</think><answer>{"bbox": [90, 80, 700, 600], "points_1": [200, 200], "points_2": [300, 400]}</answer>'


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Models and configs, and the environment of the processes: one device each, one cache of programs for all."""
    folder = tmp_path_factory.mktemp("hosts")
    tiny_policy().export(folder / "policy")
    tiny_segmenter().export(folder / "segmenter")
    settings = {
        "out": "unused",
        "policy": str(folder / "policy"),
        "data": {"split": "tuning"},
        "reward": {"budget": {"kind": "constant", "length": 4}, "length_unit": "response_tokens"},
        "custom_rewards": [{"function": "tests.multihost.slow_reward:vowels"}],
        "sampling": {"max_new_tokens": 12},
        "optim": {"learning_rate": 3e-3},
        "steps": STEPS,
        "prompts_per_step": 4,
        "group_size": 3,
        "unroll": True,
        "evaluation": {
            "every": 3,
            "segmenter": None,
            "data": {"split": "validation", "examples": 3},
            "generation": {"max_new_tokens": 8, "batch_size": 2},
        },
        "samples_every": 1,
        "checkpoint_every": 1,
        "mesh": {"data": 1, "fsdp": -1},
    }
    (folder / "train.yaml").write_text(yaml.safe_dump(settings))
    questions = {
        "policy": str(folder / "policy"),
        "segmenter": str(folder / "segmenter"),
        "data": {"split": "tuning", "examples": 7},
        "generation": {
            "max_new_tokens": 64,
            "batch_size": 4,
            "batches_in_flight": 1,
            "completion_prefix": ANSWER,
        },
    }
    (folder / "evaluate.yaml").write_text(yaml.safe_dump(questions))
    return folder


@cache
def quick_to_compile():
    """Flags for programs that run a few times: on CPUs only the first process finds compiled ones on the disk again."""
    # Half of the time to compile; an XLA that does not know the flag ends the process.
    quicker = f"{ONE_DEVICE} --xla_cpu_use_fusion_emitters=false"
    environ = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": quicker}
    tried = [sys.executable, "-c", "import jax; jax.devices()"]
    known = subprocess.run(tried, env=environ, capture_output=True, check=False).returncode == 0
    return quicker if known else ONE_DEVICE


def command(place, *words, **variables):
    """A started command; its stderr is kept in a file, its stdout with it."""
    log = (place / f"log{len(list(place.glob('log*')))}").open("w+")
    environ = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)]),
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": quick_to_compile(),
        "JAX_COMPILATION_CACHE_DIR": str(place / "programs"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        **variables,
    }
    words = [sys.executable, "-m", "pixelthink_jax", *map(str, words)]
    started = subprocess.Popen(words, cwd=ROOT, env=environ, stdout=log, stderr=subprocess.STDOUT)
    started.log = log
    return started


def end_of(started, *, within=150):
    """Exit status and what was said."""
    try:
        status = started.wait(timeout=within)
    finally:
        started.kill()
    with started.log as log:
        log.seek(0)
        return status, log.read()


def pair(place, out, *more):
    """Two commands as on two machines, which meet at a port of this one."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        meeting = f"127.0.0.1:{listener.getsockname()[1]}"
    words = ("train", "--config", place / "train.yaml", "--out", out, *more)
    variables = {"JAX_COORDINATOR_ADDRESS": meeting, "JAX_NUM_PROCESSES": "2"}
    return [command(place, *words, **variables, JAX_PROCESS_ID=str(i)) for i in range(2)]


def wait_for_step(out, step, *, within=120):
    end = time.monotonic() + within
    while not read_log(out) or read_log(out)[-1]["step"] < step:
        assert time.monotonic() < end, f"{out}: step {step} did not come"
        time.sleep(0.05)


def worker_of(started):
    return int(Path(f"/proc/{started.pid}/task/{started.pid}/children").read_text().split()[0])


def untimed(rows):
    return [{k: v for k, v in row.items() if not k.startswith(TIMED)} for row in rows]


def completions(out):
    return [json.loads(line) for line in (Path(out) / "completions.jsonl").read_text().splitlines()]


def same(found, expected):
    """Metrics agree to 1e-5; a mean difference of nearly equal log-probabilities does on their scale, which is one."""
    for mine, theirs in zip(untimed(found), untimed(expected), strict=True):
        assert mine.keys() == theirs.keys()
        for name, value in theirs.items():
            assert mine[name] == pytest.approx(value, rel=1e-5, abs=1e-6), (mine["step"], name)


@pytest.fixture(scope="module")
def waiting(place):
    """One of two processes, the other of which never comes; it waits while other tests run."""
    words = ("--processes", "2", "--process-id", "1", "--coordinator", "127.0.0.1:9")
    started = command(place, "evaluate", "--config", place / "evaluate.yaml", *words)
    started.begun = time.monotonic()
    yield started
    started.kill()


@pytest.fixture(scope="module")
def begun(place):
    """The run in two processes, which goes on while the one of `alone` does."""
    return pair(place, place / "together")


@pytest.fixture(scope="module")
def alone(place, begun):
    """The run in one process, on one device."""
    config = replace(load_config(TrainConfig, place / "train.yaml"), out=str(place / "alone"), mesh=None)
    train(config)
    return Path(config.out)


@pytest.fixture(scope="module")
def together(place, begun):
    """The run in two processes, whole."""
    ends = [end_of(run) for run in begun]
    assert [status for status, _ in ends] == [0, 0], ends
    assert f"trained for {STEPS} of {STEPS} steps" in ends[0][1]
    assert ends[1][1] == ""
    return place / "together"


def test_two_processes_make_the_run_of_one(alone, together):
    same(read_log(together), read_log(alone))
    drawn = [[(row["step"], row["id"], row["text"]) for row in completions(out)] for out in (together, alone)]
    assert drawn[0] == drawn[1]
    assert len(drawn[0]) == STEPS * 4 * 3
    assert (together / "policy" / "model.safetensors").is_file()


def told_to_stop(started, out):
    """How a run ended whose first process was told to stop after one more step, and the step it came to."""
    wait_for_step(out, read_log(out)[-1]["step"] + 1)
    os.kill(worker_of(started), signal.SIGTERM)
    return *end_of(started), read_log(out)[-1]["step"]


def test_a_killed_process_ends_the_other_in_one_line_and_the_run_continues_bit_for_bit(
    place, alone, together
):
    out, spread = place / "killed", place / "spread"
    words = ("train", "--config", place / "train.yaml", "--out")
    runs = pair(place, out)
    wait_for_step(out, 2)
    os.kill(worker_of(runs[1]), signal.SIGKILL)
    killed = time.monotonic()
    # While the other finds out, the run continues on another mesh, in four processes, until one is told to stop.
    shutil.copytree(out, spread, ignore=shutil.ignore_patterns("*orbax-checkpoint-tmp*"))
    with ThreadPoolExecutor() as pool:
        stopped = pool.submit(told_to_stop, command(place, *words, spread, "--processes", "4"), spread)
        status, said = end_of(runs[0], within=60)
        assert time.monotonic() - killed < 60
        assert status == 1, said
        assert said.splitlines()[-1].startswith("pixelthink: error: process 1 of 2 was lost"), said
        assert len(said.splitlines()) == 1, said
        status, said = end_of(runs[1], within=10)
        assert (status, "process 1 of 2 was ended by SIGKILL" in said) == (1, True), said
        assert read_log(out)[-1]["step"] < STEPS
        status, said, step = stopped.result()
    assert status == 130, said
    assert f"interrupted; the same command continues; trained for {step} of {STEPS} steps" in said
    assert step < STEPS
    assert max(int(path.name) for path in (spread / "checkpoints").iterdir()) == step
    # From there on one device, and from where it was killed on the same mesh.
    rest = command(place, *words, out, "--processes", "2")
    moved = replace(load_config(TrainConfig, place / "train.yaml"), out=str(spread), mesh=None)
    same(train(moved).history, read_log(alone))
    status, said = end_of(rest)
    assert status == 0, said
    assert untimed(read_log(out)) == untimed(read_log(together))
    assert completions(out) == completions(together)
    files = [(each / "policy" / "model.safetensors").read_bytes() for each in (out, together)]
    assert files[0] == files[1]


def test_a_dry_run_tells_of_every_process_and_leaves_nothing(place):
    rehearsal = ("train", "--config", place / "train.yaml", "--out", place / "new" / "run", "--dry-run")
    status, said = end_of(command(place, *rehearsal, "--processes", "2"))
    assert status == 0, said
    begun = [line.split(":")[0].split() for line in said.splitlines()]
    assert [words[:2] for words in begun[:2]] == [["process", "0"], ["process", "1"]], said
    assert [words[0] for words in begun[2:5]] == ["checkpoint", "row", "first"], said
    assert not (place / "new").exists()


@pytest.mark.usefixtures("waiting")
def test_four_processes_finish_an_evaluation_that_one_began(place):
    config = replace(load_config(EvalConfig, place / "evaluate.yaml"), out=str(place / "evaluated"))
    evaluate(config)
    rows = [json.loads(line) for line in (place / "evaluated" / "rows_free.jsonl").read_text().splitlines()]
    assert any(row["mask_pixels"] for row in rows)
    begun = place / "begun"
    begun.mkdir()
    shutil.copy(place / "evaluated" / "evaluation.json", begun)
    kept = "".join(json.dumps(row | {"id": f"kept {row['id']}"}) + "\n" for row in rows[:3])
    (begun / "rows_free.unfinished.jsonl").write_text(kept)
    # Pixels are compared one by one, so with the kernels of this process.
    words = ("evaluate", "--config", place / "evaluate.yaml", "--out", begun, "--processes", "4")
    status, said = end_of(command(place, *words, XLA_FLAGS=ONE_DEVICE))
    assert status == 0, said
    assert said.count("rows, summary.json, table.md and report.html are in") == 1
    found = [json.loads(line) for line in (begun / "rows_free.jsonl").read_text().splitlines()]
    ids = [f"kept {row['id']}" if i < 3 else row["id"] for i, row in enumerate(rows)]
    assert [row["id"] for row in found] == ids
    for mine, theirs in zip(found, rows, strict=True):
        for name in theirs.keys() - {"id", "seconds", "decode_slots", "uncertainty", "mask_score"}:
            assert mine[name] == theirs[name], name
        assert mine["mask_score"] == pytest.approx(theirs["mask_score"], abs=1e-5)


def test_two_processes_answer_the_rows_of_a_file(place):
    from PIL import Image

    rng = np.random.default_rng(0)
    lines = []
    for number in range(3):
        Image.fromarray(rng.integers(0, 256, (56, 56, 3), dtype=np.uint8)).save(place / f"{number}.png")
        lines.append({"id": f"row{number}", "image": f"{number}.png", "query": "the red circle"})
    lines.append({"id": "absent", "image": "absent.png", "query": "the red circle"})
    (place / "rows.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    words = {"policy": place / "policy", "segmenter": place / "segmenter", "rows": place / "rows.jsonl"}
    flags = [word for name, value in words.items() for word in (f"--{name}", value)]
    status, said = end_of(
        command(place, "segment", *flags, "--max-new-tokens", "8", "--out", place / "two", "--processes", "2")
    )
    assert status == 1, said  # one row failed
    assert "3 answered (3 without a usable answer), 1 failed" in said
    assert said.count("absent: ") == 1
    assert segment_command(SegmentArgs(**words, max_new_tokens=8, out=place / "one")) == 1
    for number in range(3):
        found = [
            json.loads((place / out / f"row{number}" / "result.json").read_text()) for out in ("one", "two")
        ]
        for result in found:
            result.pop("seconds")
        assert found[0].pop("uncertainty") == pytest.approx(found[1].pop("uncertainty"), abs=1e-5)
        assert found[0] == found[1]


def test_a_mistake_of_every_process_is_said_once(place):
    config = yaml.safe_load((place / "evaluate.yaml").read_text()) | {"mesh": {"data": 3}}
    (place / "three.yaml").write_text(yaml.safe_dump(config))
    status, said = end_of(command(place, "evaluate", "--config", place / "three.yaml", "--processes", "2"))
    assert status == 2
    assert said.splitlines() == [
        "pixelthink: error: mesh: data 3 x fsdp 1 x tensor 1 is 3 chips, there are 2; set one axis to -1"
    ]


def test_a_start_up_says_what_it_waits_for_and_ends_when_told(waiting):
    time.sleep(max(0, 20 - (time.monotonic() - waiting.begun)))
    waiting.terminate()
    status, said = end_of(waiting, within=10)
    assert status == 128 + signal.SIGTERM
    lines = said.splitlines()
    notice = "pixelthink: waiting for 2 processes to meet at 127.0.0.1:9, of which this is number 1 ("
    assert lines[0].startswith(notice + "15 s so far")
    assert "--worker=all" in lines[0]
    # One more a minute, where the tests beside it take so long.
    assert all(line.startswith(notice) for line in lines)
    assert len(lines) <= 1 + (time.monotonic() - waiting.begun) // 60
