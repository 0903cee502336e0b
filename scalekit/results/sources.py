"""What a user names, folders and patterns included, into sweeps and files that belong together."""

from __future__ import annotations

import glob
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from scalekit import registry
from scalekit.errors import InputError, UsageError
from scalekit.importers.base import Importer, Source
from scalekit.results.store import SweepFolder


@dataclass(frozen=True)
class Files:
    """Files that one importer reads together: a run's, or one table."""

    importer: Importer
    sources: tuple[Source, ...]

    @property
    def where(self) -> str:
        """What a message names: the file, or the folder of several."""
        first = self.sources[0].path
        return _words(first if len(self.sources) == 1 else self._folder(first))

    @property
    def run(self) -> str:
        """What the run is called where the files do not say."""
        return self.sources[0].run

    def _folder(self, path: Path) -> Path:
        return path.parent if self.importer.run_folder is None else self.importer.run_folder(path)


def find_sources(
    named: Iterable[Path | str], *, importer: str | None = None, skip: Path | None = None
) -> tuple[list[SweepFolder | Files], list[str]]:
    """Find the sweeps and files behind what a user named, in that order.

    A folder that is no sweep's is walked. There, plain tables are read only where no log is found,
    since what lies beside logs is rarely a table of runs; a table named outright is always read.

    Args:
        named: Files, folders, and patterns such as `runs/*/log.txt`.
        importer: Reads every file with this importer, a name or a Python file that binds one.
        skip: A file or folder that is never read: the one about to be written.

    Returns:
        What was found, and in sentences what was left out.

    Raises:
        InputError: Nothing there, or a file that no importer recognises, or two do.
        UsageError: No such importer, or nothing named.
    """
    choice = _Choice(importer)
    entries: list[SweepFolder | _Entry] = []
    notes: list[str] = []
    seen: set[Path] = set() if skip is None else {skip.resolve()}
    for path in _expanded(named):
        if SweepFolder(path).plan_file.exists():
            new: list[SweepFolder | _Entry] = [SweepFolder(path)]
        elif path.is_dir():
            new, said = _walked(path, choice, seen)
            notes += said
        elif path.resolve() in seen:
            notes.append(f"{path}: is named twice, or is the output; it is not read again")
            continue
        else:
            source = Source(path)
            new = [_Entry(choice.of(source), source, path.parent)]
        seen |= {one.source.path.resolve() for one in new if isinstance(one, _Entry)}
        entries += new
    if not entries and not notes:
        raise UsageError("no source; name a sweep's folder, a table or a log")
    if not entries:
        raise InputError(f"nothing to read; {notes[0]}")
    return _with_names(_grouped(entries)), notes


@dataclass(frozen=True)
class _Entry:
    """A file to read, the importer that reads it, and the folder below which its run is named."""

    importer: Importer
    source: Source
    base: Path

    @property
    def place(self) -> Path:
        """The run's folder, or the file where that is the run."""
        path, folder = self.source.path, self.importer.run_folder
        return path if folder is None else folder(path)


def _expanded(named: Iterable[Path | str]) -> Iterator[Path]:
    for name in named:
        path = Path(name)
        if not glob.has_magic(str(name)) or path.exists():
            yield path
            continue
        matched = sorted(glob.glob(str(name), recursive=True))  # noqa: PTH207  # absolute ones too
        if not matched:
            raise InputError(f"{name}: no file matches; mend the pattern")
        yield from map(Path, matched)


class _Choice:
    """Chooses the importer of a file: the one asked for, or the one that recognises it."""

    def __init__(self, asked: str | None) -> None:
        self.asked: Importer | None = registry.find("importers", asked) if asked else None
        names = registry.names("importers")
        self.members: list[Importer] = [registry.find("importers", name) for name in names]

    def of(self, source: Source) -> Importer:
        """Choose the importer of a file that was named outright."""
        with source.open():  # so that what cannot be read is told as that
            pass
        if source.packing:
            raise InputError(
                f"{source.path}: packed by {source.packing}; unpack it, or save a spreadsheet as "
                "CSV"
            )
        if self.asked is not None:
            return self.asked
        found = self.recognise(source)
        if found is not None:
            return found
        known = ", ".join(f"{member.name} ({member.about})" for member in self.members)
        raise InputError(
            f"{source.path}: of no known format; say which it is with --importer, of {known}"
        )

    def recognise(self, source: Source) -> Importer | None:
        """Find the importer that recognises a file; a log's goes before a plain table's."""
        if self.asked is not None:
            return self.asked if self.asked.recognise(source) else None
        found = [member for member in self.members if member.recognise(source)]
        logs = [member for member in found if not member.is_general]
        best = logs or found
        if len(best) > 1:
            names = " and ".join(member.name for member in best)
            raise InputError(f"{source.path}: may be {names}; say which with --importer")
        return best[0] if best else None


