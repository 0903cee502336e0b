"""A stand-in for `scalekit train DIR RUN...`: real records, steps that sleep, and planned faults.

The plan line's `config.train.fake` says what happens: `crash` (no end line), `fail` (an end line
that says so, and `code` how it exits), `diverge`, `deaf` (ignores SIGTERM), `eat` (takes megabytes
of memory at its second step); `seconds` is the time a step takes.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

from scalekit.results.record import SCHEMA, RecordWriter, read_record
from scalekit.results.store import SweepFolder

STEPS = 4


def main(folder: SweepFolder, run: str, *rest: str) -> int:
    line = next(line for line in folder.plan_lines() if line["id"] == run)
    fake = line["config"]["train"].get("fake", {})
    stops: list[int] = []
    if fake.get("deaf"):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    else:
        signal.signal(signal.SIGTERM, lambda n, _: stops.append(n))
    path = folder.record(run)
    # Read under the lock, as a trainer does: another writer may just have finished the run.
    with RecordWriter(path) as record:
        before = read_record(path) if path.stat().st_size else None
        if before and before.end and before.end["status"] != "failed":
            return 0
        step = before.evals[-1]["step"] if before and before.evals else 0
        if before is None:
            head = {"schema": SCHEMA, "id": run, "config": line["config"], "plan": line["plan"]}
            record.write("run", **head)
        n = 1 + len(before.attempts) if before else 1
        environment = {k: os.environ.get(k) for k in ("OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES")}
        record.write("attempt", n=n, resumed_from=step, began=time.time(), rest=rest, **environment)
        sys.stdout.write(f"attempt {n} of {run}\n")
        sys.stdout.flush()
        eaten: list[bytearray] = []
        while step < STEPS:
            time.sleep(fake.get("seconds", 0.0))
            step += 1
            record.write("eval", step=step, tokens=step * 1024, val_loss=3.0 - step / 10)
            if stops:
                return 143
            if step == 2:
                eaten += [bytearray(10**6) for _ in range(fake.get("eat", 0))]
            if fake.get("crash") and step == 2:
                os.kill(os.getpid(), signal.SIGKILL)
        status = {"fail": "failed", "diverge": "diverged"}.get(fake.get("end", ""), "done")
        if status == "failed" and n > fake.get("fails", 10**6):
            status = "done"
        record.write("end", status=status, wall_s=time.process_time(), ended=time.time())
    return 0 if status == "done" else fake.get("code", 4)


if __name__ == "__main__":
    place, *words = sys.argv[1:]
    count = next((i for i, word in enumerate(words) if word.startswith("--")), len(words))
    # Of several runs one after the other, until a signal, and the worst code of all.
    worst = 0
    for name in words[:count]:
        worst = max(worst, main(SweepFolder(Path(place)), name, *words[count:]))
        if worst == 143:
            break
    sys.exit(worst)
