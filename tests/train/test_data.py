"""Runs on prepared data: a mixture's losses by source, epochs to the row, and damage by name."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from curves import curve

from scalekit import cli
from scalekit.errors import InputError
from scalekit.results.collect import collect
from scalekit.results.record import read_record
from scalekit.results.store import SweepFolder
from scalekit.sweep.spec import RunSpec
from scalekit.train.opening import KnownRows
from scalekit.train.run import train_run

pytestmark = pytest.mark.usefixtures("quick_attempts")

WORDS = {"web": "the cat and the dog ", "code": "for i in range(n): "}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two sources of bytes; the second is a third of the first."""
    root = tmp_path_factory.mktemp("data")
    for name, n_documents in (("web", 90), ("code", 30)):
        texts = [f"{n} {WORDS[name] * 2}" for n in range(n_documents)]
        (root / f"{name}.txt").write_text("\n".join(texts))
        command = ["data", "prepare", str(root / f"{name}.txt"), "-o", str(root / "all" / name)]
        command += ["--documents", "line", "--val-share", "0.3", "-w", "1"]
        assert cli.run(command) == 0
    return root / "all"


def on(root: Path, planned: Callable[..., RunSpec], **data: Any) -> RunSpec:
    base = {"source": "mixture", "path": str(root), "weights": "web=0.5, code=0.5"}
    model = {"vocab": 256}
    return planned(model=model, data={**base, "val_tokens": 160, "max_epochs": 5.0, **data})


def test_a_mixture_reports_each_source_and_their_sum(root: Path, planned, tmp_path: Path) -> None:
    folder, spec = SweepFolder(tmp_path), on(root, planned)
    assert train_run(spec, folder, device="cpu") == "done"
    record = read_record(folder.record(spec.id))
    for line in record.evals:
        sources = line["sources"]
        assert line["val_loss"] == pytest.approx(
            0.5 * sources["web"]["val_loss"] + 0.5 * sources["code"]["val_loss"], rel=1e-12
        )
        assert sources["web"]["tokens"] == sources["code"]["tokens"] == line["tokens"] / 2
        for one in (line, *sources.values()):
            # Bytes end with a token that is no byte of text: a little less than a byte a token.
            bits = one["val_loss"] / np.log(2)
            assert bits < one["val_bpb"] < 1.1 * bits
            assert one["val_sem"] > 0
    assert record.header["facts"]["sources"]["web"]["weight"] == 0.5


def test_epochs_and_unique_tokens_are_counted_to_the_row(
    root: Path, planned, tmp_path: Path
) -> None:
    folder, spec = SweepFolder(tmp_path), on(root, planned, unique_tokens=640)
    assert train_run(spec, folder, device="cpu") == "done"
    record = read_record(folder.record(spec.id))
    # 12 steps of 128 tokens are 96 rows of 16; 640 tokens are 20 rows a source.
    assert record.header["facts"]["unique_tokens"] == 640
    last = record.evals[-1]
    assert (last["unique_tokens"], last["epochs"]) == (640, 96 / 40)
    assert last["sources"]["code"]["epochs"] == 48 / 20
    first = record.evals[0]  # after step 4: 32 rows, none twice
    assert (first["unique_tokens"], first["epochs"]) == (512, 32 / 40)


def test_repetition_of_any_source_has_to_be_allowed(root: Path, planned, tmp_path: Path) -> None:
    spec = on(root, planned, max_epochs=0.5)
    with pytest.raises(InputError, match=r"data\.max_epochs: 0.5, but 1,536 training tokens"):
        train_run(spec, SweepFolder(tmp_path), device="cpu")


def test_a_row_more_than_there_is_has_to_be_allowed(root: Path, planned, tmp_path: Path) -> None:
    # 12 steps of 128 tokens are 96 rows of 16; without the token after its last row there are 95.
    for name in ("train.bin", "val.bin"):
        np.zeros(1536, dtype=np.uint16).tofile(tmp_path / name)
    spec = planned(data={"source": "shards", "path": str(tmp_path), "val_tokens": 160})
    with pytest.raises(InputError, match=r"1,536 training tokens are asked of 1,520 different"):
        train_run(spec, SweepFolder(tmp_path / "runs"), device="cpu")


def test_a_mixture_goes_on_after_a_kill_as_if_nothing_had_been(
    root: Path, planned, tmp_path: Path
) -> None:
    from deaths import Death, dying_at

    spec = on(root, planned)
    spec.config["log"]["checkpoint_steps"] = 2
    whole, killed = SweepFolder(tmp_path / "whole"), SweepFolder(tmp_path / "killed")
    assert train_run(spec, whole, device="cpu") == "done"
    with pytest.raises(Death), dying_at(60):
        train_run(spec, killed, device="cpu")
    assert train_run(spec, killed, device="cpu") == "done"
    assert len(read_record(killed.record(spec.id)).attempts) == 2
    assert curve(killed.record(spec.id)) == curve(whole.record(spec.id))


