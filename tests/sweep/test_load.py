"""Sweep files: what goes over what, and every mistake with its place."""

from __future__ import annotations

from pathlib import Path

import pytest

from scalekit.errors import InputError, UsageError
from scalekit.sweep.expand import expand
from scalekit.sweep.load import load_sweep
from scalekit.sweep.sweep_spec import SweepSpec

FILES = Path(__file__).parent / "files"
SMALL = """\
scalekit: 1
name: small
base:
  model: {n_layers: 2, d_model: 32, head_dim: 16, context: 64}
  data: {source: synthetic}
  train: {batch_tokens: 1024, steps: 10}
"""


def write(folder: Path, text: str, name: str = "a.yaml") -> Path:
    file = folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return file


def load(folder: Path, text: str, *sets: str) -> SweepSpec:
    return load_sweep(write(folder, SMALL + text), sets)


def refusals(folder: Path, text: str, *sets: str) -> list[str]:
    with pytest.raises(InputError) as caught:
        expand(load(folder, text, *sets))
    lines = str(caught.value).replace(f"{folder}/", "").splitlines()
    return [line for line in lines if not line.startswith("    ")]


def test_scalars_keep_their_meaning_whatever_yaml_thinks(tmp_path):
    spec = load(
        tmp_path,
        "description: no\n"
        "grid: {train.lr: [3e-4, 2.5e-4, 1e-3], train.seed: [010, 1e3], model.tied: [no, yes]}\n"
        "time: {limit: 1:30:00}\n",
    )
    assert spec.description == "no"
    assert spec.grid[0].column("train.lr") == [3e-4, 2.5e-4, 1e-3]
    assert spec.grid[1].column("train.seed") == [10, 1000]
    assert spec.grid[2].column("model.tied") == [False, True]
    assert spec.time.limit == 5400


@pytest.mark.parametrize(
    ("axis", "values"),
    [
        (
            "train.lr: {logspace: [1e-4, 1e-2], num: 5}",
            [1e-4, 0.000316227766017, 1e-3, 0.00316227766017, 1e-2],
        ),
        ("train.lr: {linspace: [1, 2], num: 3}", [1.0, 1.5, 2.0]),
        ("model.n_layers: {range: [4, 24], step: 10}", [4, 14, 24]),
        ("model.n_layers: {range: [5, 1], step: -2}", [5, 3, 1]),
        ("train.lr: {range: [0.1, 0.3], step: 0.1}", [0.1, 0.2, 0.3]),
        ("model.n_layers: {logspace: [2, 16], num: 4}", [2, 4, 8, 16]),
        ("n_layers: [1, 2]", [1, 2]),
    ],
)
def test_an_axis_is_a_list_or_a_spread(tmp_path, axis, values):
    (found,) = load(tmp_path, f"grid:\n  {axis}\n").grid
    assert found.column(found.keys[0]) == values


def test_keys_may_be_nested_dotted_or_short(tmp_path):
    ids = {
        expand(load(tmp_path, f"cases: [{case}]\n")).runs[0].id
        for case in ("{model: {n_layers: 3}}", "{model.n_layers: 3}", "{n_layers: 3}")
    }
    assert len(ids) == 1


def test_a_file_goes_over_what_it_extends_and_set_over_both(tmp_path):
    write(tmp_path, SMALL + "grid: {train.lr: [1e-3], train.seed: [1, 2]}\n", "base/gpt.yaml")
    text = "extends: base/gpt.yaml\nname: child\nbase: {model.n_layers: 5, train: {lr: 7e-3}}\n"
    file = write(tmp_path, text + "grid: {train.seed: [3]}\n")
    spec = load_sweep(file)
    assert spec.name == "child"
    assert spec.base.values["model.n_layers"] == 5
    assert spec.base.values["model.d_model"] == 32
    assert [axis.column(axis.keys[0]) for axis in spec.grid] == [[1e-3], [3]]
    spec = load_sweep(file, ["n_layers=6", "grid.train.seed=[4, 5]", "executor.max_parallel=3"])
    assert spec.base.values["model.n_layers"] == 6
    assert spec.grid[1].column("train.seed") == [4, 5]
    assert spec.executor.max_parallel == 3


def test_a_later_parent_goes_over_an_earlier(tmp_path):
    write(tmp_path, "base: {train.lr: 1, train.seed: 1}", "one.yaml")
    write(tmp_path, "base: {train.lr: 2}", "two.yaml")
    spec = load(tmp_path, "extends: [one.yaml, two.yaml]\n")
    assert (spec.base.values["train.lr"], spec.base.values["train.seed"]) == (2, 1)


