"""What is kept of compiled programs, and what is said when one is compiled again."""

import logging

import jax
import jax.numpy as jnp
import pytest
from jax.experimental.compilation_cache.compilation_cache import reset_cache

from pixelthink_jax.runtime.compiled_programs import compiled_folder, keep_compiled_programs
from pixelthink_jax.runtime.recompilation import CompileWatch

NAMES = (
    "jax_compilation_cache_dir",
    "jax_enable_compilation_cache",
    "jax_persistent_cache_min_compile_time_secs",
)


@pytest.fixture(autouse=True)
def untouched(monkeypatch, tmp_path):
    """The settings of JAX as a user has them who said nothing, and afterwards as they were."""
    before = {name: getattr(jax.config, name) for name in NAMES}
    for name, value in zip(NAMES, (None, True, 1.0), strict=True):
        jax.config.update(name, value)
    monkeypatch.delenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    reset_cache()  # the folder of the first compilation of a process would stay the one that is used
    yield
    for name, value in before.items():
        jax.config.update(name, value)
    reset_cache()


def test_accelerators_keep_programs_and_cpus_do_not(monkeypatch, tmp_path):
    assert keep_compiled_programs() is None and jax.config.jax_compilation_cache_dir is None
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert keep_compiled_programs() == str(tmp_path / "pixelthink" / "compiled") == str(compiled_folder())
    assert compiled_folder().stat().st_mode & 0o077 == 0
    assert jax.config.jax_persistent_cache_min_compile_time_secs == 0


def test_a_folder_that_is_named_is_used_on_cpus_too_and_programs_are_found_again(tmp_path):
    jax.config.update("jax_compilation_cache_dir", str(tmp_path / "mine"))
    assert keep_compiled_programs() == str(tmp_path / "mine")
    times = [3, 5]
    for _ in range(2):
        jax.jit(lambda x: x * times[0] + times[1])(jnp.ones(7)).block_until_ready()
        jax.clear_caches()
    assert list((tmp_path / "mine").glob("*-cache"))


def test_it_can_be_turned_off(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    jax.config.update("jax_enable_compilation_cache", False)
    assert keep_compiled_programs() is None and jax.config.jax_compilation_cache_dir is None


def test_one_warning_names_the_shapes_that_compiled_a_function_again(caplog):
    caplog.set_level(logging.WARNING)
    watch = CompileWatch()

    @jax.jit
    def softened(tree):
        return jnp.tanh(tree["tokens"] + 1.5) @ tree["weights"]

    @jax.jit
    def another(tree):
        return tree["tokens"].sum()

    def run(step, time, function=softened):
        tree = {"tokens": jnp.ones((2, time)), "weights": jnp.ones((time, 3))}
        with watch("update", step, tree):
            function(tree)

    for step, time in enumerate([4, 4, 6, 6, 4, 8], start=1):
        run(step, time)
    run(7, 4, another)  # compiled for the first time, which is not again
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 2
    assert (
        said[0] == "step 3: update compiled again (softened) with tokens float32[2, 6], weights float32[6, 3]"
    )
    assert "step 6" in said[1] and "float32[2, 8]" in said[1]
    caplog.clear()
    tree = {"tokens": jnp.ones((2, 4)), "weights": jnp.ones((4, 3))}
    softened.clear_cache()
    with watch("update", 8, tree):
        softened(tree)
    assert caplog.records[0].getMessage().endswith("though the shapes of its arrays have been there before")
