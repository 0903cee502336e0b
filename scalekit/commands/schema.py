"""`scalekit schema`: the sweep file as a JSON schema, for editors."""

from __future__ import annotations

import json


def schema() -> None:
    """Print the JSON schema of sweep files, for an editor's completion and checks."""
    from scalekit.sweep.schema import sweep_schema

    print(json.dumps(sweep_schema(), indent=2))


COMMAND = schema