def test_waiting_for_data_stands_in_every_step_line(root: Path, planned, tmp_path: Path) -> None:
    folder, spec = SweepFolder(tmp_path), on(root, planned)
    train_run(spec, folder, device="cpu")
    steps = read_record(folder.record(spec.id)).steps
    assert 0 < sum(line["data_wait_s"] for line in steps) < steps[-1]["wall_s"]


def test_a_shard_that_ends_early_stops_the_run_by_name(root: Path, planned, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(root, tmp_path / "all")
    (shard,) = (tmp_path / "all" / "code").glob("train_*.bin")
    shard.write_bytes(shard.read_bytes()[:-10])
    with pytest.raises(InputError, match=r"train_000000\.bin has .* the file is torn"):
        train_run(on(tmp_path / "all", planned), SweepFolder(tmp_path / "runs"), device="cpu")
    assert all(p.stat().st_size == 0 for p in (tmp_path / "runs" / "runs").iterdir())


def test_a_token_out_of_the_vocabulary_stops_the_run_by_name(planned, tmp_path: Path) -> None:
    folder = SweepFolder(tmp_path / "runs")
    tokens = np.full(4000, 5, dtype=np.uint16)
    tokens.tofile(tmp_path / "val.bin")
    tokens[1000:] = 64  # the model has 0 to 63
    tokens.tofile(tmp_path / "train.bin")
    spec = planned(data={"source": "shards", "path": str(tmp_path)})
    with pytest.raises(InputError, match=r"model\.vocab: 64, but 'shards' holds token 64"):
        train_run(spec, folder, device="cpu")
    end = read_record(folder.record(spec.id)).end
    assert end is not None
    assert end["status"] == "failed"


SWEEP = """\
scalekit: 1
name: mix
base:
  model: {n_layers: 1, d_model: 16, head_dim: 16, context: 16}
  data: {source: mixture, path: all, max_epochs: 9, val_tokens: 160}
  train: {batch_tokens: 128, steps: 4}
grid: {data.weights: ["web=0.5, code=0.5", "code=0.25 web=0.75", "web=75%, code=25%"]}
"""


def sweep_lines(root: Path, tmp_path: Path, text: str, capsys) -> tuple[int, Any]:
    (tmp_path / "mix.yaml").write_text(text.replace("path: all", f"path: {root}"))
    code = cli.run(["validate", str(tmp_path / "mix.yaml"), "--format", "json"])
    return code, json.loads(capsys.readouterr().out)["files"][0]


def test_a_sweep_over_mixtures_trains_each_once_and_collects_losses_by_source(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mix.yaml").write_text(SWEEP.replace("path: all", f"path: {root}"))
    assert cli.run(["sweep", "mix.yaml", "-e", "inline", "--wait", "-y"]) == 0
    table = collect([str(tmp_path / "runs" / "mix")])
    assert list(table["data.weights"]) == ["code=0.5, web=0.5", "code=0.25, web=0.75"]
    for name in ("val_loss", "val_sem", "val_bpb", "epochs"):
        assert np.isfinite(table[f"{name}_web"].astype(float)).all()
    both = 0.25 * table["val_loss_code"][1] + 0.75 * table["val_loss_web"][1]
    assert table["loss"][1] == pytest.approx(both, rel=1e-12)
    line = json.loads((tmp_path / "runs" / "mix" / "plan.jsonl").read_text().splitlines()[0])
    assert line["config"]["model"]["vocab"] == 256


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (("web=0.5, code=0.5", "web=0.5, code=0.4"), "sum to 0.9, not 1"),
        (("web=0.5, code=0.5", "web=0.5, kode=0.5"), "'kode' is no folder"),
        (("max_epochs: 9", "max_epochs: 0.01"), "data.max_epochs allows"),
        (("max_epochs: 9", "tokenizer: tiktoken"), "the data was prepared with 'bytes'"),
    ],
)
def test_a_mixture_that_cannot_be_is_refused_before_anything_runs(
    change: tuple[str, str], says: str, root: Path, tmp_path: Path, capsys
) -> None:
    code, found = sweep_lines(root, tmp_path, SWEEP.replace(*change), capsys)
    assert code == 3
    assert any(says in problem["what"] + problem["todo"] for problem in found["problems"])


def test_data_that_hold_more_than_their_own_tokenizer_are_damaged_and_no_model_too_small() -> None:
    class Damaged:
        n_rows = 1

        def take(self, indices: np.ndarray) -> np.ndarray:
            return np.full((len(indices), 9), 60000)

    rows = KnownRows(Damaged(), 256, "shards", known=256)
    with pytest.raises(InputError, match="holds token 60000, so it is damaged; see scalekit data"):
        rows.take(np.arange(1))
