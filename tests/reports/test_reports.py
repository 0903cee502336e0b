"""The report: self-contained, well formed, true to the fit, and open about what it lacks."""

from __future__ import annotations

import re
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "plots"))
from study_examples import (  # pyright: ignore[reportMissingImports]
    full_study,
    seeds_study,
    small_study,
    tuned_study,
)

from scalekit import registry
from scalekit.analysis import digits
from scalekit.analysis.study import Study
from scalekit.fit.result import FitResult, FitStatus, Interval
from scalekit.plots import _write
from scalekit.reports import _entropy, _facts, _numbers, _spending, _tables, _wording
from scalekit.reports._checklist import checklist
from scalekit.reports.base import Facts, FigureOf
from scalekit.results.site import Site
from scalekit.results.table import RunTable

VOID = {"meta", "img", "br", "hr", "link", "input"}


def facts_of(study: Study, names: tuple[str, ...] = ("isoflop", "residuals")) -> Facts:
    figures, skipped = [], []
    for name in names:
        made = _write.draw(name, study, ["svg", _write.PAGE])
        if isinstance(made, _write.Skipped):
            skipped.append((made.name, made.reason))
        else:
            svg, png = made.files["svg"], made.files[_write.PAGE]
            figures.append(FigureOf(name, made.title, made.caption, svg, png))
    return _facts.gather(study, figures, skipped, "scalekit analyze runs/demo --seed 7")


@pytest.fixture(scope="module")
def study() -> Study:
    return full_study()


@pytest.fixture(scope="module")
def facts(study: Study) -> Facts:
    return facts_of(study)


@pytest.fixture(scope="module")
def page(facts: Facts) -> str:
    return registry.find("reports", "html").files(facts)["report.html"]


