"""Loggers: every member shows a run, none can stop one, and none changes what a run is."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Mapping
from contextvars import ContextVar
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from scalekit import registry
from scalekit.importers.base import Source
from scalekit.loggers.base import Logger, Shown
from scalekit.results.record import SCHEMA
from scalekit.results.store import SweepFolder
from scalekit.sweep.identity import config_id
from scalekit.sweep.spec import RunConfig, RunSpec
from scalekit.train.live import LiveRecord, open_record

MEMBERS = registry.names("loggers")


def planned(live: str | None) -> RunSpec:
    config = RunConfig.model_validate({"model": {"d_model": 16}, "log": {"live": live}})
    return RunSpec("0123456789", config.model_dump(), {}, {})


def write_run(folder: SweepFolder, spec: RunSpec, report: list[str], end: str | None) -> bytes:
    """Write a record with three steps and an evaluation as a trainer does; return its bytes."""
    with open_record(folder, spec, report.append) as record:
        record.write("run", schema=SCHEMA, id=spec.id, config={}, plan={})
        record.write("attempt", n=1, resumed_from=0)
        for step in (1, 2, 3):
            record.write("step", step=step, tokens=128 * step, loss=4.0 / step, lr=1e-3)
        record.write("eval", step=3, val_loss=1.5, val_sem=None)
        if end is not None:
            record.write("end", status=end, attempts=1)
    return folder.record(spec.id).read_bytes()


# --- The contract of the family.


@pytest.mark.parametrize("name", MEMBERS)
def test_importing_a_member_needs_no_package_and_it_names_the_one_it_opens_with(name: str) -> None:
    member = registry.find("loggers", name)
    assert isinstance(member, Logger)
    assert member.name == name
    extras = Path(__file__).parents[2] / "pyproject.toml"
    if extras.is_file():
        assert f'"{member.package}>=' in extras.read_text()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("name", MEMBERS)
def test_a_member_shows_a_run_and_goes_on_with_it(name: str, tmp_path: Path, monkeypatch) -> None:
    member = registry.find("loggers", name)
    if importlib.util.find_spec(member.package) is None:
        pytest.skip(f"{member.package} is not installed")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.delenv("TRACKIO_SPACE_ID", raising=False)
    monkeypatch.delenv("TRACKIO_DIR", raising=False)
    shown = Shown("0123456789", "demo", {"model": {"d_model": 16}}, tmp_path / "live")
    for status in ("stopped", "done"):
        sink = member.open(shown)
        sink.log(1, {"loss": 4.0, "tokens": 128})
        sink.log(2, {"loss": 2.0, "tokens": 256})
        sink.close(status)
    assert any(path.is_file() for path in shown.folder.rglob("*"))


class _Wandb(ModuleType):
    """Stands in for W&B: a run that goes on is given again, unless a new one is asked for."""

    def __init__(self) -> None:
        super().__init__("wandb")
        self.runs: list[SimpleNamespace] = []

    def Settings(self, **_: Any) -> None: ...  # noqa: N802

    def init(self, *, id: str, project: str, reinit: str = "default", **_: Any) -> SimpleNamespace:
        if len(project) > 128 or any(sign in project for sign in "/\\#?%:"):
            raise ValueError(f"invalid project name {project!r}")
        if self.runs and reinit != "create_new":
            return self.runs[-1]
        run = SimpleNamespace(id=id, project=project, rows=[], summary={})
        run.define_metric = run.finish = lambda *_, **__: None
        run.log = run.rows.append
        self.runs.append(run)
        return run


class _Trackio(ModuleType):
    """Stands in for trackio: one run a context, which the next one there ends."""

    def __init__(self) -> None:
        super().__init__("trackio")
        self.runs: list[SimpleNamespace] = []
        self.current: ContextVar[Any] = ContextVar("current", default=None)

    def init(self, *, name: str, **_: Any) -> None:
        self.runs.append(SimpleNamespace(id=name, rows=[]))
        self.current.set(self.runs[-1])

    def log(self, values: dict[str, float], step: int) -> None:
        self.current.get().rows.append({"step": step, **values})

    def finish(self) -> None:
        assert self.current.get() is not None
        self.current.set(None)


@pytest.mark.parametrize("service", [_Wandb, _Trackio])
def test_runs_that_one_process_trains_are_shown_apart(service, tmp_path: Path, monkeypatch) -> None:
    module = service()
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path))
    member = registry.find("loggers", module.__name__)
    sinks = {run: member.open(Shown(run, "demo", {}, tmp_path)) for run in ("first", "second")}
    for step, (run, sink) in enumerate(sinks.items()):
        sink.log(step, {"loss": float(len(run))})
    for sink in sinks.values():
        sink.close("done")
    assert {run.id: run.rows for run in module.runs} == {
        "first": [{"step": 0, "loss": 5.0}],
        "second": [{"step": 1, "loss": 6.0}],
    }


@pytest.mark.parametrize(
    ("folder", "project"),
    [("größe 2", "größe 2"), ("lr: 50% #2?", "lr- 50- -2-"), ("x" * 200, "x" * 128)],
)
def test_a_sweep_with_any_name_has_a_project_of_w_and_b(
    tmp_path: Path, monkeypatch, folder: str, project: str
) -> None:
    module = _Wandb()
    monkeypatch.setitem(sys.modules, "wandb", module)
    registry.find("loggers", "wandb").open(Shown("first", folder, {}, tmp_path)).close("done")
    assert [run.project for run in module.runs] == [project]


# --- What a run shows.


def test_what_tensorboard_was_shown_is_read_back_as_it_stands_in_the_record(tmp_path: Path) -> None:
    told: list[str] = []
    folder, spec = SweepFolder(tmp_path / "demo"), planned("tensorboard")
    write_run(folder, spec, told, "done")
    assert told == []
    (path,) = (folder.live("tensorboard") / spec.id).iterdir()
    importer = registry.find("importers", "tensorboard")
    source = Source(path)
    assert importer.recognise(source)
    columns = importer.read([source], set()).columns
    steps = [int(step) for step in columns["step"]]
    losses = dict(zip(steps, columns["loss"], strict=True))
    # Event files hold float32.
    assert [losses[k] for k in (1, 2, 3)] == pytest.approx([4.0, 2.0, 4.0 / 3], rel=1e-7)
    assert list(columns["val_loss"])[steps.index(3)] == 1.5


class Kept:
    """A sink that keeps what it is told."""

    def __init__(self, shown: Shown) -> None:
        self.shown, self.rows, self.ended = shown, [], ""
        self.broken = ""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        if self.broken == "log" and step == 2:
            raise RuntimeError("no route to host")
        self.rows.append((step, dict(values)))

    def close(self, status: str) -> None:
        if self.broken == "close":
            raise RuntimeError("no route to host")
        self.ended = status


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch) -> list[Kept]:
    """Put a sink that keeps in the place of wandb."""
    opened: list[Kept] = []

    def open_sink(shown: Shown) -> Kept:
        sys.stdout.write("welcome to a service\n")
        opened.append(Kept(shown))
        return opened[-1]

    member = Logger("wandb", "wandb", open_sink)
    monkeypatch.setattr("scalekit.loggers.wandb.LOGGER", member)
    return opened


@pytest.mark.parametrize("end", ["done", "failed", None])
def test_lines_are_shown_as_they_are_written(
    kept: list[Kept], tmp_path: Path, capsys, end: str | None
) -> None:
    spec = planned("wandb")
    write_run(SweepFolder(tmp_path / "demo"), spec, [], end)
    (sink,) = kept
    assert (sink.shown.id, sink.shown.sweep) == (spec.id, "demo")
    assert sink.shown.config == spec.config
    assert sink.rows == [
        (1, {"tokens": 128, "loss": 4.0, "lr": 1e-3}),
        (2, {"tokens": 256, "loss": 2.0, "lr": 1e-3}),
        (3, {"tokens": 384, "loss": 4.0 / 3, "lr": 1e-3}),
        (3, {"val_loss": 1.5}),
    ]
    assert sink.ended == (end or "stopped")
    # Stdout carries results; what a service has to say is not one.
    assert capsys.readouterr() == ("", "welcome to a service\n")


# --- What can go wrong: everything but the run.


@pytest.mark.parametrize("broken", ["open", "log", "close"])
def test_a_logger_that_fails_is_reported_once_and_the_record_is_the_same(
    kept: list[Kept], tmp_path: Path, monkeypatch, broken: str
) -> None:
    def open_broken(shown: Shown) -> Kept:
        if broken == "open":
            raise RuntimeError("no route to host")
        sink = Kept(shown)
        sink.broken = broken
        kept.append(sink)
        return sink

    monkeypatch.setattr("scalekit.loggers.wandb.LOGGER", Logger("wandb", "wandb", open_broken))
    told: list[str] = []
    spec = planned("wandb, tensorboard")
    with_it = write_run(SweepFolder(tmp_path / "a"), spec, told, "done")
    without = write_run(SweepFolder(tmp_path / "b"), planned(None), [], "done")
    assert with_it == without
    assert told == ["logger 'wandb': RuntimeError: no route to host; the run goes on without it"]
    if broken == "log":
        assert [step for step, _ in kept[0].rows] == [1]
    # The other one is not disturbed.
    assert any((SweepFolder(tmp_path / "a").live("tensorboard") / spec.id).iterdir())


def test_a_package_that_is_missing_is_reported_and_passed_over(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard.compat.proto.event_pb2", None)
    told: list[str] = []
    write_run(SweepFolder(tmp_path), planned("tensorboard"), told, "done")
    (line,) = told
    assert line.startswith("logger 'tensorboard': ModuleNotFoundError: ")


def test_a_run_that_is_refused_before_its_first_attempt_shows_nothing(
    kept: list[Kept], tmp_path: Path
) -> None:
    with open_record(SweepFolder(tmp_path), planned("wandb"), print) as record:
        record.write("run", schema=SCHEMA)
    assert kept == []


def test_without_loggers_the_record_is_the_plain_one(tmp_path: Path) -> None:
    record = open_record(SweepFolder(tmp_path), planned(None), print)
    assert not isinstance(record, LiveRecord)


def test_loggers_do_not_enter_a_runs_id() -> None:
    assert config_id(planned("wandb").config) == config_id(planned(None).config)


def test_a_logger_that_does_not_exist_is_refused_when_the_sweep_is_planned(
    tmp_path: Path, capsys
) -> None:
    from scalekit import cli

    text = {
        "scalekit": 1,
        "name": "demo",
        "base": {
            "model": {"n_layers": 1, "d_model": 32, "head_dim": 16},
            "data": {"source": "synthetic"},
            "train": {"steps": 2},
            "log": {"live": "tensorbord"},
        },
    }
    path = tmp_path / "demo.yaml"
    path.write_text(json.dumps(text))
    assert cli.run(["sweep", str(path), "-n"]) == 3
    err: Any = capsys.readouterr().err
    assert "logger 'tensorbord' is unknown" in err
    assert "did you mean 'tensorboard'?" in err
