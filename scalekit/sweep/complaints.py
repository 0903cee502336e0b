"""What is wrong with the runs of a sweep: each once, where it was written, in how many runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from scalekit.config.problems import Place, Problem, Problems
from scalekit.sweep.checks import where_to_write
from scalekit.sweep.expressions import ExpressionError
from scalekit.sweep.keys import ValueProblemError
from scalekit.sweep.point import MissingSettingError, RunProblemError
from scalekit.sweep.sweep_spec import BUDGET, Option, SweepSpec


class Complaints:
    """Collects what is wrong with runs.

    Args:
        spec: The sweep, which knows where its settings were written.
    """

    def __init__(self, spec: SweepSpec) -> None:
        self.spec = spec
        self._found: dict[tuple[Place, str], Problem] = {}
        self._hits: Counter[tuple[Place, str]] = Counter()

    @contextmanager
    def about(self, options: Sequence[Option]) -> Iterator[None]:
        """Collect what is found wrong inside, with the run of these options."""
        try:
            yield
        except MissingSettingError as error:
            self._note_missing(error, options)
        except RunProblemError as error:
            self._note(error.keys[0], self._blame(error.keys, options), error.what, error.todo)
        except (ExpressionError, ValueProblemError) as error:
            problem = error.problem
            self._note("", problem.place, problem.what, problem.todo)
        except ArithmeticError as error:
            what = f"numbers too large to count with, {error}"
            self._note("", self._blame((BUDGET,), options), what, "make them smaller")

    def raise_if_any(self) -> None:
        """Refuse the sweep when a run was wrong, saying in how many runs."""
        problems = Problems()
        for where, problem in self._found.items():
            others = self._hits[where] - 1
            more = f" (and in {others} other run{'s' if others > 1 else ''})" if others else ""
            problems.add(problem.place, problem.what + more, problem.todo)
        problems.raise_if_any()

    def _note(self, key: str, place: Place, what: str, todo: str) -> None:
        """Note a problem once a place and key; a setting is often wrong in many runs."""
        self._found.setdefault((place, key), Problem(place, what, todo))
        self._hits[place, key] += 1

    def _note_missing(self, error: MissingSettingError, options: Sequence[Option]) -> None:
        """Note a setting that a run lacks; it may stand where it does not reach the run."""
        key, spec = error.keys[0], self.spec
        in_case = any(option in spec.cases for option in options)
        place = next(iter(options[0].places.values()), None) if in_case else None
        todo = where_to_write(key, spec, in_case) or error.todo
        self._note(key, place or self._blame(error.keys, options), error.what, todo)

    def _blame(self, keys: tuple[str, ...], options: Sequence[Option]) -> Place:
        """Find where the setting that is wrong was written, or would be."""
        for key in keys:
            if key in self.spec.derive:
                return self.spec.derive[key].place
            for option in (*options, self.spec.base):
                if key in option.places:
                    return option.places[key]
        section = keys[0].partition(".")[0] + "."
        beside = (p for name, p in self.spec.base.places.items() if name.startswith(section))
        return next(beside, None) or next(
            (p for o in options for p in o.places.values()), self.spec.place
        )