class Balance(HTMLParser):
    """Collects what is opened and never closed, and closed and never opened."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.wrong: list[str] = []
        self.ids: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.ids += [str(value) for name, value in attrs if name == "id"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.ids += [str(value) for name, value in attrs if name == "id"]

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.wrong.append(tag)


def visible(page: str) -> str:
    """The text a reader sees, without tags, entities and figures."""
    text = re.sub(r"<(svg|style).*?</\1>", " ", page, flags=re.DOTALL)
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", "", text)).replace("\xa0", " ")


def test_every_tag_is_closed_and_every_identifier_stands_once(page: str) -> None:
    parser = Balance()
    parser.feed(page)
    assert parser.wrong == []
    assert parser.open == []
    assert len(parser.ids) == len(set(parser.ids))


def test_every_identifier_that_a_figure_uses_is_there(page: str) -> None:
    used = set(re.findall(r'href="#([^"]+)"', page)) | set(re.findall(r"url\(#([^)]+)\)", page))
    assert used
    assert used <= set(re.findall(r'\bid="([^"]+)"', page))


def test_the_page_fetches_nothing(page: str) -> None:
    assert "http:" not in page
    assert "https:" not in page
    assert not re.findall(r'<(?:script|link|iframe)\b|@import|src="(?!data:)', page)


def test_the_page_stays_small_with_ten_thousand_runs(study: Study) -> None:
    assert study.table is not None
    many = 300
    columns = {name: np.tile(values, many) for name, values in study.table.columns.items()}
    columns["run"] = np.array([f"r{k}" for k in range(len(columns["loss"]))], dtype=object)
    large = replace(study, table=RunTable(columns, study.table.meta))
    heavy = FigureOf("heavy", "Heavy", "", b"<svg>" + b"<g></g>" * 300_000 + b"</svg>", b"png")
    facts = facts_of(large, ())
    page = registry.find("reports", "html").files(replace(facts, figures=(heavy,)))["report.html"]
    assert len(page.encode()) < 2_000_000
    assert "data.csv holds all" in page


def test_the_page_says_each_parameter_exponent_and_optimum(study: Study, page: str) -> None:
    fit = study.fit
    assert fit is not None
    text = visible(page)
    for name, value in fit.theta.items():
        between = fit.intervals[name]
        assert digits.number(value, between.low, between.high) in text
        assert _numbers.parameter_interval(between.low, between.high) in text
    assert "0.513 [0.493, 0.533]" in text
    for row in fit.optimum:
        low, high = row["intervals"]["params"]["low"], row["intervals"]["params"]["high"]
        assert _numbers.count(row["params"], low, high) in text
        assert _numbers.flops(row["flops"]) in text
    assert "mean absolute error of 0.21 %" in text
    assert "scalekit analyze runs/demo --seed 7" in text


def test_an_evaluations_error_is_said_to_be_shared(study: Study, facts: Facts, page: str) -> None:
    assert "runs on one validation set share it" in facts.runs.note
    assert facts.runs.note in page
    assert study.table is not None
    columns = {k: v for k, v in study.table.columns.items() if k != "loss_sem"}
    assert not _tables.runs(replace(study, table=RunTable(columns))).note


def test_the_page_lists_each_row_left_out_with_its_reason(study: Study, page: str) -> None:
    assert study.fit is not None
    for row in study.fit.dropped:
        assert f"<td>{row['run']}</td><td>{row['reason']}</td>" in page


def test_blanks_of_the_checklist_are_marked(facts: Facts, page: str) -> None:
    blanks = [a for part in facts.checklist.values() for a in part if not a.answer]
    assert blanks
    assert page.count("blank: not recorded") == len(blanks)
    markdown = registry.find("reports", "markdown").files(facts)["report.md"]
    assert markdown.count("**blank**") == len(blanks)


def test_energy_that_no_run_recorded_is_unknown(study: Study) -> None:
    assert study.table is not None
    columns = {k: v for k, v in study.table.columns.items() if k not in ("energy_j", "device_s")}
    told = dict(facts_of(replace(study, table=RunTable(columns)), ()).provenance)
    assert told["energy"] == "unknown"
    assert told["device-hours"] == "unknown"


def test_energy_that_some_runs_did_not_record_is_said_to_miss_them(facts: Facts) -> None:
    # 34 runs of 0.1 kWh
    assert dict(facts.provenance)["energy"] == "3.4 kWh, 1 of 35 runs unknown"


def test_what_runs_cost_is_told_with_what_it_rests_on(study: Study) -> None:
    assert study.table is not None
    n = len(study.table)
    columns = {
        **study.table.columns,
        "startup_s": np.full(n, 9.0),
        "eval_s": np.full(n, 4.5),
        "mfu": np.where(np.arange(n) == 3, np.nan, np.linspace(0.3, 0.5, n)),
        "tokens_per_second": np.full(n, 2e5),
        "peak_memory_bytes": np.linspace(1e9, 8e9, n),
        "flops_6N_total": np.full(n, 1e18),
    }
    first = study.records[0]
    end = {**first["end"], "flops_kind": "exact", "mfu": 0.4}
    attempts = [{**first["attempts"][0], "energy_by": "NVML"}]
    records = ({**first, "attempts": attempts, "end": end}, *study.records[1:])
    site = Site(1.2, 400.0)
    costly = replace(study, table=RunTable(columns), records=records, site=site)
    told = dict(facts_of(costly, ()).provenance)
    # Device time is 90 s a run.
    assert told["of these not training"] == "10 % start-up, 5 % evaluation"
    assert told["speed"] == "200k tokens/s"
    assert re.fullmatch(r"[\d.]+ %, 30 to 50, 1 of 35 runs unknown, by exact FLOPs", told["MFU"]), (
        told["MFU"]
    )
    assert told["memory"] == "at most 8 GB"
    # 34 runs of 0.1 kWh at PUE 1.2 and 400 g
    assert told["energy"] == (
        "3.4 kWh, 1.63 kg CO2e at PUE 1.2 and 400 g/kWh, 1 of 35 runs unknown, by the counter of "
        "NVML"
    )
    assert told["training compute"].endswith("6N_total")


def test_compute_that_branches_share_with_their_trunk_is_counted_once() -> None:
    words = {"run": ["a", "b", "c"], "trunk": ["c", "c", "c"], "status": ["done"] * 3}
    columns = {k: np.array(v, dtype=object) for k, v in words.items()}
    # Two branches that cool down over the last fifth of their own length.
    columns |= {"step": np.array([100.0, 200.0, 400.0]), "loss": np.array([3.0, 2.8, 2.6])}
    columns |= {"branch_step": np.array([80.0, 160.0, np.nan]), "params": np.full(3, 1e6)}
    columns |= {"flops": np.array([1e15, 2e15, 4e15]), "flops_6N_total": np.full(3, 1e15)}
    told = _spending.compute(Study(RunTable(columns, {"flops_kind": "exact"})))
    assert told == "4.6e15 FLOPs (exact); 1.4e15 6N_total"


def test_points_on_the_way_of_a_run_cost_nothing_beside_its_end() -> None:
    columns = {"run": np.array(["a", "a", "b"], dtype=object), "loss": np.array([3.0, 2.8, 2.6])}
    columns |= {"flops": np.array([1e15, 2e15, 4e15]), "params": np.full(3, 1e6)}
    assert _spending.compute(Study(RunTable(columns))) == "6e15 FLOPs"


def test_what_was_said_aloud_of_the_runs_stands_in_the_report(study: Study) -> None:
    doubts, remarks = ["runs.csv: 2 rows are odd at 1e+18"], ["approach isoflop is left out"]
    facts = _facts.gather(study, (), (), "scalekit", doubts=doubts, remarks=remarks)
    assert facts.warnings[0] == "runs.csv: 2 rows are odd at 1e18"
    assert facts.approaches.note == "Approach isoflop is left out."


def test_one_budget_and_no_exponent_are_called_so(study: Study) -> None:
    assert study.table is not None
    assert study.fit is not None
    table = study.table.where(study.column("budget") == study.budgets[0])
    lone = Study(table, replace(study.fit, exponents={}, others=(), optimum=(), dropped=()))
    assert _wording.disagreement(lone).startswith("No approach gave an exponent")
    assert " at 1 budget;" in _wording.subtitle(lone)


def test_an_optimum_says_what_it_reaches_beyond_and_where_laws_do_not_agree(study: Study) -> None:
    assert study.fit is not None
    row = dict(study.fit.optimum[0])
    assert "outside" not in _wording.optimum_sentence(study, row)
    row |= {"outside": {"params": 3.31, "tokens_per_param": 0.42}, "at_search_end": True}
    row["form"] = {"laws": ["chinchilla", "kaplan"], "params": [2.98e9, 3.82e10]}
    row["form"]["loss"] = [2.354, 2.4076]
    text = _wording.optimum_sentence(study, row)
    assert "the size shown is no optimum." in text
    assert "outside the fitted runs: parameters 3.31 times the largest, tokens per p" in text
    assert "0.42 of the smallest." in text
    assert (
        "N* runs from 2.98B to 38.2B and the loss from 2.354 to 2.408 (chinchilla, kaplan)" in text
    )


def test_signs_that_tex_prints_as_others_are_written_for_it(study: Study) -> None:
    assert study.fit is not None
    fit = replace(study.fit, dropped=({"run": "a|b", "row": 0, "reason": "--drop loss<3"},))
    files = registry.find("reports", "latex").files(facts_of(replace(study, fit=fit), ()))
    assert "a$|$b & -{}-drop loss$<$3" in files["tables/left_out.tex"]


def test_a_checklist_says_of_which_runs_the_schedule_was_not_over(study: Study) -> None:
    assert study.table is not None
    flags = np.array(["not_at_end"] * 2 + [""] * (len(study.table) - 2), dtype=object)
    records = ({"header": {"id": "a"}, "attempts": [], "end": None},)
    told = []
    for words in (flags, np.full(len(flags), "", dtype=object)):
        table = RunTable({**study.table.columns, "flags": words}, study.table.meta)
        answers = checklist(replace(study, table=table, records=records))["Collection of data"]
        told.append({a.question: a.answer for a in answers}["Which checkpoints?"])
    assert told[0].endswith("of 2 before the end of the schedule")
    assert told[1].endswith("at the end of its schedule")


def test_a_single_held_out_run_is_told_in_the_singular(study: Study) -> None:
    assert study.fit is not None
    held = {"rule": "flops>1e21", "n_runs": 1, "mape": 0.012, "bias": 0.012, "worst": 0.012}
    text = _wording.holdout(replace(study.fit, holdout={**held, "covered": 0.0}))
    assert "fitted without this run, the law misses its loss by 1.2 %" in text
    assert text.endswith(
        "the run came out 1.2 % worse than predicted. It lies outside its 90 % prediction interval."
    )


def test_a_checklist_says_whether_runs_or_groups_of_them_were_resampled(study: Study) -> None:
    assert study.fit is not None
    draws = ((1.0,) * len(study.fit.theta),) * 3
    for groups, expected in ((study.fit.n_runs, "runs"), (4, f"{study.fit.n_runs} rows in 4 gr")):
        fit = replace(study.fit, draws=draws, influence=((0.0,),) * groups)
        told = {a.question: a.answer for a in checklist(replace(study, fit=fit))["Fit"]}
        assert told["What is resampled?"].startswith(expected)


def test_what_no_run_says_of_its_cost_is_unknown(facts: Facts) -> None:
    told = dict(facts.provenance)
    for name in ("of these not training", "speed", "MFU", "memory"):
        assert told[name] == "unknown"


def with_attempts(study: Study, **fields: str) -> Study:
    """The study with one run's attempt changed."""
    first = study.records[0]
    other = {**first, "attempts": [{**first["attempts"][0], **fields}]}
    return replace(study, records=(other, *study.records[1:]))


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"code": "0.1.0+fedcba654321"}, "The runs were made by 2 states of the code"),
        (
            {"code": "0.1.0+abcdef123456.changed"},
            "1 of 35 runs were made by code with changes that no commit holds",
        ),
        (
            {"code": "0.1.0+abcdef123456.unchecked"},
            "Of 1 of 35 runs it is not known whether a commit holds their code",
        ),
        ({"torch": "2.12.0"}, "several versions of torch: 2.12.0, 2.13.0"),
        ({"device": "H100"}, "several kinds of device: H100, cpu"),
    ],
)
def test_runs_of_unequal_origin_are_a_warning(study: Study, fields, sentence: str) -> None:
    assert not any("states of the code" in w for w in facts_of(study, ()).warnings)
    warnings = facts_of(with_attempts(study, **fields), ()).warnings
    assert any(sentence in warning for warning in warnings)


