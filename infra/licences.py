"""Write docs/licences.md: what every package that runs with Quarterdeck is licensed under, from its own metadata.

`python -m infra.licences` exits 1 for a licence that would oblige whoever runs or changes Quarterdeck to more than
MIT does (the GPL and AGPL; the LGPL and MPL bind changes to their own files only), and for a package that states none.
"""

import re
import sys
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

WORDS = {"Permission is hereby granted, free of charge": "MIT", "Redistribution and use in source and binary": "BSD"}
PAGE = Path(__file__).resolve().parent.parent / "docs" / "licences.md"
HEAD = """# Licences

What runs with Quarterdeck, as each package states it; `make audit` writes this page.

| package | version | licence |
|---|---|---|
"""
STRONG = re.compile(r"\bA?GPL|GNU (Affero )?General Public", re.IGNORECASE)
OTHERWISE = re.compile(r"\b(MIT|BSD|Apache|Artistic|LGPL|MPL)\b", re.IGNORECASE)  # a choice may be taken


def closure(name: str) -> dict[str, Distribution]:
    """Return every distribution that `name` needs here, itself left out."""
    seen: dict[tuple[str, frozenset[str]], Distribution] = {}
    wanted = [(name, frozenset[str]())]
    while wanted:
        at = wanted.pop()
        try:
            seen[at] = here = distribution(at[0])
        except PackageNotFoundError:
            continue  # for another platform
        for need in map(Requirement, here.requires or ()):
            if need.marker is None or any(need.marker.evaluate({"extra": extra}) for extra in (*at[1], "")):
                wanted.append((canonicalize_name(need.name), frozenset(need.extras)))
        wanted = [each for each in wanted if each not in seen]
    return {at[0]: package for at, package in seen.items() if at[0] != name}


def licence(package: Distribution) -> str:
    """Return the licence as the package states it: SPDX expression, its classifiers, its own words, or its file."""
    meta = package.metadata
    lines = [line.split(" :: ") for line in meta.get_all("Classifier") or ()]
    named = ", ".join(line[-1] for line in lines if line[0] == "License" and line[-1] != "OSI Approved")
    own = (meta.get("License") or "").strip().partition("\n")[0]
    return meta.get("License-Expression") or named or own[:80] or _by_its_file(package)


def _by_its_file(package: Distribution) -> str:
    """Recognise the licence by the words of the file that comes with the package."""
    files = [file for file in package.files or () if "licen" in file.name.lower()]
    texts = [" ".join(file.read_text().split()) for file in files]
    return next((f"{name} (by its file)" for words, name in WORDS.items() for text in texts if words in text), "")


def problem(stated: str) -> str:
    """Return what is wrong with a licence; empty: nothing."""
    if not stated:
        return "states no licence"
    return "is strong copyleft" if STRONG.search(stated) and not OTHERWISE.search(stated) else ""


def main() -> int:
    packages = sorted(closure("quarterdeck").items())
    stated = {name: licence(package) for name, package in packages}
    rows = [f"| {name} | {package.version} | {stated[name]} |\n" for name, package in packages]
    PAGE.write_text(HEAD + "".join(rows))
    bad = [f"{name} {problem(text)}: {text}" for name, text in stated.items() if problem(text)]
    print("\n".join([f"{len(packages)} packages, {PAGE}", *bad]), file=sys.stderr)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
