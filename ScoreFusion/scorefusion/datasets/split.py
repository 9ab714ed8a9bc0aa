"""Three splits by person: whoever is trained on is never scored on, whatever the visit."""

from __future__ import annotations

import hashlib
import math
from collections import defaultdict
from collections.abc import Iterable, Sequence

from scorefusion.datasets.case import Case
from scorefusion.datasets.datalist import SECTIONS, Datalist
from scorefusion.errors import RequestError


def split_by_person(
    cases: Iterable[Case],
    fractions: Sequence[float] = (0.8, 0.1, 0.1),
    seed: int = 0,
    *,
    stratify: bool = True,
    name: str = "split by person",
) -> Datalist:
    """Deal people, with all their visits, to train, val and test.

    The order comes from a hash of seed and name, so the same people are dealt alike on every machine and in whatever
    order they are given, and one more person moves few of the others.

    Args:
        cases: all visits of all people.
        fractions: shares of people for train, val, test; sum 1. A share above zero gets at least one person.
        seed: another seed, other splits.
        stratify: give each split its share of every combination of contrasts.
        name: of the datalist.

    Raises:
        RequestError: the fractions make no sense, or there are fewer people than splits.
    """
    people: dict[str, list[Case]] = defaultdict(list)
    for case in cases:
        people[case.subject].append(case)
    sizes = _sizes(len(people), fractions)
    order = _order(people, seed, stratify)
    sections: dict[str, tuple[Case, ...]] = {}
    for section, size in zip(SECTIONS.values(), sizes, strict=True):
        mine, order = sorted(order[:size]), order[size:]
        sections[section] = tuple(
            case for subject in mine for case in sorted(people[subject], key=lambda case: case.session or "")
        )
    return Datalist(name, **sections)


def _order(people: dict[str, list[Case]], seed: int, stratify: bool) -> list[str]:
    """People in the order they are dealt."""
    drawn = {subject: hashlib.sha256(f"{seed}:{subject}".encode()).hexdigest() for subject in people}
    if not stratify:
        return sorted(people, key=lambda subject: drawn[subject])
    groups: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for subject, cases in people.items():
        groups[tuple(sorted({contrast for case in cases for contrast in case.contrasts}))].append(subject)
    # Each group is spread evenly over the whole order, so any cut of the order takes the same share of every group.
    place: dict[str, float] = {}
    for members in groups.values():
        members.sort(key=lambda subject: drawn[subject])
        place.update({subject: (rank + 0.5) / len(members) for rank, subject in enumerate(members)})
    return sorted(people, key=lambda subject: (place[subject], drawn[subject]))


def _sizes(people: int, fractions: Sequence[float]) -> list[int]:
    """How many people each split gets: rounded by the largest remainder, and nobody with a share goes without."""
    if len(fractions) != 3 or not all(0 <= share <= 1 for share in fractions) or not math.isclose(sum(fractions), 1.0):
        given = ", ".join(f"{share:g}" for share in fractions)
        msg = f"fractions are {given}; give three shares from 0 to 1 for train, val and test that sum to 1"
        raise RequestError(msg)
    wanted = [split for split, share in zip(SECTIONS, fractions, strict=True) if share > 0]
    if people < len(wanted):
        msg = (
            f"{people} {'person' if people == 1 else 'people'} cannot be split into {' and '.join(wanted)} without "
            "someone in two splits; add people, or set a share to 0"
        )
        raise RequestError(msg)
    exact = [people * share for share in fractions]
    sizes = [math.floor(value + 1e-9) for value in exact]  # 0.1 * 30 is just below 3
    for index in sorted(range(3), key=lambda index: sizes[index] - exact[index])[: people - sum(sizes)]:
        sizes[index] += 1
    for index, share in enumerate(fractions):
        if share > 0 and sizes[index] == 0:
            sizes[sizes.index(max(sizes))] -= 1
            sizes[index] = 1
    return sizes
