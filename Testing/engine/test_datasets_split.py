"""Nobody is in two splits, and the same people always land where they landed before."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scorefusion.datasets.case import Case
from scorefusion.datasets.datalist import SECTIONS, Datalist
from scorefusion.datasets.split import split_by_person
from scorefusion.errors import RequestError


def people(count: int, visits: int = 1, contrasts: tuple[str, ...] = ("t1",), prefix: str = "P") -> list[Case]:
    return [
        Case(f"{prefix}{person:03d}", {key: Path(f"{person}_{visit}_{key}.nii") for key in contrasts}, f"{visit}")
        for person in range(count)
        for visit in range(visits)
    ]


def subjects(datalist: Datalist) -> dict[str, list[str]]:
    return {split: [case.subject for case in datalist.cases(split)] for split in SECTIONS}


class TestPeople:
    @given(
        visits=st.lists(st.integers(1, 4), min_size=3, max_size=25),
        seed=st.integers(0, 5),
        shares=st.sampled_from([(0.8, 0.1, 0.1), (0.6, 0.2, 0.2), (0.98, 0.01, 0.01), (0.5, 0.5, 0.0)]),
    )
    def test_nobody_is_in_two_splits_and_no_visit_is_lost(
        self, visits: list[int], seed: int, shares: tuple[float, float, float]
    ) -> None:
        cases = [Case(f"P{p}", {"t1": Path("x.nii")}, str(v)) for p, n in enumerate(visits) for v in range(n)]
        datalist = split_by_person(cases, shares, seed)
        found = [set(names) for names in subjects(datalist).values()]
        assert sum(len(names) for names in found) == len(set().union(*found)) == len(visits)
        assert sum(len(datalist.cases(split)) for split in SECTIONS) == sum(visits)
        assert [bool(names) for names in found] == [share > 0 for share in shares]

    def test_shares_are_kept(self) -> None:
        assert [len(names) for names in subjects(split_by_person(people(30))).values()] == [24, 3, 3]
        assert [len(set(names)) for names in subjects(split_by_person(people(20, visits=2))).values()] == [16, 2, 2]
        assert [len(names) for names in subjects(split_by_person(people(4), (0.9, 0.05, 0.05))).values()] == [2, 1, 1]


class TestDealing:
    def test_the_order_of_input_plays_no_part(self) -> None:
        cases = people(40, visits=2)
        assert split_by_person(cases) == split_by_person(cases[::-1]) == split_by_person(cases[7:] + cases[:7])

    def test_another_seed_deals_anew(self) -> None:
        assert subjects(split_by_person(people(40), seed=0)) != subjects(split_by_person(people(40), seed=1))

    def test_known_people_stay_where_they_are_known_to_be(self) -> None:
        # A frozen answer: published splits must come out alike in every later version.
        assert subjects(split_by_person(people(10)))["test"] == ["P007"]

    def test_one_more_person_moves_few(self) -> None:
        before, after = (subjects(split_by_person(people(count))) for count in (100, 101))
        home = {name: split for split, names in after.items() for name in names}
        moved = [name for split, names in before.items() for name in names if home[name] != split]
        assert len(moved) <= 2


class TestStrata:
    def test_each_split_has_its_share_of_every_combination(self) -> None:
        cases = (
            people(40) + people(20, contrasts=("t1", "flair"), prefix="F") + people(20, contrasts=("t2",), prefix="T")
        )
        for split, expected in (("train", (32, 16, 16)), ("val", (4, 2, 2)), ("test", (4, 2, 2))):
            counts = Counter(name[0] for name in subjects(split_by_person(cases))[split])
            assert (counts["P"], counts["F"], counts["T"]) == expected

    def test_without_strata_the_contrasts_play_no_part(self) -> None:
        plain = subjects(split_by_person(people(12), stratify=False))
        mixed = people(6) + people(12, contrasts=("t1", "flair"))[6:]
        assert subjects(split_by_person(mixed, stratify=False)) == plain


class TestRefusals:
    @pytest.mark.parametrize("shares", [(0.8, 0.1), (0.8, 0.1, 0.2), (1.2, -0.1, -0.1)])
    def test_shares_that_make_no_sense(self, shares: tuple[float, ...]) -> None:
        with pytest.raises(RequestError, match="sum to 1"):
            split_by_person(people(10), shares)

    def test_too_few_people(self) -> None:
        with pytest.raises(RequestError, match="2 people cannot be split into train and val and test"):
            split_by_person(people(2, visits=5))
        assert [len(x) for x in subjects(split_by_person(people(1), (1, 0, 0))).values()] == [1, 0, 0]
