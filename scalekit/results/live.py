"""Which submissions of a sweep still live, and where each run's job is, by asking executors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from scalekit import registry
from scalekit.executors._process import process_state
from scalekit.executors.base import Executor, Handle, JobState, Settings
from scalekit.results.jobs import Submission, read_submissions
from scalekit.results.store import SweepFolder


@dataclass(frozen=True)
class Live:
    """A submission of which something still lives.

    Attributes:
        command: The handle of the sweep command, where it still runs and starts runs itself.
        handles: By run, those that the executor still holds.
    """

    submission: Submission
    executor: Executor
    command: Handle | None
    handles: Mapping[str, Handle]

    @property
    def runs(self) -> set[str]:
        """Runs that are being executed or will be without anyone doing anything."""
        waiting = set(self.submission.intent["runs"]) - set(self.submission.codes)
        return waiting if self.command else set(self.handles)


@dataclass(frozen=True)
class Standing:
    """Where the runs stand that were handed to executors.

    Attributes:
        live: The submissions of which something still lives.
        jobs: By run, where its job is: one that lives, else the last.
        queued: Runs that a scheduler holds, so that nobody may hand them over again.
        troubles: What a scheduler said instead of answering.
    """

    live: tuple[Live, ...] = ()
    jobs: Mapping[str, JobState] = field(default_factory=dict)
    queued: frozenset[str] = frozenset()
    troubles: tuple[str, ...] = ()


def ask_executors(folder: SweepFolder) -> Standing:
    """Ask each executor that runs of this sweep were handed to, once, where they are."""
    by_kind: dict[str, list[Submission]] = {}
    for submission in read_submissions(folder):
        by_kind.setdefault(submission.intent["executor"], []).append(submission)
    live: list[Live] = []
    jobs: dict[str, JobState] = {}
    queued: set[str] = set()
    troubles: list[str] = []
    for kind, submissions in by_kind.items():
        executor = registry.find("executors", kind)(Settings(folder=folder.root / kind))
        for submission, states in _ask(executor, submissions):
            found = _live(submission, executor, states)
            live += [found] if found else []
            ended = {run: JobState("gone", code=code) for run, code in submission.codes.items()}
            for run, state in {**states, **ended}.items():
                if state.is_alive or run not in jobs or not jobs[run].is_alive:
                    jobs[run] = state
            if not executor.in_foreground:
                queued |= {run for run, state in states.items() if state.is_alive}
                troubles += [s.why for s in states.values() if s.word == "unknown"]
    return Standing(tuple(live), jobs, frozenset(queued), tuple(dict.fromkeys(troubles)))


def release_held(standing: Standing) -> list[str]:
    """Let go the jobs that schedulers hold back for want of a person; say what did not succeed."""
    troubles: list[str] = []
    for live in standing.live:
        placed = [(r, handle) for r, handle in live.handles.items() if standing.jobs[r].is_held]
        troubles += live.executor.release(placed) if placed else []
    return troubles


def _ask(
    executor: Executor, submissions: Sequence[Submission]
) -> list[tuple[Submission, dict[str, JobState]]]:
    """Ask for the jobs of all submissions in one call."""
    handles = [submission.open_handles for submission in submissions]
    placed = [pair for by_run in handles for pair in by_run.items()]
    states = iter(executor.states(placed))
    return [
        (submission, {run: next(states) for run in by_run})
        for submission, by_run in zip(submissions, handles, strict=True)
    ]


def _live(
    submission: Submission, executor: Executor, states: Mapping[str, JobState]
) -> Live | None:
    command = submission.intent["command"]
    works = (
        executor.in_foreground
        and not submission.is_closed
        and process_state(command).word != "gone"
    )
    # What cannot be known is taken to live: on another machine while its command may still run,
    # and in a scheduler's queue until the scheduler answers.
    doubted = works or not executor.in_foreground
    held = {
        run: submission.handles[run]
        for run, state in states.items()
        if state.is_alive or (state.word == "unknown" and doubted)
    }
    return Live(submission, executor, command if works else None, held) if works or held else None
