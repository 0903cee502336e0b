"""BibTeX of the methods that a study used."""

from __future__ import annotations

import re
from collections.abc import Iterable

from scalekit import registry

_ENTRIES = {
    "hoffmann2022": """@article{hoffmann2022training,
  title = {Training Compute-Optimal Large Language Models},
  author = {Hoffmann, Jordan and Borgeaud, Sebastian and Mensch, Arthur and Buchatskaya, Elena and
            Cai, Trevor and Rutherford, Eliza and de Las Casas, Diego and Hendricks, Lisa Anne and
            Welbl, Johannes and Clark, Aidan and Hennigan, Tom and Noland, Eric and
            Millican, Katie and van den Driessche, George and Damoc, Bogdan and Guy, Aurelia and
            Osindero, Simon and Simonyan, Karen and Elsen, Erich and Rae, Jack W. and
            Vinyals, Oriol and Sifre, Laurent},
  year = {2022},
  eprint = {2203.15556},
  archivePrefix = {arXiv},
}""",
    "besiroglu2024": """@article{besiroglu2024chinchilla,
  title = {Chinchilla Scaling: A replication attempt},
  author = {Besiroglu, Tamay and Erdil, Ege and Barnett, Matthew and You, Josh},
  year = {2024},
  eprint = {2404.10102},
  archivePrefix = {arXiv},
}""",
    "kaplan2020": """@article{kaplan2020scaling,
  title = {Scaling Laws for Neural Language Models},
  author = {Kaplan, Jared and McCandlish, Sam and Henighan, Tom and Brown, Tom B. and
            Chess, Benjamin and Child, Rewon and Gray, Scott and Radford, Alec and Wu, Jeffrey and
            Amodei, Dario},
  year = {2020},
  eprint = {2001.08361},
  archivePrefix = {arXiv},
}""",
    "porian2024": """@article{porian2024resolving,
  title = {Resolving Discrepancies in Compute-Optimal Scaling of Language Models},
  author = {Porian, Tomer and Wortsman, Mitchell and Jitsev, Jenia and Schmidt, Ludwig and
            Carmon, Yair},
  year = {2024},
  eprint = {2406.19146},
  archivePrefix = {arXiv},
}""",
    "li2025": """@inproceedings{li2025misfitting,
  title = {(Mis)Fitting Scaling Laws: A Survey of Scaling Law Fitting Techniques in Deep Learning},
  author = {Li, Margaret and Kudugunta, Sneha and Zettlemoyer, Luke},
  booktitle = {The Thirteenth International Conference on Learning Representations},
  year = {2025},
  eprint = {2502.18969},
  archivePrefix = {arXiv},
}""",
}


def used(approaches: Iterable[str], law: str, params_kind: str, *, bootstrap: bool) -> list[str]:
    """Name the entries whose methods a study used, in the order of `_ENTRIES`."""
    keys = {"li2025"}
    if {"parametric", "isoflop", "envelope"} & set(approaches):
        keys.add("hoffmann2022")
    if bootstrap:
        keys.add("besiroglu2024")
    if law in ("kaplan", "power") or params_kind == "non_embedding":
        keys.add("kaplan2020")
    if params_kind == "non_embedding_head" or "isoflop" in approaches:
        keys.add("porian2024")
    return [key for key in _ENTRIES if key in keys]


def bibtex(keys: Iterable[str], laws: Iterable[str] = ()) -> str:
    """Return the entries' text, with one for each law's own source that is not among them."""
    entries = [_ENTRIES[key] for key in keys]
    for law in laws:
        entry = of_source(registry.find("laws", law).source)
        if entry and entry not in entries and not any(_eprint(entry) in e for e in entries):
            entries.append(entry)
    return "\n\n".join(entries)


def of_source(source: str) -> str:
    """Make an entry of what a law says of its source; empty where that names no paper on arXiv.

    >>> print(of_source("Gadre et al. 2024, arXiv:2403.08540, section 3"))
    @misc{gadre2024,
      author = {Gadre and others},
      year = {2024},
      eprint = {2403.08540},
      archivePrefix = {arXiv},
    }
    """
    found = re.search(r"([A-Z][\w-]+)( et al\.| and [A-Z]\w+)? (\d{4}), arXiv:([\d.]+\d)", source)
    if found is None:
        return ""
    first, more, year, eprint = found.groups()
    author = f"{first}{' and others' if more == ' et al.' else more or ''}"
    return (
        f"@misc{{{first.lower()}{year},\n  author = {{{author}}},\n  year = {{{year}}},\n"
        f"  eprint = {{{eprint}}},\n  archivePrefix = {{arXiv}},\n}}"
    )


def _eprint(entry: str) -> str:
    return next(line for line in entry.splitlines() if "eprint" in line)