def _walked(
    folder: Path, choice: _Choice, seen: set[Path]
) -> tuple[list[SweepFolder | _Entry], list[str]]:
    sweeps: list[SweepFolder | _Entry] = []
    read: list[_Entry] = []
    other: Counter[str] = Counter()
    unknown: list[Path] = []
    for path in _below(folder, seen):
        if path.is_dir():
            sweeps.append(SweepFolder(path))
        elif path.resolve() in seen:
            other["named already"] += 1
        elif path.is_fifo() or path.is_socket():
            other["pipe"] += 1
        elif (found := choice.recognise(Source(path))) is not None:
            read.append(_Entry(found, Source(path), folder))
        else:
            unknown.append(path)
    companions = {e.source.path.parent / name for e in read for name in e.importer.beside}
    other.update(path.suffix or path.name for path in unknown if path not in companions)
    if any(not entry.importer.is_general for entry in read):
        other.update(f"{e.source.suffix} beside logs" for e in read if e.importer.is_general)
        read = [entry for entry in read if not entry.importer.is_general]
    notes = _left_out(folder, other)
    if not sweeps and not read:
        there = f", only {notes[0].partition(': ')[2]}" if notes else ""
        raise InputError(
            f"{folder}: no plan.jsonl, no table and no known log in it{there}; name a sweep's "
            "folder, a table, or a log with its --importer"
        )
    return [*sweeps, *read], notes


def _below(folder: Path, skip: set[Path]) -> Iterator[Path]:
    """Walk a folder in order: its files, and sweeps' folders, which are not entered.

    Links to folders are not followed: they go in circles, or to what is walked anyway.
    """
    try:
        paths = sorted(folder.iterdir())
    except OSError as error:
        raise InputError(f"{folder}: cannot be read, {error.strerror}; name another") from error
    for path in paths:
        if path.name.startswith(".") or (path.is_dir() and path.resolve() in skip):
            continue
        if not path.is_dir() or SweepFolder(path).plan_file.exists():
            yield path
        elif not path.is_symlink():
            yield from _below(path, skip)


def _left_out(folder: Path, other: Counter[str]) -> list[str]:
    if not other:
        return []
    kinds = ", ".join(f"{count} {kind}" for kind, count in other.most_common(5))
    more = ", ..." if len(other) > 5 else ""
    return [f"{folder}: {other.total()} files that are not read: {kinds}{more}"]


def _grouped(entries: Sequence[SweepFolder | _Entry]) -> list[SweepFolder | Files]:
    """Put the files of one run together, at the place of the first."""
    groups: dict[Any, SweepFolder | list[_Entry]] = {}
    for entry in entries:
        if isinstance(entry, SweepFolder):
            groups[entry.root] = entry
        else:
            key = (entry.importer.name, entry.place)
            groups.setdefault(key, []).append(entry)  # type: ignore[union-attr]
    return [
        group
        if isinstance(group, SweepFolder)
        else Files(
            group[0].importer,
            tuple(replace(entry.source, run=_run_name(group[0])) for entry in group),
        )
        for group in groups.values()
    ]


def _run_name(entry: _Entry) -> str:
    """Name a run by its place below what the user named, without the suffix of a file."""
    place, base = entry.place, entry.base
    if not place.is_relative_to(base):
        return _words(place.name)
    below = place.relative_to(base)
    if not below.parts:
        return _words(base.resolve().name)
    if place != entry.source.path:
        return _words(below)
    return _words(below.with_name(entry.source.name).with_suffix(""))


def _words(path: Path | str) -> str:
    """Write a path so that a table can hold it, whatever bytes its name has."""
    return os.fsencode(path).decode(errors="backslashreplace")


def _with_names(found: list[SweepFolder | Files]) -> list[SweepFolder | Files]:
    """Name runs by their whole path where two would have one name."""
    counts = Counter(one.run for one in found if isinstance(one, Files))
    return [
        replace(one, sources=tuple(replace(s, run=one.where) for s in one.sources))
        if isinstance(one, Files) and counts[one.run] > 1
        else one
        for one in found
    ]