def test_null_takes_back_what_was_inherited(tmp_path):
    write(tmp_path, SMALL + "grid: {train.lr: [1e-3, 2e-3]}\n", "p.yaml")
    text = "extends: p.yaml\nbase: {train: {steps: null, tokens: 4096}}\ngrid: {lr: null}\n"
    (run,) = expand(load_sweep(write(tmp_path, text))).runs
    assert run.plan["steps"] == 4


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"a.yaml": "extends: a.yaml"}, "a.yaml:1:10: extends in a circle, a.yaml -> a.yaml"),
        (
            {"a.yaml": "extends: b.yaml", "b.yaml": "x: 1\nextends: [a.yaml]"},
            "b.yaml:2:11: extends in a circle, a.yaml -> b.yaml -> a.yaml",
        ),
        ({"a.yaml": "scalekit: 1\nextends: c.yaml"}, "a.yaml:2:10: no such file"),
        ({"a.yaml": "extends: {b: c}"}, "a.yaml:1:10: must be a path"),
        ({"a.yaml": "extends: b.yaml", "b.yaml": "a: [1"}, "b.yaml:1:4: not YAML"),
        ({"a.yaml": "extends: .."}, "a.yaml:1:10: no such file"),
    ],
)
def test_a_parent_that_cannot_be_read_is_told_where_it_is_named(tmp_path, files, said):
    for name, text in files.items():
        write(tmp_path, text, name)
    with pytest.raises(InputError) as caught:
        load_sweep(tmp_path / "a.yaml")
    assert said in str(caught.value).replace(f"{tmp_path}/", "")


def test_a_mistake_in_a_parent_is_told_in_the_parent(tmp_path):
    write(tmp_path, SMALL + "grid: {train.lr: [fast]}\n", "p.yaml")
    with pytest.raises(InputError, match=r"p\.yaml:7:19: must be a number, found 'fast'"):
        load_sweep(write(tmp_path, "extends: p.yaml\n"))


def test_a_profile_goes_over_the_file_and_under_set(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    profile = (
        "partition: gpu\nsetup: [module load cuda]\npeak_flops: 989T\nprice_per_gpu_hour: 2.5\n"
    )
    write(tmp_path, profile + "executor: {max_parallel: 9, threads: 2}\n", "profiles/site.yaml")
    text = "executor: {kind: local, profile: site, max_parallel: 1}\n"
    spec = load(tmp_path, text)
    assert spec.profile is not None
    assert (spec.profile.name, spec.profile.partition, spec.profile.peak_flops) == (
        "site",
        "gpu",
        989e12,
    )
    assert (spec.executor.max_parallel, spec.executor.threads) == (9, 2)
    assert load(tmp_path, text, "executor.max_parallel=4").executor.max_parallel == 4
    home = write(tmp_path, "partition: far\n", "config/scalekit/profiles/home.yaml")
    assert load(tmp_path, text, "executor.profile=home").profile.partition == "far"  # type: ignore[union-attr]
    assert home.is_file()


@pytest.mark.parametrize(
    ("profile", "said"),
    [
        ("partitoin: gpu", "site.yaml:1:1: unknown key 'partitoin'; did you mean 'partition'?"),
        ("pue: 0.5", "site.yaml:1:6: 'pue' must be at least 1, found '0.5'; change it"),
        ('currency: ""', "site.yaml:1:11: 'currency' must be the unit of money alone, found ''"),
        ("currency: h", "'currency' must be the unit of money alone, found 'h'; change it"),
        ("currency: t", "'currency' must be the unit of money alone, found 't'; change it"),
        ("currency: Wh", "'currency' must be the unit of money alone, found 'Wh'; change it"),
        ("executor: {max_paralel: 1}", "site.yaml:1:12: unknown key 'max_paralel'"),
        ("- 1", "site.yaml:1:1: must be a mapping, found a list of 1"),
    ],
)
def test_a_mistake_in_a_profile_is_told_in_the_profile(tmp_path, profile, said):
    write(tmp_path, profile, "profiles/site.yaml")
    (found,) = refusals(tmp_path, "executor: {profile: site}\n")
    assert said in found


def test_a_change_of_the_profile_leaves_the_rest_of_the_named_one(tmp_path):
    write(tmp_path, "partition: gpu\nmfu: 0.4\nsetup: [module load a]\n", "profiles/site.yaml")
    found = load(tmp_path, "executor: {profile: site}\n", "profile.mfu=0.3").profile
    assert found is not None
    assert (found.name, found.partition, found.mfu) == ("site", "gpu", 0.3)
    assert found.setup == ["module load a"]
    alone = load(tmp_path, "", "profile.mfu=0.3").profile
    assert alone is not None
    assert (alone.partition, alone.mfu) == (None, 0.3)
    written, other = "profile: {partition: far}\n", "executor.profile=site"
    (said,) = refusals(tmp_path, written, other)
    assert "written out, so this would change nothing; add --set profile=null" in said
    found = load(tmp_path, written, other, "profile=null").profile
    assert found is not None
    assert found.partition == "gpu"
    (said,) = refusals(tmp_path, "executor: {profile: site}\n", "profile.mfu=3")
    assert "--set profile.mfu:1:1: 'mfu' must be at most 1, found '3'" in said


def test_an_unknown_profile_is_told_with_the_nearest(tmp_path):
    write(tmp_path, "partition: gpu", "profiles/mycluster.yaml")
    said = refusals(tmp_path, "executor: {profile: myclutser}\n")
    assert said == ["a.yaml:7:21: unknown profile 'myclutser'; did you mean 'mycluster'?"]
    (found,) = refusals(tmp_path, "executor: {profile: ../../etc}\n")
    assert "unknown profile '../../etc'" in found


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("train.lrr=1", "--set train.lrr:1:1: unknown key 'train.lrr'; did you mean 'train.lr'?"),
        ("exector.kind=local", "unknown key 'exector.kind'; did you mean 'executor.kind'?"),
        ("train.lr=fast", "--set train.lr:1:1: must be a number, found 'fast'"),
        ("grid.train.lr=3", "--set grid.train.lr:1:1: 'train.lr' needs a list, found '3'"),
        ("train.lr=[1", "--set train.lr:1:1: not YAML"),
        ("seed=1", "--set seed:1:1: ambiguous key 'seed'"),
        ("model={a: 1}", "--set model:1:1: 'model' is a section"),
        ("isoflop.tolerence=1", "--set isoflop.tolerence:1:1: unknown key 'tolerence'"),
        ("train.steps=1e-3", "--set train.steps:1:1: must be a whole number, found '1e-3'"),
    ],
)
def test_a_mistake_in_set_is_told_with_its_place(tmp_path, change, said):
    found = refusals(tmp_path, "isoflop: {budgets: [1e9], sizes: {n_layers: [1]}}\n", change)
    assert any(said in line for line in found), found