def test_a_run_that_went_on_in_another_implementation_is_a_warning(study: Study) -> None:
    first = study.records[0]
    attempts = [{**first["attempts"][0], "computed_by": way} for way in ("kernels", "torch")]
    mixed = replace(study, records=({**first, "attempts": attempts}, *study.records[1:]))
    assert "1 of 35 runs went on with another implementation" in " ".join(
        facts_of(mixed, ()).warnings
    )


def test_a_warning_of_another_fit_names_its_approach(study: Study) -> None:
    assert study.fit is not None
    other = replace(study.fit, approach="isoflop", law="isoflop", warnings=("the grid biases",))
    fit = replace(study.fit, warnings=("few runs",), others=(other,))
    told = facts_of(replace(study, fit=fit), ()).warnings
    assert told[-2:] == ["Few runs", "IsoFLOP parabolas (approach 2): the grid biases"]


def test_every_fit_with_an_exponent_is_held_to_the_headlines_interval(study: Study) -> None:
    assert study.fit is not None

    fit = study.fit

    def other(approach: str, law: str, value: float) -> FitResult:
        exponents = {"params": {"value": value, "low": value - 0.01, "high": value + 0.01}}
        return replace(fit, approach=approach, law=law, exponents=exponents, others=())

    own = float(fit.exponents["params"]["value"])
    others = (
        other("isoflop", "isoflop", own),
        other("isoflop", "isoflop_akima", own - 0.4),
        other("parametric", "kaplan", own + 0.4),  # another law is no other approach
    )
    told = facts_of(replace(study, fit=replace(fit, others=others)), ()).disagreement
    assert "by 3 fits of 2 approaches differ by 0.4" in told
    assert "outside the parametric fit's interval: isoflop akima." in told


