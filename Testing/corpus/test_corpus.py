"""Every hostile input ends in the right result, a clear error or a warning. See the package for what a case is."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import lru_cache

import pytest

torch = pytest.importorskip("torch")
if not hasattr(os, "fork"):
    pytest.skip("cases run in forked processes", allow_module_level=True)

from corpus.framework import CASES, Outcome, Verdict, judge, load_cases, make_models, summary  # noqa: E402

load_cases()
Judge = Callable[[str], Verdict]


@pytest.fixture(scope="session")
def verdict_of(tmp_path_factory: pytest.TempPathFactory) -> Judge:
    """Runs a case, once a session."""
    models = make_models(tmp_path_factory.mktemp("models"))
    return lru_cache(maxsize=None)(lambda name: judge(CASES[name], models))


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if case.slow else []) for name, case in CASES.items()]
)
def test_ends_as_it_should(name: str, verdict_of: Judge) -> None:
    verdict = verdict_of(name)
    assert verdict.outcome is not Outcome.WRONG, verdict.why


@pytest.mark.timeout(900)  # alone, it runs them all
def test_summary_of_more_than_four_hundred_cases_counts_none_wrong(verdict_of: Judge) -> None:
    verdicts = {name: verdict_of(name) for name, case in CASES.items() if not case.slow}
    text = summary(verdicts)
    print(f"\n{text}")  # noqa: T201  (the figures, with `pytest -s -k summary`)
    assert len(CASES) >= 400
    assert not any(verdict.outcome is Outcome.WRONG for verdict in verdicts.values()), text
