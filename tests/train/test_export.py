"""Export: other libraries compute our logits from it, or it is refused with what would do."""

from __future__ import annotations

import importlib.util
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from curves import all_files, write_plan
from llama import logits_of
from safetensors.torch import load_file
from torch import Tensor

from scalekit import cli, registry
from scalekit.models.base import LanguageModel, build_seeded
from scalekit.results.store import SweepFolder
from scalekit.results.table import file_hash
from scalekit.sweep.spec import ModelSpec, RunSpec
from scalekit.tokenizers.bytes import Bytes
from scalekit.train.run import train_run
from scalekit.train.weights import load_weights, newest_weights, save_weights

GATED = {"mlp": "swiglu", "qk_norm": False}
SHAPES: dict[str, dict[str, Any]] = {
    "as Llama": GATED,
    "tied": {**GATED, "tied": True},
    "grouped queries, another base of rotation": {**GATED, "n_kv_heads": 1, "rope_theta": 500.0},
    "heads wider than the stream": {**GATED, "n_heads": 3, "n_kv_heads": 3, "head_dim": 8},
    "as Qwen3, by the norm on queries and keys": {"mlp": "swiglu", "qk_norm": True},
    "muP": {**GATED, "parametrization": "mup", "base_width": 6},
    "CompleteP, deeper than its base": {
        **GATED,
        "n_layers": 3,
        "parametrization": "completep",
        "base_width": 6,
        "base_depth": 1,
    },
    "a squared relu, gated by itself": {"mlp": "relu2", "qk_norm": False},
    "muP, tied": {**GATED, "tied": True, "parametrization": "mup", "base_width": 6},
}

TOKENS = torch.randint(0, 64, (3, 16), generator=torch.Generator().manual_seed(5))


def check_equal(theirs: Tensor, ours: Tensor) -> None:
    """Ours is float32: rounding of 1e-7 an operation, over some tens of them, on logits near 1."""
    torch.testing.assert_close(theirs.float(), ours, rtol=0.0, atol=2e-5)


def random_run(planned: Callable[..., RunSpec], root: Path, model: dict[str, Any]) -> Any:
    """Plan a run and keep weights in which no two gains are equal; return it with its model."""
    spec = planned(model=model)
    folder = write_plan(root / "sweep", spec)
    made = build_seeded(registry.find("models", "gpt"), spec.config["model"], 1)
    with torch.no_grad():
        for parameter in made.parameters():
            if parameter.ndim == 1:
                parameter.uniform_(0.5, 1.5)
    save_weights(folder.weights(spec.id), spec.id, int(spec.plan["steps"]), made.state_dict())
    return spec, folder, made


def our_logits(model: LanguageModel) -> Tensor:
    with torch.no_grad():
        return model(TOKENS)


def export(folder: SweepFolder, spec: RunSpec, out: Path) -> int:
    return cli.run(["export", str(folder.root), spec.id, "-o", str(out)])


@pytest.mark.parametrize("model", SHAPES.values(), ids=SHAPES)
def test_the_documented_forward_gives_our_logits_from_the_exported_folder(
    planned, tmp_path: Path, model: dict[str, Any]
) -> None:
    spec, folder, made = random_run(planned, tmp_path, model)
    out = tmp_path / "out"
    assert export(folder, spec, out) == 0
    ours, theirs = our_logits(made), logits_of(out, TOKENS)
    assert ours.std() > 0.1  # two silent models would agree too
    check_equal(theirs, ours)


def test_who_may_read_one_exported_file_may_read_them_all(planned, tmp_path: Path) -> None:
    spec, folder, _ = random_run(planned, tmp_path, GATED)
    out = tmp_path / "out"
    assert export(folder, spec, out) == 0
    assert len({path.stat().st_mode for path in out.iterdir()}) == 1


def test_rotations_and_gains_that_are_not_reordered_are_seen(planned, tmp_path: Path) -> None:
    """The check above must fail where the export forgets what it is there for."""
    spec, folder, made = random_run(
        planned, tmp_path, SHAPES["as Qwen3, by the norm on queries and keys"]
    )
    out = tmp_path / "out"
    assert export(folder, spec, out) == 0
    from safetensors.torch import save_file

    right = load_file(out / "model.safetensors")
    for name in ("self_attn.q_proj", "self_attn.q_norm"):
        key = f"model.layers.0.{name}.weight"
        wrong = right[key].unflatten(0, (-1, 2, 4)).transpose(1, 2).flatten(0, 2).contiguous()
        save_file({**right, key: wrong}, out / "model.safetensors")
        assert (logits_of(out, TOKENS).float() - our_logits(made)).abs().max() > 1e-3


