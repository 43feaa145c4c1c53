"""Small cells: which counts of a table may not leave the platform, so that no count under 11 is shown or subtracted.

Belongs here: the rule and its proof-like guarantee, on counts with their totals. Does not belong here: which figure
rests on which count, and how what is hidden is shown.

The threshold is that of the CMS cell size suppression policy: no cell of 1 to 10 is displayed, nor anything from which
one can be derived. Nought is shown. A total shown beside all but one of its parts gives that part away, so further
parts are hidden with it (complementary suppression): in the order of their names, never of their sizes, since what is
chosen by its size tells its size. Those who know every number shown, every total and this rule still find two or more
values possible for each count hidden in one grouping; a test enumerates that. What two publications of the same table
at different times tell together is not guarded against.
"""

import re
from collections.abc import Mapping, Sequence

import polars as pl

SMALLEST_SHOWN = 11
SUPPRESSED = "suppressed"
FEWER = f"fewer than {SMALLEST_SHOWN}"
OVERALL = "overall"

# What is hidden of one grouping holds so many together: any of the hidden counts can then be anything from 1 to 10.
_ENOUGH_HIDDEN = 2 * SMALLEST_SHOWN
_COUNTED = "rows?|patients?|units?|encounters?|hours?|images?|stays?|records?|values?|events?"
_COUNT_IN_WORDS = re.compile(
    rf"(?<![\d.,])(?:{'|'.join(str(n) for n in range(SMALLEST_SHOWN - 1, 0, -1))})(?= (?:of [\d,]+ )?"
    rf"(?:{_COUNTED})\b)"
)
_NAME_OF_COUNT = re.compile(rf"(?:^|_)(?:{_COUNTED}|quarantined|affected|n)(?:_|$)")


def is_small(count: int | None) -> bool:
    """Whether a count is one that may not be shown: 1 to 10."""
    return count is not None and 0 < count < SMALLEST_SHOWN


def shown_count(count: int) -> str:
    """A count as it leaves the platform: with thousands separated, or `fewer than 11`."""
    return FEWER if is_small(count) else f"{count:,}"


def is_name_of_count(name: str) -> bool:
    """Whether a figure or a column of this name counts rows, patients, or what else a small cell is a count of."""
    return _NAME_OF_COUNT.search(name) is not None


def hide_counts_in(text: str) -> str:
    """A sentence in which a count of 1 to 10 rows, patients and so on reads `fewer than 11`."""
    return _COUNT_IN_WORDS.sub(FEWER, text)


def hidden_parts(parts: Sequence[int], total: int | None, already: Sequence[bool] = ()) -> list[bool]:
    """Which parts of a total are hidden, in the order given, which must not depend on the parts' sizes.

    What the total has beyond the parts is taken as a further part that nobody is shown. Without a total there is
    nothing to subtract from, and only the small ones are hidden. Those hidden `already`, for another total, stay so.
    """
    hidden = [is_small(part) or any(already[place : place + 1]) for place, part in enumerate(parts)]
    if total is None:
        return hidden
    rest = max(0, total - sum(parts))
    if not any(hidden) and not is_small(rest):
        return hidden
    for place, part in enumerate(parts):
        held = [part for part, is_hidden in zip(parts, hidden, strict=True) if is_hidden]
        held += [rest] if rest else []
        if len(held) > 1 and sum(held) >= _ENOUGH_HIDDEN:
            break
        hidden[place] = hidden[place] or part > 0
    return hidden


def hidden_subgroups(counts: Mapping[str, int]) -> frozenset[str]:
    """Which of the subgroups `column=level`, and `overall`, have a count that is hidden.

    The levels of one column are parts of `overall`. Where hiding all levels would still tell them, since each must be
    one, everything is hidden.
    """
    total = counts.get(OVERALL)
    if is_small(total):
        return frozenset(subgroup for subgroup, count in counts.items() if count)
    columns: dict[str, list[str]] = {}
    for subgroup in sorted(counts):
        if subgroup != OVERALL:
            columns.setdefault(subgroup.partition("=")[0], []).append(subgroup)
    hidden: set[str] = set()
    for subgroups in columns.values():
        parts = [counts[subgroup] for subgroup in subgroups]
        chosen = hidden_parts(parts, total)
        held = [part for part, is_hidden in zip(parts, chosen, strict=True) if is_hidden]
        if held and total is not None and sum(parts) == total == sum(parts[i] > 0 for i in range(len(parts))):
            return frozenset(counts)
        hidden |= {subgroup for subgroup, is_hidden in zip(subgroups, chosen, strict=True) if is_hidden}
    return frozenset(hidden)


def hidden_shares(wholes: Mapping[str, int], parts: Mapping[str, int]) -> frozenset[str]:
    """Which subgroups have a part of their whole hidden: it is small, or what the whole has beyond it is."""
    beyond = {subgroup: wholes[subgroup] - part for subgroup, part in parts.items() if subgroup in wholes}
    return hidden_subgroups(parts) | hidden_subgroups({name: max(0, count) for name, count in beyond.items()})


def suppress_small_cells(
    frame: pl.DataFrame, count: str, within: Sequence[str], also: Sequence[str] = ()
) -> pl.DataFrame:
    """The frame with small counts, and those that give one away, replaced by null.

    Args:
        frame: one row a subgroup (column `subgroup`: `overall` or `column=level`) of each group of `within`; where a
            subgroup has several, they have the same count.
        count: the column of whole numbers; null where nothing was counted.
        within: the columns that tell one table of subgroups from another, such as `month` and `model_version`.
        also: columns that rest on the count, and are null with it.

    Adds `suppressed`: true where a value was taken out, so that it is not read as one that is missing. A frame that has
    the column keeps what was suppressed before.
    """
    tables: dict[tuple[object, ...], dict[str, int]] = {}
    counted = frame.select(*within, "subgroup", count).drop_nulls(count).unique()
    for *key, subgroup, number in counted.iter_rows():
        tables.setdefault(tuple(key), {})[subgroup] = number
    found = [(*key, subgroup) for key, counts in tables.items() for subgroup in hidden_subgroups(counts)]
    hidden = pl.DataFrame(found, schema=frame.select(*within, "subgroup").schema, orient="row")
    return withhold(frame, hidden, (count, *also))


def withhold(frame: pl.DataFrame, hidden: pl.DataFrame, columns: Sequence[str]) -> pl.DataFrame:
    """The frame with some columns null in the rows whose key stands in `hidden`, and `suppressed` true there."""
    before = frame if SUPPRESSED in frame.columns else frame.with_columns(pl.lit(False).alias(SUPPRESSED))
    marked = before.join(
        hidden.unique().with_columns(pl.lit(True).alias("_hidden")),
        on=hidden.columns,
        how="left",
        nulls_equal=True,
        maintain_order="left",
    )
    is_hidden = pl.col("_hidden").fill_null(False)
    return marked.with_columns(
        *(pl.when(is_hidden).then(None).otherwise(pl.col(name)).alias(name) for name in columns),
        (pl.col(SUPPRESSED) | is_hidden).alias(SUPPRESSED),
    ).drop("_hidden")