def test_what_was_assumed_in_reading_stands_in_the_provenance(study: Study) -> None:
    assert study.table is not None
    assert study.fit is not None
    assert dict(facts_of(study, ()).provenance)["read as"] == "as it stands"
    data = {**study.fit.data, "assumed": ["loss is column loss", "params are column N"]}
    told = dict(facts_of(replace(study, fit=replace(study.fit, data=data)), ()).provenance)
    assert told["read as"] == "loss is column loss; params are column N"


def test_code_states_are_counted_by_run_the_commonest_first(study: Study) -> None:
    facts = facts_of(with_attempts(study, code="0.1.0+fedcba654321"), ())
    expected = "0.1.0+abcdef123456 (34 runs), 0.1.0+fedcba654321 (1 run)"
    assert dict(facts.provenance)["code of the runs"] == expected


def test_device_time_is_in_gpu_hours_where_the_plan_asked_for_gpus(study: Study) -> None:
    assert dict(facts_of(study, ()).provenance)["device-hours"] == "0.875"  # 35 runs of 90 s
    plan = tuple({**line, "resources": {"gpus": 8}} for line in study.plan)
    told = dict(facts_of(replace(study, plan=plan), ()).provenance)
    assert told["GPU-hours"] == "0.875"


def test_the_commands_make_the_runs_and_then_the_report(study: Study) -> None:
    lines = facts_of(study, ()).command.splitlines()
    assert lines[0].startswith("cd /")
    assert lines[1:] == [
        "scalekit sweep runs.csv/sweep.yaml --out runs.csv",
        "scalekit analyze runs/demo --seed 7",
    ]
    alone = facts_of(replace(study, plan=()), ()).command.splitlines()
    assert alone[1:] == ["scalekit analyze runs/demo --seed 7"]


