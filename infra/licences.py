"""Write docs/licences.md: what every package that runs with Quarterdeck is licensed under, from its own metadata.

`python -m infra.licences` exits 1 for a licence that would oblige whoever runs or changes Quarterdeck to more than
MIT does (the GPL and AGPL; the LGPL and MPL bind changes to their own files only), and for a package that states none.
"""

import re
import sys
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement

WORDS = {"Permission is hereby granted, free of charge": "MIT", "Redistribution and use in source and binary": "BSD"}
PAGE = Path(__file__).resolve().parent.parent / "docs" / "licences.md"
STRONG = re.compile(r"\bA?GPL|GNU (Affero )?General Public", re.IGNORECASE)
OTHERWISE = re.compile(r"\b(MIT|BSD|Apache|Artistic|LGPL|MPL)\b", re.IGNORECASE)  # a choice may be taken


def closure(name: str) -> dict[str, Distribution]:
    """Return every distribution that `name` needs here, itself left out."""
    found, wanted = dict[str, Distribution](), [(name, frozenset[str]())]
    seen = set[tuple[str, frozenset[str]]]()
    while wanted:
        at = wanted.pop()
        if at in seen:
            continue
        seen.add(at)
        try:
            here = distribution(at[0])
        except PackageNotFoundError:
            continue  # for another platform
        found[at[0]] = here
        for line in here.requires or ():
            need = Requirement(line)
            if need.marker is None or any(need.marker.evaluate({"extra": extra}) for extra in (*at[1], "")):
                wanted.append((re.sub(r"[-_.]+", "-", need.name).lower(), frozenset(need.extras)))
    return {name_: each for name_, each in found.items() if name_ != name}


def licence(package: Distribution) -> str:
    """Return the licence as the package states it: SPDX expression, else its classifiers, else its own words."""
    said = package.metadata
    classifiers = [
        line.rpartition(" :: ")[2] for line in said.get_all("Classifier") or () if line.startswith("License ::")
    ]
    own = (said.get("License") or "").strip().splitlines()
    named = ", ".join(name for name in classifiers if name != "OSI Approved")
    return said.get("License-Expression") or named or (own[0][:80] if own else "") or _by_its_file(package)


def _by_its_file(package: Distribution) -> str:
    """Tell the licence by the words of the file that comes with the package."""
    files = [file for file in package.files or () if "licen" in file.name.lower()]
    texts = [" ".join(file.read_text().split()) for file in files]
    return next((f"{name} (by its file)" for words, name in WORDS.items() for text in texts if words in text), "")


def problem(stated: str) -> str:
    """Say what is wrong with a licence; empty: nothing."""
    if not stated:
        return "states no licence"
    return "is strong copyleft" if STRONG.search(stated) and not OTHERWISE.search(stated) else ""


def main() -> int:
    packages = {name: licence(each) for name, each in sorted(closure("quarterdeck").items())}
    versions = {name: distribution(name).version for name in packages}
    rows = [f"| {name} | {versions[name]} | {stated} |" for name, stated in packages.items()]
    head = "# Licences\n\nWhat runs with Quarterdeck, as each package states it; `make audit` writes this page.\n"
    PAGE.write_text("\n".join([head, "| package | version | licence |", "|---|---|---|", *rows]) + "\n")
    bad = [f"{name} {why}: {stated}" for name, stated in packages.items() if (why := problem(stated))]
    print("\n".join([f"{len(packages)} packages, {PAGE}", *bad]), file=sys.stderr)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
