"""What an executor tells is written down and shown."""

from __future__ import annotations

from collections.abc import Sequence

from scalekit.errors import OK
from scalekit.executors._progress import Count, Progress
from scalekit.executors.base import STOPPED, Handle, Job
from scalekit.launch.missing import Todo
from scalekit.results.jobs import JobLog, list_cancels, read_cancels
from scalekit.results.states import read_state
from scalekit.results.store import SweepFolder
from scalekit.sweep.spec import RunSpec, own_share, share_done


class Notes:
    """Writes down what an executor tells, and shows it."""

    def __init__(self, todo: Todo, folder: SweepFolder, log: JobLog) -> None:
        self.codes: dict[str, int] = {}
        self.progress = Progress(self._count)
        self._folder, self._log = folder, log
        self._running: set[str] = set()
        self._total = len(todo.states)
        self._before = todo.n_finished
        self._flops = {spec.id: own_flops(spec) for spec in todo.start}
        self._plans = {spec.id: spec.plan for spec in todo.start}
        # By their files: the clock of the machine where someone cancels may be another.
        self._old_cancels = list_cancels(folder)

    def is_wanted(self, job: Job) -> bool:
        """Say whether nobody cancelled the job's runs since this command began."""
        new = list_cancels(self._folder) - self._old_cancels
        return read_cancels(new).isdisjoint(job.runs)

    def started(self, jobs: Sequence[Job], handle: Handle) -> None:
        """Note that these jobs are handed over."""
        runs = [run for job in jobs for run in job.runs]
        self._log.write("started", runs=runs, handle=dict(handle))
        self._running |= set(runs)

    def ended(self, job: Job, code: int) -> None:
        """Note the exit code of a job's runs."""
        for run in job.runs:
            self._running.discard(run)
            # A job of several runs exits with the code of the worst of them.
            is_done = job.beside and read_state(self._folder.record(run)).status == "done"
            self.codes[run] = OK if is_done else code
            self._log.write("ended", runs=[run], code=self.codes[run])

    def tick(self) -> None:
        """Show how far everything is."""
        self.progress.tick()

    def _count(self) -> Count:
        codes = list(self.codes.values())
        flops = 0.0
        for run in self.codes.keys() | self._running:
            if run in self.codes and self.codes[run] not in STOPPED:
                flops += self._flops[run]
                continue
            step = read_state(self._folder.record(run)).step
            flops += self._flops[run] * share_done(self._plans[run], step)
        return Count(
            done=self._before + codes.count(OK),
            running=len(self._running),
            failed=sum(code not in (OK, *STOPPED) for code in codes),
            total=self._total,
            flops_done=flops,
            flops_total=sum(self._flops.values()),
        )


def own_flops(spec: RunSpec) -> float:
    """Return the FLOPs that a run takes itself."""
    return float(spec.plan["flops"][spec.plan["flops_kind"]]) * own_share(spec.plan)