def test_every_law_that_was_fitted_is_cited_once(study: Study) -> None:
    assert study.fit is not None
    others = tuple(
        replace(study.fit, law=name, others=(), theta={}) for name in ("repeat_exp", "chinchilla")
    )
    text = facts_of(replace(study, fit=replace(study.fit, others=others)), ()).bibtex
    assert text.count("2305.16264") == 1
    assert text.count("2203.15556") == 1


def test_a_checklist_says_what_seeds_and_swept_rates_the_table_shows() -> None:
    told = {a.question: a.answer for a in checklist(seeds_study())["Training"]}
    assert re.match(
        r"0\.\d+ % of the loss \[0\.\d+, 0\.\d+\], over 15 settings",
        told["Spread of the loss between seeds"],
    )
    told = {a.question: a.answer for a in checklist(seeds_study(spread=0.0))["Training"]}
    assert told["Spread of the loss between seeds"].startswith("none: 15 settings have equal")
    assert told["How were learning rate and batch chosen?"] == ""
    rates = replace(tuned_study(), fit=small_study().fit)
    told = {a.question: a.answer for a in checklist(rates)["Training"]}
    expected = "swept at 6 sizes and lengths: up to 8 rates and 5 batches"
    assert told["How were learning rate and batch chosen?"] == expected
    ruled = replace(seeds_study(), rules={"train.lr": "0.01 * C ** -0.5", "model.d_ff": "64"})
    told = {a.question: a.answer for a in checklist(ruled)["Training"]}
    assert told["How were learning rate and batch chosen?"] == "train.lr = 0.01 * C ** -0.5"


def test_the_links_at_the_top_lead_to_sections(page: str) -> None:
    nav = page[page.index("<nav>") : page.index("</nav>")]
    targets = re.findall(r'href="#(\w+)"', nav)
    expected = ["numbers", "figures", "provenance", "checklist", "tables", "sources"]
    assert targets == expected  # and no warnings, of which this study has none
    assert set(targets) <= set(re.findall(r'<section id="(\w+)"', page))


def test_every_figure_together_stays_under_two_megabytes(study: Study) -> None:
    shape = b"<svg>" + b"<g></g>" * 40_000 + b"</svg>"
    figures = tuple(FigureOf(f"f{k}", "Many", "", shape, b"png" * 1000) for k in range(17))
    facts = replace(facts_of(study, ()), figures=figures)
    page = registry.find("reports", "html").files(facts)["report.html"]
    # 17 figures of 280 kB: some stay shapes, the others become pictures
    assert len(page.encode()) < 2_000_000
    assert 0 < page.count("data:image/png") < 17


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [(1.80, 1.83, "its interval holds it"), (1.83, 1.90, "its interval does not hold it")],
)
def test_the_known_entropy_is_compared_with_the_interval(
    study: Study, low: float, high: float, verdict: str
) -> None:
    assert study.fit is not None
    between = {**study.fit.intervals, "E": Interval(low, high, 0.9, "profile")}
    other = replace(study, fit=replace(study.fit, intervals=between))
    assert verdict in _entropy.known_entropy(other)


def test_the_irreducible_loss_is_held_to_the_validation_sets_own_oracle(study: Study) -> None:
    assert study.table is not None
    # 1.5 lies outside the interval of E that holds the entropy, 1.815
    columns = {**study.table.columns, "oracle_loss": np.full(len(study.table), 1.5)}
    text = _entropy.known_entropy(replace(study, table=RunTable(columns)))
    assert "entropy is known: 1.815" in text
    assert "does not hold that oracle loss, E lies 21 % above" in text


