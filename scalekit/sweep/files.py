"""Merge the files of a sweep: what it extends, itself, its profile, and --set."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from scalekit import registry
from scalekit.config.nodes import Items, Node, Table, Text, read_nodes, read_source
from scalekit.config.problems import ConfigError, Place, Problem, Problems, Source
from scalekit.config.validate import read_model
from scalekit.errors import UsageError, did_you_mean, nearest
from scalekit.sweep.axes import flatten
from scalekit.sweep.keys import UnknownKeyError, resolve_key
from scalekit.sweep.sections import Profile, ProfileFile, SweepFile

_OF_KEYS = ("base", "grid", "zip", "ladder", "derive")
_MERGED = (*SweepFile.model_fields, "sizes")
_MOST_FILES = 32

_PATHS = {"data.path": "", "start.folder": "", "eval.tasks": "tasks"}
"""Settings that are paths, relative to their file, unless they name a member of that family."""


def read_merged(
    path: Path, sets: Sequence[str], problems: Problems
) -> tuple[Table, Profile | None]:
    """Read a sweep file and all that goes over and under it, as one mapping.

    Returns:
        The sections, with the keys of runs under their dotted names, and the site's profile.
    """
    table = _read_chain(path, problems, ())
    changes = [_read_set(text, problems) for text in sets]
    final = table
    for change in changes:
        final = _merge(final, change)
    is_set = "profile" not in table.entries
    profile, over = _read_profile(path, final, problems, is_set=is_set)
    if over is not None:
        final = _merge(table, over)
        for change in changes:
            final = _merge(final, change)
    return final, profile


def set_keys(table: Table) -> list[str]:
    """List the keys of `base` that were set on the command line."""
    base = table.entries.get("base")
    if not isinstance(base, Table):
        return []
    return [name for name, place in base.keys.items() if place.source.name.startswith("--set")]


def _read_chain(path: Path, problems: Problems, above: tuple[Path, ...]) -> Table:
    """Read a file merged over the files that it extends."""
    source = read_source(path)
    node = read_nodes(source)
    if not isinstance(node, Table):
        what = "the file is empty" if isinstance(node, Text) and node.is_null else ""
        what = what or f"must be a mapping at the top, found {node.describe()}"
        raise ConfigError([Problem(node.place, what, "begin with `scalekit: 1`")])
    own = _normalise(node, path, problems)
    chain = (*above, path.resolve())
    merged = Table(node.place)
    for parent, place in _parents(own, path, problems):
        if parent.resolve() in chain:
            shown = " -> ".join(p.name for p in (*chain, parent))
            raise ConfigError([Problem(place, f"extends in a circle, {shown}", "break it")])
        if len(chain) >= _MOST_FILES:
            raise ConfigError([Problem(place, "extends too many files", "merge some")])
        if not parent.is_file():
            problems.add(place, f"no such file, found {str(parent)!r}", "mend the path")
            continue
        merged = _merge(merged, _read_chain(parent, problems, chain))
    merged = _merge(merged, own)
    merged.entries.pop("extends", None)
    merged.place = node.place
    return merged


def _parents(table: Table, path: Path, problems: Problems) -> list[tuple[Path, Place]]:
    node = table.entries.get("extends")
    if node is None or (isinstance(node, Text) and node.is_null):
        return []
    parents = []
    for item in node.items if isinstance(node, Items) else [node]:
        if isinstance(item, Text) and item.text and "\0" not in item.text:
            parents.append((path.parent / item.text, item.place))
        else:
            problems.add(item.place, f"must be a path, found {item.describe()}", "name a file")
    return parents


def _normalise(table: Table, path: Path, problems: Problems) -> Table:
    """Write the keys of runs under their dotted names, and paths in full."""
    for section in _OF_KEYS:
        if section in table.entries:
            table.entries[section] = flatten(table.entries[section], problems)
    isoflop = table.entries.get("isoflop")
    if isinstance(isoflop, Table) and "sizes" in isoflop.entries:
        isoflop.entries["sizes"] = flatten(isoflop.entries["sizes"], problems)
    cases = table.entries.get("cases")
    if isinstance(cases, Items):
        flat = [flatten(i, problems) if isinstance(i, Table) else i for i in cases.items]
        table.entries["cases"] = replace(cases, items=flat)
    for settings in _settings_of(table):
        for key in _PATHS.keys() & settings.entries.keys():
            node = settings.entries[key]
            settings.entries[key] = _in_full(node, path.parent.absolute(), _PATHS[key])
    return table


def _settings_of(table: Table) -> list[Table]:
    """List the mappings of a file that give keys of runs their values."""
    cases = table.entries.get("cases")
    found = [table.entries.get(section) for section in ("base", "grid", "zip")]
    found += cases.items if isinstance(cases, Items) else []
    return [node for node in found if isinstance(node, Table)]


def _in_full(node: Node, folder: Path, family: str) -> Node:
    """Write a path, or each of a list, in full; `MEMBER:WHERE` of a family is no path."""
    if isinstance(node, Items):
        return replace(node, items=[_in_full(item, folder, family) for item in node.items])
    if not isinstance(node, Text) or node.is_null or "\0" in node.text:
        return node
    if family and registry.split_member(family, node.text, "")[0]:
        return node
    full = os.path.normpath(folder / Path(node.text).expanduser())
    return Text(node.place, full, plain=False)


def _merge(under: Table, over: Table) -> Table:
    """Merge sections key by key; a list, a setting and an axis are replaced."""
    merged = Table(over.place, dict(under.entries), dict(under.keys))
    for key, node in over.entries.items():
        old = merged.entries.get(key)
        merged.entries[key], merged.keys[key] = node, over.keys[key]
        if key in _MERGED and isinstance(old, Table) and isinstance(node, Table):
            merged.entries[key] = _merge(old, node)
    return merged


def _read_set(text: str, problems: Problems) -> Table:
    """Read one KEY=VALUE of the command line as a mapping to merge."""
    word, equals, value = text.partition("=")
    word = word.strip()
    if not equals or not word:
        raise UsageError(f"--set {text!r}: not KEY=VALUE; write it like train.lr=1e-3")
    source = Source(f"--set {word}", value)
    place = Place(source, 1, 1)
    node = read_nodes(source)
    parts = _path_of(word, place, problems)
    for part in reversed(parts):
        node = Table(place, {part: node}, {part: place})
    return _normalise(node, Path("here"), problems) if isinstance(node, Table) else Table(place)


def _path_of(word: str, place: Place, problems: Problems) -> list[str]:
    """Find the section and key that --set names; a key of runs alone is one of `base`."""
    first, _, rest = word.partition(".")
    if first in _OF_KEYS:
        return [first, rest] if rest else [first]
    if first in SweepFile.model_fields:
        return [first, *rest.split(".", 1)] if rest else [first]
    try:
        return ["base", resolve_key(word)]
    except UnknownKeyError as error:
        close = nearest(first, SweepFile.model_fields)
        todo = f"did you mean {f'{close}.{rest}' if rest else close!r}?" if close else error.todo
        problems.add(place, error.what, todo)
        return []


def _read_profile(
    path: Path, table: Table, problems: Problems, *, is_set: bool
) -> tuple[Profile | None, Table | None]:
    """Read the site's profile that the executor names, and what it says of the sweep's sections."""
    inline = table.entries.get("profile")
    is_given = inline is not None and not (isinstance(inline, Text) and inline.is_null)
    # What --set alone says of the site goes over the profile that the file names.
    changes = inline if is_set and isinstance(inline, Table) else None
    executor = table.entries.get("executor")
    named = executor.entries.get("profile") if isinstance(executor, Table) else None
    if inline is not None and is_given and changes is None:
        if named is not None and named.place.source.name.startswith("--set"):
            what = "the file has its profile written out, so this would change nothing"
            problems.add(named.place, what, "add --set profile=null")
        return read_model(inline, Profile, problems), None
    if not isinstance(named, Text) or named.is_null:
        return (read_model(changes, Profile, problems) if changes else None), None
    folders = [path.parent / "profiles", user_profiles()]
    is_name = named.text.replace("-", "_").replace(".", "_").isidentifier()
    found = [folder / f"{named.text}.yaml" for folder in folders if is_name]
    file = next((path for path in found if path.is_file()), None)
    if file is None:
        known = {path.stem for folder in folders for path in folder.glob("*.yaml")}
        looked = " and ".join(str(folder) for folder in folders)
        todo = did_you_mean(named.text, known) if known else f"write {named.text}.yaml in {looked}"
        problems.add(named.place, f"unknown profile {named.text!r}", todo)
        return None, None
    node = read_nodes(read_source(file))
    if changes is not None and isinstance(node, Table):
        node = _merge(node, changes)
    model = read_model(node, ProfileFile, problems)
    if model is None or not isinstance(node, Table):
        return None, None
    over = Table(node.place)
    for section in ("executor", "resources", "time"):
        if section in node.entries:
            over.entries[section], over.keys[section] = node.entries[section], node.keys[section]
    site = model.model_dump(exclude={"executor", "resources", "time"})
    return Profile(**{**site, "name": site["name"] or named.text}), over


def user_profiles() -> Path:
    """Return the folder of the user's own profiles."""
    home = os.environ.get("XDG_CONFIG_HOME")
    return (Path(home) if home else Path.home() / ".config") / "scalekit" / "profiles"
