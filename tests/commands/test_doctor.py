"""`pixelthink doctor`: findings, and a status that says whether the package can work."""

import json
from pathlib import Path

import pytest

from pixelthink_jax.commands import _first_row, doctor


def test_reports_versions_devices_and_memory(capsys):
    assert doctor.main(doctor.Args(json=True)) == 0
    findings = {row["what"]: row for row in json.loads(capsys.readouterr().out)}
    assert findings["jax"]["state"] == findings["flax"]["state"] == "ok"
    assert findings["device 0"]["says"].startswith("cpu")
    assert findings["process"]["says"].startswith("0 of 1")
    assert findings["computation"]["says"].endswith("4096")
    assert "GiB" in findings["host"]["says"]
    assert {"pixelthink-tiny", "sam2-tiny-shapes", "HF_HOME"} <= set(findings)


def test_lines_begin_with_the_state(capsys):
    doctor.main(doctor.Args())
    assert all(line.split()[0] in ("ok", "warn", "fail") for line in capsys.readouterr().out.splitlines())


def test_a_missing_library_is_a_warning_or_a_failure_with_a_remedy():
    assert doctor._library("no_such_module", "grain", "reading").state == "warn"
    finding = doctor._library("no_such_module", "jax", "")
    assert finding.state == "fail"
    assert "No module named" in finding.says and "pip install" in finding.says


def test_a_missing_library_that_everything_needs_sets_the_status(monkeypatch, capsys):
    monkeypatch.setattr(doctor, "_LIBRARIES", (("no_such_module", "jax", ""),))
    assert doctor.main(doctor.Args()) == 1
    assert "fail" in capsys.readouterr().out


def test_a_cache_that_cannot_be_written_is_a_warning(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(doctor.os, "access", lambda path, mode: False)
    assert doctor._cache("HF_HOME", "", "models").state == "warn"


@pytest.mark.parametrize("name", ["tiny", "sft_tiny", "eval_shapereason"])
def test_a_row_of_each_kind_of_config_is_read(name):
    assert "pixels" in _first_row.try_row(Path(__file__).parents[2] / "configs" / f"{name}.yaml")


def test_data_that_is_not_there_is_a_finding_with_status_1(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(doctor, "examine", lambda: iter(()))
    (tmp_path / "run.yaml").write_text("out: x\ndata: {name: jsonl, path: gone.jsonl}\n")
    assert doctor.main(doctor.Args(config=tmp_path / "run.yaml")) == 1
    assert capsys.readouterr().out.startswith("fail  row of data")