def test_nothing_is_said_of_entropy_where_it_is_not_known() -> None:
    assert _entropy.known_entropy(small_study()) == ""


def test_a_fit_that_failed_its_gate_says_so_loudly(study: Study) -> None:
    assert study.fit is not None
    bad = replace(study.fit, status=FitStatus.BOUND_HIT, message="beta ended on its bound")
    page = registry.find("reports", "html").files(facts_of(replace(study, fit=bad), ()))
    text = page["report.html"]
    assert "did not pass its gate: BOUND_HIT, beta ended on its bound" in text
    assert 'class="soft status bad"' in text


def test_too_few_held_out_runs_inside_their_intervals_are_called_out(study: Study) -> None:
    assert study.fit is not None
    held = {**study.fit.holdout, "covered": 0.0}
    assert "too narrow" in _wording.holdout(replace(study.fit, holdout=held))
    assert "too narrow" not in _wording.holdout(study.fit)


def test_text_from_outside_cannot_become_markup(study: Study) -> None:
    evil = replace(study, name="<script>alert(1)</script> & co")
    page = registry.find("reports", "html").files(facts_of(evil, ()))["report.html"]
    assert "<script>" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt; &amp; co" in page


def test_a_poor_study_is_reported_with_what_it_has() -> None:
    facts = facts_of(small_study(), ("isoflop", "curves"))
    page = registry.find("reports", "html").files(facts)["report.html"]
    assert "No runs were held out" in page
    assert "Only one approach gave an exponent" in page
    assert "curves (the source holds no loss curves" in page


def test_the_latex_tables_are_booktabs_with_one_width(facts: Facts) -> None:
    files = registry.find("reports", "latex").files(facts)
    names = ("parameters", "optimum", "approaches", "left_out", "runs")
    assert set(files) == {f"tables/{name}.tex" for name in names}
    for text in files.values():
        rows = [line for line in text.splitlines() if line.endswith(r"\\")]
        assert len({line.count(" & ") for line in rows}) == 1
        for rule in (r"\toprule", r"\midrule", r"\bottomrule"):
            assert rule in text


def test_the_markdown_tables_have_one_width_each(facts: Facts) -> None:
    text = registry.find("reports", "markdown").files(facts)["report.md"]
    for block in re.findall(r"(?:^\|.*\n)+", text, flags=re.MULTILINE):
        widths = {len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}
        assert len(widths) == 1, block


@pytest.mark.parametrize("low", [0.1234, 1.0])
@pytest.mark.parametrize("width", [1e-6, 0.01, 3.0, 4e5])
def test_a_rounded_value_stays_within_a_standard_error_of_the_whole_one(
    low: float, width: float
) -> None:
    value = low + 0.37 * width
    error = width / 3.29  # of a normal law's 90 %
    assert abs(float(_numbers.number(value, low, low + width)) - value) < 0.5 * error


def test_a_report_of_recipes_says_whose_optimum_it_is_and_what_the_others_are_worth(
    study: Study,
) -> None:
    assert study.fit is not None
    theta = {**study.fit.theta, "rho_N[muon]": 1.5, "rho_D[muon]": 1.2}
    known = {**study.fit.diagnostics, "levels": ["adamw", "muon"]}
    fit = replace(study.fit, law="multi_recipe", theta=theta, diagnostics=known, covariance=None)
    said = " ".join(_wording.headline(replace(study, fit=fit)))
    assert "All this is of the recipe adamw." in said
    assert "muon 1.8." in said
    assert "recipe" not in " ".join(_wording.headline(study))
    meanings = {row[0]: row[-1] for row in _tables.parameters(fit).rows}
    assert meanings["rho_N[muon]"] == "worth of params under muon"


def test_the_optima_say_what_their_intervals_are_by(study: Study) -> None:
    assert study.fit is not None
    ends = {"loss": {"low": 2.0, "high": 2.1, "level": 0.9, "method": "bootstrap-bca"}}
    told = replace(study.fit, optimum=({**study.fit.optimum[0], "intervals": ends},))
    assert _tables.optimum(replace(study, fit=told)).note == "90 % intervals by bootstrap-bca."
    bare = replace(told, optimum=({**study.fit.optimum[0], "intervals": {}},))
    assert _tables.optimum(replace(study, fit=bare)).note == ""