def test_setting_a_swept_key_is_refused_because_it_would_change_nothing(tmp_path):
    (found,) = refusals(tmp_path, "grid: {train.lr: [1, 2]}\n", "train.lr=3")
    assert "'train.lr' is swept, so this would change nothing; write --set 'grid.train.lr" in found


def test_setting_a_derived_key_is_refused_where_it_would_change_nothing(tmp_path):
    (found,) = refusals(tmp_path, "derive: {train.lr: 1e-3 * n_layers}\n", "train.lr=3")
    assert "'train.lr' is derived, so this would change nothing; write --set derive.train" in found
    (point,) = expand(load(tmp_path, "derive: {train.lr: 2 * lr}\n", "train.lr=3")).runs
    assert point.config["train"]["lr"] == 6


def test_the_advice_for_a_swept_key_is_itself_accepted(tmp_path):
    sizes = "isoflop: {budgets: [1e9], sizes: {d_model: [16, 32]}}\n"
    (found,) = refusals(tmp_path, sizes, "d_model=8")
    assert "write --set 'isoflop.sizes.model.d_model=[...]'" in found
    spec = load(tmp_path, sizes, "isoflop.sizes.model.d_model=[8]")
    assert spec.isoflop is not None
    assert spec.isoflop.sizes.column("model.d_model") == [8]


