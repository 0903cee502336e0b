"""A small example of every format, written as the programs write it."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path

from scalekit.importers._tfrecord import masked_crc

NANOGPT = """\
tokens per iteration will be: 491,520
Initializing a new model from scratch
defaulting to vocab_size of GPT-2 to 50304 (50257 rounded up for efficiency)
number of parameters: 123.59M
num decayed parameter tensors: 50, with 124,354,560 parameters
num non-decayed parameter tensors: 25, with 19,200 parameters
using fused AdamW: True
compiling the model... (takes a ~minute)
step 0: train loss 10.9898, val loss 10.9897
iter 0: loss 10.9886, time 57384.40ms, mfu -100.00%
iter 10: loss 9.6013, time 1210.35ms, mfu 47.10%
step 20: train loss 9.1000, val loss 9.1234
saving checkpoint to out
iter 20: loss 9.0456, time 1211.02ms, mfu 47.11%
iter 30: loss 8.9000, time 1211.02ms, mfu 47.11%
"""

NANOCHAT = """\
Vocab size: 65,536
Parameter counts:
wte                     : 50,331,648
value_embeds            : 25,165,824
lm_head                 : 50,331,648
transformer_matrices    : 84,934,656
scalars                 : 24
total                   : 210,763,800
Estimated FLOPs per token: 9.000000e+08
Calculated number of iterations from target data:param ratio: 40
Total number of training tokens: 20,971,520
Tokens : Scaling params ratio: 0.16
Total training FLOPs estimate: 1.887437e+16
Tokens / micro-batch / rank: 32 x 2048 = 65,536
Total batch size 524,288 => gradient accumulation steps: 8
Step 00000 | Validation bpb: 3.219846
step 00000/00040 (0.00%) | loss: 11.090355 | lrm: 1.00 | dt: 2050.80ms | tok/sec: 255,650
step 00020/00040 (50.00%) | loss: 7.512345 | lrm: 1.00 | dt: 2050.80ms | tok/sec: 255,650
step 00039/00040 (97.50%) | loss: 6.212345 | lrm: 0.05 | dt: 2050.80ms | tok/sec: 255,650
Step 00040 | Validation bpb: 1.812346
Step 00040 | CORE metric: 0.0310
Minimum validation bpb: 1.812346
"""

TRAINER_STATE = {
    "best_metric": None,
    "epoch": 1.0,
    "eval_steps": 10,
    "global_step": 20,
    "is_hyper_param_search": False,
    "log_history": [
        {"epoch": 0.5, "grad_norm": 1.2, "learning_rate": 1e-3, "loss": 5.5, "step": 10},
        {"epoch": 0.5, "eval_loss": 5.25, "eval_runtime": 1.5, "step": 10},
        {"epoch": 1.0, "grad_norm": 1.1, "learning_rate": 5e-4, "loss": 4.5, "step": 20},
        {"epoch": 1.0, "eval_loss": 4.25, "eval_runtime": 1.5, "step": 20},
        {"epoch": 1.0, "step": 20, "total_flos": 6e12, "train_loss": 5.0, "train_runtime": 9.0},
    ],
    "logging_steps": 10,
    "max_steps": 20,
    "num_input_tokens_seen": 40960,
    "num_train_epochs": 1,
    "total_flos": 6e12,
    "train_batch_size": 8,
}

LIGHTNING = """\
epoch,lr,step,train_loss,val_loss
0,0.001,9,4.5,
0,,19,,4.25
1,0.001,29,3.5,
1,,39,,3.25
"""

WANDB_RUNS = """\
"Name","State","Notes","User","Tags","Created","Runtime","Sweep","n_params","tokens","val/loss"
"calm-sun-1","finished","-","me","","2026-01-02T03:04:05.000Z","3600","","1000000","20000000","3.5"
"wild-sea-2","crashed","-","me","","2026-01-02T03:04:05.000Z","60","","2000000","40000000",""
"""

WANDB_HISTORY = """\
,_step,_runtime,_timestamp,train/loss,val/loss
0,0,1.5,1767323045.5,5.5,
1,10,2.5,1767323046.5,4.5,4.75
2,20,3.5,1767323047.5,3.5,3.75
"""

WANDB_CHART = """\
"Step","calm-sun-1 - val/loss","calm-sun-1 - val/loss__MIN","calm-sun-1 - val/loss__MAX",\
"wild - sea - val/loss","wild - sea - val/loss__MIN","wild - sea - val/loss__MAX"
"0","5.5","5.5","5.5","","",""
"10","4.5","4.5","4.5","4.25","4.25","4.25"
"""

WANDB_SCRIPT = """\
,summary,config,name
0,"{'val': {'loss': 3.5}, 'aux': nan}","{'n_params': 1000000, 'opt': 'adamw'}",calm-sun-1
1,"{'val': {'loss': 3.25}}","{'n_params': 2000000, 'opt': 'adamw'}",wild-sea-2
"""


def field(number: int, value: bytes | int | float, *, double: bool = False) -> bytes:
    """Write one field of a protocol buffer."""
    if isinstance(value, bytes):
        return bytes([number << 3 | 2]) + varint(len(value)) + value
    if isinstance(value, float):
        kind, form = (1, "<d") if double else (5, "<f")
        return bytes([number << 3 | kind]) + struct.pack(form, value)
    return bytes([number << 3]) + varint(value)


def varint(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def framed(data: bytes) -> bytes:
    head = struct.pack("<Q", len(data))
    crcs = (struct.pack("<I", masked_crc(part)) for part in (head, data))
    return head + next(crcs) + data + next(crcs)


def event(step: int, scalars: dict[str, float], time: float = 1.0) -> bytes:
    """Write an event of scalars as TensorBoard's first format has them."""
    values = b"".join(
        field(1, field(1, tag.encode()) + field(2, float(value))) for tag, value in scalars.items()
    )
    return framed(field(1, time, double=True) + field(2, step) + field(5, values))


