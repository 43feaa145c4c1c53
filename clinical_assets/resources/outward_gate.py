"""The one gate through which assets, checks and IO managers report: what identifies anybody does not reach Dagster.

On one machine Dagster's database is the hospital's own; under Dagster+ what is reported leaves it. So metadata, log
lines and errors are searched before Dagster gets them: an identifier in metadata stops the step, a line or an error
that holds one is replaced by a sentence that says so, and counts of 1 to 10 read `fewer than 11`.

Belongs here: the gate. Does not belong here: the search itself (governance/line_search.py), and tables that analysts
read (reporting/shown_tables.py).
"""

import functools
import inspect
import logging
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, ParamSpec, TypeVar, cast

import dagster as dg

from clinical_assets.governance.canaries import canaries
from clinical_assets.governance.direct_identifiers import IdentifierClass
from clinical_assets.governance.known_identifiers import KnownIdentifiers
from clinical_assets.governance.line_search import LineSearch
from clinical_assets.governance.pseudonyms import PseudonymError, read_secret
from clinical_assets.governance.small_cells import FEWER, hide_counts_in, is_name_of_count, is_small
from clinical_assets.resources.home import Home

MARK = "__reports_through_gate__"

P = ParamSpec("P")
R = TypeVar("R")


class WithheldError(RuntimeError):
    """Something held an identifier and was not reported; the message says what and of which kind, never the value."""


def reporting(function: Callable[P, R]) -> Callable[P, R]:
    """The same function, whose results and errors pass the gate; for the functions of assets, checks, IO managers.

    Raises WithheldError where metadata hold an identifier, and in place of an error whose text holds one.
    """
    name = function.__name__

    @functools.wraps(function)
    def passing(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return _searched_result(name, function(*args, **kwargs))
        except Exception as error:
            if (withheld := _withheld_error(name, error)) is None:
                raise
        raise withheld

    @functools.wraps(function)
    def passing_each(*args: P.args, **kwargs: P.kwargs) -> Iterator[Any]:
        try:
            for result in cast(Iterable[Any], function(*args, **kwargs)):
                yield _searched_result(name, result)
        except Exception as error:
            if (withheld := _withheld_error(name, error)) is None:
                raise
        else:
            return
        raise withheld

    gated = passing_each if inspect.isgeneratorfunction(function) else passing
    setattr(gated, MARK, True)
    return cast(Callable[P, R], gated)


def searched(where: str, metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Metadata as they may be reported; raises WithheldError naming the place, the key and the kind of identifier."""
    for key, value in metadata.items():
        if kinds := _search().kinds_in(_text_of(value)):
            raise WithheldError(
                f"{where}: its metadata {key} holds an identifier ({_named(kinds)}); nothing was reported: report a "
                "count or a kind instead of the value"
            )
    return {key: _shown(key, value) for key, value in metadata.items()}


def search_log_lines() -> None:
    """From now on in this process, replace every log line and traceback that holds an identifier; safe to repeat."""
    make = logging.getLogRecordFactory()
    if getattr(make, MARK, False):
        return

    def make_searched(*args: Any, **kwargs: Any) -> logging.LogRecord:
        record = make(*args, **kwargs)
        traced = "".join(traceback.format_exception(*record.exc_info)) if record.exc_info else ""
        if kinds := _search().kinds_in(f"{_message_of(record)}\n{traced}"):
            record.msg = f"a line was withheld: it held an identifier ({_named(kinds)})"
            record.args, record.exc_info, record.exc_text = None, None, None
        return record

    setattr(make_searched, MARK, True)
    logging.setLogRecordFactory(make_searched)


def _message_of(record: logging.LogRecord) -> str:
    """The line as it will read; where its arguments do not fit, which logging says by itself, its parts."""
    try:
        return record.getMessage()
    except (TypeError, ValueError, KeyError):
        return f"{record.msg} {record.args}"


def _searched_result(name: str, result: Any) -> Any:
    match result:
        case dg.MaterializeResult():
            return dg.MaterializeResult(
                asset_key=result.asset_key,
                value=result.value,
                metadata=searched(name, result.metadata or {}),
                check_results=[_searched_result(name, each) for each in result.check_results],
                data_version=result.data_version,
                tags=result.tags,
            )
        case dg.AssetCheckResult():
            return dg.AssetCheckResult(
                passed=result.passed,
                asset_key=result.asset_key,
                check_name=result.check_name,
                severity=result.severity,
                metadata=searched(name, result.metadata),
                description=result.description,
            )
        case dg.Output():
            return result.with_metadata(searched(name, result.metadata))
        case _:
            return result


def _withheld_error(name: str, error: Exception) -> WithheldError | None:
    """What is raised in place of an error whose text, or that of one behind it, holds an identifier."""
    kinds = _search().kinds_in("".join(traceback.format_exception(error)))
    if not kinds:
        return None
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return WithheldError(
        f"{name}: {type(error).__name__} in {Path(frame.filename).name}:{frame.lineno}; its text held an identifier "
        f"({_named(kinds)}) and was withheld"
    )


def _shown(key: str, value: Any) -> Any:
    match value:
        case dg.IntMetadataValue():
            return _shown(key, value.value)
        case dg.TextMetadataValue():
            return hide_counts_in(value.value or "")
        case dg.MarkdownMetadataValue():
            return dg.MetadataValue.md(hide_counts_in(value.value or ""))
        case str():
            return hide_counts_in(value)
        case int() if not isinstance(value, bool) and is_name_of_count(key) and is_small(value):
            return FEWER
        case _:
            return value


def _text_of(value: Any) -> str:
    return str(value.value) if isinstance(value, dg.MetadataValue) else str(value)


def _named(kinds: tuple[IdentifierClass, ...]) -> str:
    return ", ".join(kind.value for kind in kinds)


def _search() -> LineSearch:
    key = Home.from_environment().pseudonym_key
    try:
        return _search_with(key, key.stat().st_mtime_ns)
    except FileNotFoundError:
        return _search_with(None, 0)


@functools.lru_cache(maxsize=2)
def _search_with(key: Path | None, _changed: int) -> LineSearch:
    """The search for patterns, and for the canaries that follow from a home's key."""
    try:
        planted = canaries(read_secret(key)) if key else ()
    except PseudonymError:
        planted = ()  # who needs the key says what is wrong with it
    return LineSearch(KnownIdentifiers.of((canary.identifier_class, canary.value) for canary in planted))