@pytest.mark.skipif(
    importlib.util.find_spec("transformers") is None, reason="transformers is not installed"
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("model", SHAPES.values(), ids=SHAPES)
def test_transformers_gives_our_logits_from_the_exported_folder(
    planned, tmp_path: Path, model: dict[str, Any]
) -> None:
    from transformers import AutoModelForCausalLM  # pyright: ignore

    spec, folder, made = random_run(planned, tmp_path, model)
    out = tmp_path / "out"
    assert export(folder, spec, out) == 0
    opened: Any = AutoModelForCausalLM.from_pretrained(out, output_loading_info=True)
    theirs, told = opened
    assert not any(told.values()), told  # no weight missing, left over or of another shape
    assert sum(p.numel() for p in theirs.parameters()) >= spec.plan["params"]["total"]
    with torch.no_grad():
        check_equal(theirs(TOKENS).logits, our_logits(made))


@pytest.mark.skipif(
    importlib.util.find_spec("transformers") is None, reason="transformers is not installed"
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_transformers_reads_the_tokenizer_of_bytes_as_bytes(tmp_path: Path) -> None:
    from transformers import AutoTokenizer  # pyright: ignore

    for name, data in Bytes().to_huggingface(16).items():
        (tmp_path / name).write_bytes(data)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    text = " héllo\n\tworld  \u20ac\U0001f600\x00\x7f  "
    assert tokenizer.encode(text) == list(text.encode())
    assert tokenizer.decode(list(text.encode())) == text
    assert len(tokenizer) == 256


def test_the_vocabulary_of_bytes_has_a_letter_for_each_byte_and_no_two_alike() -> None:
    vocab = json.loads(Bytes().to_huggingface(16)["tokenizer.json"])["model"]["vocab"]
    assert sorted(vocab.values()) == list(range(256))
    assert len(vocab) == 256
    # Letters that GPT-2's byte-level vocabulary is known by: space, newline, and what prints.
    assert (vocab["Ġ"], vocab["Ċ"], vocab["A"], vocab["é"]) == (32, 10, 65, 0xE9)


def test_a_trained_run_is_exported_with_its_tokenizer_and_where_it_came_from(
    planned, tmp_path: Path, capsys
) -> None:
    model = {"mlp": "swiglu", "vocab": 256}
    data = {"source": "stdlib", "val_tokens": 64}
    spec = planned(model=model, data=data, train={"steps": 3}, log={"keep_weights": True})
    folder = write_plan(tmp_path / "sweep", spec)
    assert train_run(spec, folder, device="cpu") == "done"
    out = tmp_path / "deep" / "out"
    assert export(folder, spec, out) == 0
    names = ["config.json", "model.safetensors", "scalekit.json", "tokenizer.json"]
    assert sorted(p.name for p in out.iterdir()) == [*names, "tokenizer_config.json"]
    told = capsys.readouterr()
    assert told.out.splitlines()[0] == f"{out}: Qwen3ForCausalLM, step 3 of 3"
    assert told.err == ""
    origin = json.loads((out / "scalekit.json").read_text())
    assert (origin["id"], origin["config"]) == (spec.id, spec.config)
    assert origin["facts"]["vocab"] == 256
    assert origin["sha256"] == {"model.safetensors": file_hash(out / "model.safetensors")}
    kept = load_weights(folder.weights(spec.id), spec.id).state
    torch.testing.assert_close(
        load_file(out / "model.safetensors")["model.embed_tokens.weight"], kept["embedding"]
    )


def test_a_stopped_run_is_exported_from_its_newest_checkpoint_and_says_so(
    planned, tmp_path: Path, capsys
) -> None:
    from test_account import stop_after

    log = {"every": 1, "evals": 1, "checkpoint_steps": 2}
    spec = planned(model=GATED, train={"steps": 7}, log=log)
    folder = write_plan(tmp_path / "sweep", spec)
    stop, report = stop_after(5)
    assert train_run(spec, folder, device="cpu", stop=stop, report=report) == "stopped"
    assert export(folder, spec, tmp_path / "out") == 0
    told = capsys.readouterr()
    assert told.out.startswith(f"{tmp_path / 'out'}: LlamaForCausalLM, step 5 of 7\n")
    assert f"{spec.id}: not at its end, these are its weights after step 5\n" in told.err
    # A source of its own tokens: `data.tokenizer` says bytes by default, and there are none.
    assert "its data name no tokenizer" in told.err
    assert not (tmp_path / "out" / "tokenizer.json").exists()


def test_a_stopped_run_exports_the_averaged_weights_that_it_evaluates(
    planned, tmp_path: Path
) -> None:
    from test_account import stop_after

    flat = {"schedule": "constant", "warmup_frac": 0.0, "average_frac": 0.3}
    log = {"every": 1, "evals": 1, "keep_weights": True}
    short, long = (planned(train={**flat, "steps": n}, log=log) for n in (4, 6))
    finished, stopped = SweepFolder(tmp_path / "short"), SweepFolder(tmp_path / "long")
    assert train_run(short, finished, device="cpu") == "done"
    stop, report = stop_after(4)
    assert train_run(long, stopped, device="cpu", stop=stop, report=report) == "stopped"
    expected, found = (newest_weights(f, short.id, report) for f in (finished, stopped))
    assert found.step == expected.step == 4
    assert found.state.keys() == expected.state.keys()
    assert all(torch.equal(found.state[name], expected.state[name]) for name in found.state)


def test_weights_are_kept_only_where_asked_and_asking_changes_no_id(planned) -> None:
    from scalekit.sweep.identity import config_id

    asked, silent = (planned(log={"keep_weights": keep}).config for keep in (True, False))
    assert config_id(asked) == config_id(silent)


def refused(folder: SweepFolder, spec: RunSpec, out: Path, capsys) -> str:
    """Return why an export is refused; nothing is written."""
    before = all_files(out.parent)
    assert export(folder, spec, out) == 3
    printed = capsys.readouterr()
    assert printed.out == ""
    assert all_files(out.parent) == before
    return printed.err


def test_a_finished_run_without_weights_is_refused_with_the_setting(
    spec: RunSpec, folder: SweepFolder, tmp_path: Path, capsys
) -> None:
    assert train_run(spec, folder, device="cpu") == "done"
    assert not folder.weights(spec.id).exists()
    assert "keeps its weights where the sweep says log.keep_weights: true" in refused(
        folder, spec, tmp_path / "out", capsys
    )


def test_an_architecture_that_llama_cannot_say_is_refused_with_why_and_what_would_do(
    planned, tmp_path: Path, capsys
) -> None:
    spec, folder, _ = random_run(planned, tmp_path, {"mlp": "gelu"})
    message = refused(folder, spec, tmp_path / "out", capsys)
    assert message == (
        "error: model.mlp: 'gelu' has no place in Llama's layout, whose MLP multiplies an "
        "activation by a linear map; train with swiglu or relu2 to export\n"
    )


@pytest.mark.parametrize("name", get_args(ModelSpec.model_fields["parametrization"].annotation))
def test_each_parametrization_is_exported(planned, tmp_path: Path, name: str) -> None:
    bases = {key: 1 for key in ("base_width", "base_depth") if key in ModelSpec.model_fields}
    model = {**GATED, "parametrization": name, **(bases if name != "standard" else {})}
    spec, folder, made = random_run(planned, tmp_path, model)
    out = tmp_path / "out"
    assert export(folder, spec, out) == 0
    check_equal(logits_of(out, TOKENS), our_logits(made))


def test_a_folder_with_something_in_it_is_left_alone(planned, tmp_path: Path, capsys) -> None:
    spec, folder, _ = random_run(planned, tmp_path, GATED)
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine.txt").write_text("mine")
    assert "is there and not empty; name a new folder" in refused(folder, spec, out, capsys)


@pytest.mark.parametrize(
    ("harm", "says"),
    [
        (lambda data: data[:-200], "damaged"),
        (lambda data: data[:900] + bytes([data[900] ^ 1]) + data[901:], "damaged"),
        (lambda data: b"", "damaged"),
    ],
    ids=["torn", "a flipped bit", "empty"],
)
def test_damaged_weights_are_refused(
    *, planned, tmp_path: Path, capsys, harm: Callable[[bytes], bytes], says: str
) -> None:
    spec, folder, _ = random_run(planned, tmp_path, GATED)
    path = folder.weights(spec.id)
    path.write_bytes(harm(path.read_bytes()))
    assert re.search(says, refused(folder, spec, tmp_path / "out", capsys))


def test_weights_of_another_run_are_refused(planned, tmp_path: Path, capsys) -> None:
    spec, folder, made = random_run(planned, tmp_path, GATED)
    save_weights(folder.weights(spec.id), "abcdefabcd", 12, made.state_dict())
    message = refused(folder, spec, tmp_path / "out", capsys)
    assert "of run 'abcdefabcd', not of '0123456789'" in message


def test_without_safetensors_the_extra_is_named(
    planned, tmp_path: Path, capsys, monkeypatch
) -> None:
    import sys

    spec, folder, _ = random_run(planned, tmp_path, GATED)
    monkeypatch.setitem(sys.modules, "safetensors.torch", None)
    assert "pip install 'scalekit-laws[export]'" in refused(folder, spec, tmp_path / "out", capsys)