def events(*told: tuple[int, dict[str, float]], time: float = 1.0) -> bytes:
    version = framed(field(1, time, double=True) + field(3, b"brain.Event:2"))
    return version + b"".join(event(step, scalars, time) for step, scalars in told)


def _text(name: str, text: str) -> Callable[[Path], Path]:
    return lambda folder: _write(folder / name, text.encode())


def _write(path: Path, data: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def _parquet(folder: Path) -> Path:
    import pyarrow
    from pyarrow import parquet

    path = folder / "runs.parquet"
    table = pyarrow.table({"params": [1e6, 2e6], "tokens": [2, 4], "loss": [3.5, None]})
    parquet.write_table(table, path)
    return path


EXAMPLES: dict[str, tuple[Callable[[Path], Path], int]] = {
    "csv": (_text("runs.csv", "params,tokens,loss\n1e6,2e7,3.5\n2e6,4e7,3.25\n"), 2),
    "csv tsv": (_text("runs.tsv", "params\ttokens\tloss\n1e6\t2e7\t3.5\n"), 1),
    "jsonl": (_text("runs.jsonl", '{"params": 1e6, "loss": 3.5}\n{"params": 2e6}\n'), 2),
    "jsonl array": (_text("runs.json", '[{"params": 1e6, "loss": 3.5},\n {"params": 2e6}]'), 2),
    "parquet": (_parquet, 2),
    "nanogpt": (_text("train.log", NANOGPT), 4),
    "nanochat": (_text("train.log", NANOCHAT), 4),
    "hf_trainer": (_text("run1/trainer_state.json", json.dumps(TRAINER_STATE)), 2),
    "lightning": (_text("run1/version_0/metrics.csv", LIGHTNING), 4),
    "wandb runs": (_text("wandb_export.csv", WANDB_RUNS), 2),
    "wandb history": (_text("history.csv", WANDB_HISTORY), 3),
    "wandb history json": (
        _text("history.jsonl", '{"_step": 0, "_timestamp": 1.5, "val/loss": 3.5}\n'),
        1,
    ),
    "wandb chart": (_text("chart.csv", WANDB_CHART), 4),
    "wandb script": (_text("project.csv", WANDB_SCRIPT), 2),
    "tensorboard": (
        lambda folder: _write(
            folder / "run1" / "events.out.tfevents.1.host",
            events((0, {"loss/val": 5.5}), (10, {"loss/val": 4.5, "lr": 1e-3})),
        ),
        2,
    ),
}
"""By importer and variant: what writes the example into a folder, and how many rows it holds."""