@pytest.mark.parametrize("change", ["train.lr", "=3", ""])
def test_a_change_that_is_no_assignment_is_a_wrong_use(tmp_path, change):
    with pytest.raises(UsageError, match="not KEY=VALUE"):
        load(tmp_path, "", change)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("zip: {n_layers: [1], lr: [1, 2]}", "lists of different lengths, model.n_layers has 1, "),
        ("zip: {n_layers: []}", "7:17: 'model.n_layers' has an empty list"),
        ("grid: {lr: []}", "7:12: 'train.lr' has an empty list"),
        ("grid: {lr: 3}", "7:12: 'train.lr' needs a list, found '3'; write [3], or set it in base"),
        ("grid: {lr: {logspace: [0, 1], num: 3}}", "7:12: logspace needs positive ends"),
        ("grid: {lr: {logspace: [1, 2], num: 1}}", "num must be from 2"),
        ("grid: {lr: {range: [1, 2], step: -1}}", "step -1 does not lead from 1 to 2"),
        ("grid: {lr: {range: [0, 1e9], step: 1e-9}}", "take a larger step"),
        ("grid: {lr: {logspace: [1, 2]}}", "7:12: not a list of values"),
        ("grid: {schedule: {logspace: [1, 2], num: 3}}", "'train.schedule' takes no numbers"),
        ("grid: {lr: [1]}\nzip: {lr: [1]}", "is swept twice"),
        ("grid: {lr: [1]}\nderive: {lr: 2}", "8:14: 'train.lr' is swept on line 7 and"),
        ("grid: {train: 3}", "7:15: must be a mapping, found '3'"),
        ("log: {keep_weights: true}", "7:1: 'log' stands outside base, where the settings of runs"),
        ("d_model: 64", "are; write base: {model.d_model: ...}"),
        ("base2: 1", "7:1: unknown key 'base2'; did you mean 'base'?"),
        ("isoflop: {budgets: [1e9]}", "7:10: key 'sizes' is missing"),
        ("isoflop: {budgets: [], sizes: {n_layers: [1]}}", "7:20: 'budgets' needs at least 1"),
        ("isoflop: {budgets: [0], sizes: {n_layers: [1]}}", "7:21: 'budgets' must be above 0"),
        ("isoflop: {budgets: [1], sizes: {}}", "no sizes"),
        ("where: [{keep: D > }]", "7:16: not an expression"),
        ("where: {keep: D > 1}", "7:8: must be a list, found a mapping"),
        ("resources: [{gpus: -1}]", "7:20: 'gpus' must be at least 0, found '-1'"),
        ("executor: {kind: slrum}", "7:18: unknown executor 'slrum'"),
        ("derive: {d_model: schedule == 'x'}", "7:19: must be a number"),
        ("cases: {n_layers: 3}", "7:8: must be a list"),
        ("cases: [3]", "7:9: must be a mapping, found '3'"),
        ("scalekit: 2", "7:1: duplicate key 'scalekit'"),
    ],
)  # fmt: skip
def test_a_mistake_is_told_with_its_place(tmp_path, text, said):
    found = refusals(tmp_path, text + "\n")
    assert any(said in line for line in found), found
    assert all(line.startswith("a.yaml:") for line in found)


def test_the_version_and_the_name_must_be_there(tmp_path):
    with pytest.raises(InputError) as caught:
        load_sweep(write(tmp_path, "base: {}\n"))
    assert "1:1: key 'scalekit' is missing" in str(caught.value)
    assert "1:1: key 'name' is missing" in str(caught.value)
    with pytest.raises(InputError, match=r"1:11: must be 1, found '2'"):
        load_sweep(write(tmp_path, "scalekit: 2\nname: x\n"))


def test_a_data_path_is_relative_to_the_file_that_writes_it(tmp_path):
    write(tmp_path, "base: {data: {path: tokens}}\n", "shared/data.yaml")
    spec = load(tmp_path, "extends: shared/data.yaml\n")
    assert spec.base.values["data.path"] == str(tmp_path / "shared" / "tokens")


@pytest.mark.parametrize(
    "swept",
    [
        "grid: {data.path: [one, two]}",
        "zip: {path: [one, two]}",
        "cases: [{path: one}, {path: two}]",
    ],
)
def test_a_swept_path_too_is_relative_to_the_file_that_writes_it(tmp_path, swept):
    write(tmp_path, f"{swept}\n", "shared/data.yaml")
    spec = load(tmp_path, "extends: shared/data.yaml\n")
    found = [option.values["data.path"] for (option,) in spec.points()]
    assert found == [str(tmp_path / "shared" / name) for name in ("one", "two")]


def test_a_time_limit_of_nothing_is_refused(tmp_path):
    (found,) = refusals(tmp_path, "time: {limit: 0s}\n")
    assert found == "a.yaml:7:15: 'limit' must be above 0, found '0s'; change it, or write auto"


def test_a_warmup_that_is_the_whole_run_in_whole_steps_is_refused(tmp_path):
    (found,) = refusals(tmp_path, "cases: [{warmup_tokens: 10k}]\n")
    assert "10k tokens are as long as a run of 10.2k, or longer; shorten it" in found
    (run,) = expand(load(tmp_path, "cases: [{warmup_tokens: 9k}]\n")).runs
    assert run.config["train"]["warmup_frac"] == 0.9
