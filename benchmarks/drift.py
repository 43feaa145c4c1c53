"""Figures of the drift monitor beside other monitors': `python -m benchmarks.drift [--quick] [--peers PYTHON] ...`.

Belongs here: which streams are shown, what is counted, and what the figures should reach. Does not belong here: the
streams (`drift_streams`, `drift_archives`), the decisions about harm (`drift_harm`), the calls of each monitor
(`drift_watch`, `drift_peers`), the timing (`drift_speed`), and anything the package needs.

Archives are looked for below --raw, CLINICAL_RAW, or data/raw; Evidently and NannyML in the environment of `peers.txt`,
whose interpreter is --peers or CLINICAL_PEERS; the replay in a finished home, --home. What is not there is named and
left out. Two processes of one thread each, unless --processes says otherwise; progress goes to standard error.

--only GROUP runs one group of the plan alone, for instance the thousand years without drift. --keep FOLDER keeps what
was said of every stream, one Parquet file a stream, written as it ends: a run that is stopped leaves its part.
"""

import argparse
import multiprocessing
import os
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import polars as pl

from benchmarks import drift_archives, drift_harm, drift_replay, drift_speed, label_free
from benchmarks.drift_streams import (
    COLUMNS,
    DEVICE,
    GLUCOSE,
    GLUCOSE_MG_DL,
    IDLE,
    TEMPERATURE_F,
    Change,
    Scenario,
    watched_columns,
)
from benchmarks.drift_watch import (
    OURS,
    POLICY,
    TOOLS,
    WATCHED_SCHEMA,
    as_watched,
    run_peers,
    tabulate,
    watch_by_us,
    watch_by_whylogs,
    write_for_peers,
)

PROCESSES = 2
MODEL_COLUMNS = ("event", "risk", "alerted")
WITHIN_LOOKS = 3

NULL, POWER, DELAY, UNIT, ATLAS, HARM = "null", "power", "delay", "unit", "atlas", "harm"
REAL_STREAMS, LABEL_FREE, REPLAY, SPEED = "real", "label-free", "replay", "speed"
GROUPS = (NULL, POWER, DELAY, UNIT, ATLAS, REAL_STREAMS, HARM, LABEL_FREE, REPLAY, SPEED)
REAL = (drift_archives.hospitals, drift_archives.encounters_by_decile, drift_archives.cameras)

UNITS = (
    (Change("unit", GLUCOSE, 1.0, factor=18.0), "18 times"),
    (Change("unit", GLUCOSE_MG_DL, 1.0, factor=1 / 18.0), "0.0556 times"),
    (Change("unit", TEMPERATURE_F, 1.0, factor=1 / 1.8, offset=-32 / 1.8), "Celsius"),
    (Change("unit", GLUCOSE, 0.3, factor=18.0), "18 times"),
    (Change("unit", GLUCOSE_MG_DL, 0.3, factor=1 / 18.0), "0.0556 times"),
    (Change("device", DEVICE, 0.05), "device"),
)
"""Each with what must be said of it, beside its column."""

CHANGES = (
    Change("mean", IDLE, 0.3),
    Change("variance", IDLE, 0.3),
    Change("correlation", "number_07", 0.7),
    Change("missingness", IDLE, 0.1),
    Change("unit", GLUCOSE, 1.0, factor=18.0),
    Change("category", "category_2", 0.1),
    Change("label", strength=0.4),
    Change("concept", strength=0.3),
    Change("subgroup", IDLE, 1.0),
)
SIZES = (100, 300, 3_000, 30_000)


@dataclass(frozen=True, slots=True)
class Plan:
    """How many streams of each kind are shown, to us and to the others."""

    null: dict[int, int]
    power: dict[int, int]
    delay: int
    unit: int
    atlas: dict[int, int]
    harm: int
    real: int
    gradual: tuple[str, ...]
    peers: int
    large_rows: int
    large_columns: int


QUICK = Plan(
    null={300: 80},
    power={3_000: 10, 30_000: 3},
    delay=11,
    unit=4,
    atlas={300: 1},
    harm=1,
    real=5,
    gradual=("mean",),
    peers=1,
    large_rows=20_000_000,
    large_columns=3,
)
WHOLE = Plan(
    null={300: 1_000, 3_000: 100, 100: 200},
    power={3_000: 100, 30_000: 20},
    delay=100,
    unit=20,
    atlas={100: 20, 300: 20, 3_000: 10, 30_000: 2},
    harm=3,
    real=20,
    gradual=tuple(change.kind for change in CHANGES),
    peers=10,
    large_rows=20_000_000,
    large_columns=6,
)


@dataclass(frozen=True, slots=True)
class Task:
    """One stream: of a scenario by its seed, or all of one archive (`peers` of them are shown to others)."""

    number: int
    group: str
    seed: int
    scenario: Scenario | None = None
    real: int | None = None
    raw: Path = Path()
    streams: int = 0
    peers: int = 0
    folder: Path | None = None

    @property
    def title(self) -> str:
        """What is shown, as a table names it."""
        return self.scenario.title if self.scenario else REAL[self.real or 0].__name__

    def stem(self, part: str = "") -> str:
        """The name of the stream's files."""
        return f"{self.number}{part}"


@dataclass(frozen=True, slots=True)
class Share:
    """How many of how many, with the interval of Wilson (1927) at 95 %."""

    k: int
    n: int

    def __str__(self) -> str:
        if not self.n:
            return "none shown"
        low, high = self.interval
        return f"{self.k}/{self.n} = {self.k / self.n:.1%} [{low:.1%}, {high:.1%}]"

    @property
    def interval(self) -> tuple[float, float]:
        """The lower and the upper end."""
        return label_free.wilson_interval(self.k, self.n)


@dataclass(frozen=True, slots=True)
class Shown:
    """What every tool said, one row a tool and look, and the label-free figures."""

    watched: pl.DataFrame
    label_free: list[label_free.LabelFreeFigure]


@dataclass(frozen=True, slots=True)
class Goal:
    """A row of what was asked: the figure, in words with its protocol, and whether it was met (None: cannot tell)."""

    asked: str
    reached: str
    met: bool | None

    def line(self) -> str:
        """The row of the last table."""
        word = {True: "met", False: "MISSED", None: "CANNOT TELL"}[self.met]
        return f"{word:<12}| {self.asked:<96}| {self.reached}"


def list_tasks(plan: Plan, raw: Path, folder: Path | None) -> list[Task]:
    """Every stream that is shown, the longest first."""
    drawn: list[tuple[str, Scenario, int]] = [
        *((NULL, Scenario(Change(), n), streams) for n, streams in plan.null.items()),
        *(
            (POWER, Scenario(Change("mean", IDLE, 0.1), n, looks=WITHIN_LOOKS), streams)
            for n, streams in plan.power.items()
        ),
        (DELAY, Scenario(Change("mean", IDLE, 0.3), 100), plan.delay),
        *((UNIT, Scenario(change, 300, looks=1), plan.unit) for change, _ in UNITS),
        *(
            (ATLAS, Scenario(change, n, gradual_over=over), streams)
            for n, streams in plan.atlas.items()
            for change in CHANGES
            for over in (1, 6)
            if over == 1 or change.kind in plan.gradual
        ),
        *((HARM, scenario, plan.harm) for scenario in drift_harm.scenarios(plan.gradual)),
    ]
    tasks = [
        Task(0, REAL_STREAMS, 0, real=number, raw=raw, streams=plan.real, peers=plan.peers, folder=folder)
        for number in range(len(REAL))
    ]
    tasks += [
        Task(0, group, seed, scenario, folder=folder if group == HARM or seed < plan.peers else None)
        for group, scenario, streams in drawn
        for seed in range(streams)
    ]
    return [replace(task, number=number) for number, task in enumerate(tasks)]


def run_task(task: Task) -> pl.DataFrame:
    """What we and whylogs said of a task's streams; where a folder is given, they are written for the others too."""
    if task.scenario is None:
        return _run_real(task)
    stream = task.scenario.draw(task.seed)
    columns = watched_columns()
    if task.group == HARM:
        stream = drift_harm.with_alerts(stream)
        watched = drift_harm.decide_by_us(stream, task.seed)
    else:
        watched = as_watched(watch_by_us(stream, columns, POLICY, None))
    if task.folder is not None:
        watched += watch_by_whylogs(stream, columns)
        written = [*columns, *(MODEL_COLUMNS if task.group == HARM else ())]
        write_for_peers(stream, written, task.folder, task.stem())
    return _label(tabulate(watched), task, task.scenario.n)


def _run_real(task: Task) -> pl.DataFrame:
    found = REAL[task.real or 0](task.raw, task.streams)
    if found is None:
        return _label(tabulate([]), task, 0)
    tables = []
    for part, streams in (("changed", found.changed), ("unchanged", found.unchanged)):
        for seed, stream in enumerate(streams):
            watched = as_watched(watch_by_us(stream, found.columns, found.policy, found.patient))
            if task.folder is not None and seed < task.peers:
                watched += watch_by_whylogs(stream, found.columns)
                write_for_peers(stream, found.columns, task.folder, task.stem(f"-{part}-{seed}"))
            labelled = replace(task, seed=seed)
            tables.append(_label(tabulate(watched), labelled, len(stream.batches[0]), part, len(found.columns)))
    return pl.concat(tables)


def _label(table: pl.DataFrame, task: Task, n: int, part: str = "", columns: int = COLUMNS) -> pl.DataFrame:
    change = task.scenario.change.column if task.scenario else ""
    return table.with_columns(
        number=pl.lit(task.number),
        seed=pl.lit(task.seed),
        part=pl.lit(part),
        group=pl.lit(task.group),
        title=pl.lit(task.title),
        changed=pl.lit(change),
        columns=pl.lit(columns),
        n=pl.lit(n),
        starts_at=pl.lit(task.scenario.starts_at if task.scenario else 0),
    )


def run_tasks(
    tasks: Sequence[Task],
    *,
    peers: Path | None,
    folder: Path,
    label_free_of: Path | None,
    quick: bool,
    processes: int,
    kept_in: Path | None,
) -> Shown:
    """What every tool said of every stream, and the label-free figures of the archives below `label_free_of`."""
    started = time.perf_counter()
    # Polars' threads do not survive a fork.
    context = multiprocessing.get_context("spawn")
    tables: list[pl.DataFrame] = []
    with ProcessPoolExecutor(processes, context) as pool:
        estimates = pool.submit(label_free.measure_label_free, label_free_of, quick=quick) if label_free_of else None
        futures = {pool.submit(run_task, task): task for task in tasks}
        for done, future in enumerate(as_completed(futures), 1):
            table = future.result()
            tables.append(table)
            if kept_in is not None:
                task = futures[future]
                table.write_parquet(kept_in / f"{task.group}-{task.number:05}.parquet")
            if done % 25 == 0 or done == len(futures):
                elapsed = time.perf_counter() - started
                print(f"{elapsed:6.0f} s  {done} of {len(futures)} tasks", file=sys.stderr, flush=True)
        figures = estimates.result() if estimates else []
    if peers is not None and tables:
        shown = pl.concat(tables)
        key = ["number", "seed", "part"]
        labels = shown.drop(WATCHED_SCHEMA.names()).unique(key)
        seed_of = {task.number: task.seed for task in tasks}
        for stem, said in run_peers(peers, folder, processes).items():
            number, part, seed = (*stem.split("-"), "", "")[:3]
            table = said.with_columns(
                pl.col("flagged").cast(pl.List(pl.String)),
                verdict=pl.lit(None, pl.String),
                said=pl.lit(None, pl.String),
                number=pl.lit(int(number)),
                seed=pl.lit(int(seed or seed_of[int(number)])),
                part=pl.lit(part),
            )
            tables.append(table.join(labels, on=key, how="left").select(shown.columns))
        print(f"{time.perf_counter() - started:6.0f} s  the others", file=sys.stderr, flush=True)
    return Shown(pl.concat(tables) if tables else pl.DataFrame(), figures)


def of_streams(watched: pl.DataFrame) -> pl.DataFrame:
    """One row a tool and stream: the first alarm since the change, whether an alarm came before it, what was named."""
    since = pl.col("look") >= pl.col("starts_at")
    return watched.group_by("tool", "number", "seed", "part", maintain_order=True).agg(
        pl.col("group", "title", "changed", "columns", "n", "starts_at").first(),
        any_alarm=pl.col("alarm").any(),
        first_alarm=(pl.col("look") - pl.col("starts_at")).filter(pl.col("alarm") & since).min(),
        flagged=pl.col("flagged").list.len().sum(),
        looks=pl.len().cast(pl.Int64),
        named=pl.col("flagged").filter(pl.col("alarm") & since).first(),
    )


def print_nulls(streams: pl.DataFrame, title: str) -> None:
    """False alarms a year and a column, by tool and rows a look."""
    print(f"\n{title}")
    print(f"{'':32}{'rows':>7}  {'years with any alarm':36}columns flagged, of all columns and looks")
    for (tool, n), rows in streams.group_by("tool", "n", maintain_order=True):
        flags = Share(int(rows["flagged"].sum()), int((rows["looks"] * rows["columns"]).sum()))
        print(f"{tool!s:32}{n!s:>7}  {Share(int(rows['any_alarm'].sum()), len(rows))!s:36}{flags}")


def print_power(streams: pl.DataFrame, title: str) -> None:
    """Power within three looks and within the year, and the median delay where there was an alarm."""
    print(f"\n{title}")
    headings = f"{'power, 3 looks':33}{'power, year':33}{'right column':>13}{'delay, looks':>13}{'delay, rows':>13}"
    print(f"{'':78}{'rows':>7}  {headings}")
    keys = ("title", "n", "tool")
    for (change, n, tool), rows in streams.group_by(*keys, maintain_order=True):
        alarmed = rows["first_alarm"].drop_nulls()
        soon = Share(int((alarmed < WITHIN_LOOKS).sum()), len(rows))
        delays, in_rows = _delay(rows)
        right = rows.filter(pl.col("named").list.contains(pl.col("changed"))).height
        column = f"{right}/{len(rows)}" if rows["changed"][0] else "-"
        print(
            f"{change!s:46}{tool!s:32}{n!s:>7}  {soon!s:33}{Share(len(alarmed), len(rows))!s:33}"
            f"{column:>13}{delays:>13}{in_rows:>13}"
        )


def _delay(rows: pl.DataFrame) -> tuple[str, str]:
    """The median delay in looks and rows; where most streams never alarmed it lies beyond the last look."""
    looks = rows["first_alarm"].fill_null(np.iinfo(np.int64).max).to_numpy()
    median = float(np.median(looks)) + 1
    if median > rows["looks"].max():  # pyright: ignore[reportOperatorIssue]
        return "beyond", "beyond"
    return f"{median:.1f}", f"{median * rows['n'][0]:,.0f}"


def rows_until_alarm(rows: pl.DataFrame) -> float | None:
    """The median of the rows seen until an alarm; None where most streams of the year have none."""
    looks = rows["first_alarm"].fill_null(np.iinfo(np.int64).max)
    median = looks.median()
    if not isinstance(median, float) or median > 1_000:
        return None
    return (median + 1) * rows["n"][0]


def judge_false_alarms(streams: pl.DataFrame, n: int) -> Goal:
    """The first row of the issue's table."""
    rows = streams.filter(tool=OURS, group=NULL, n=n)
    share = Share(int(rows["any_alarm"].sum()), len(rows))
    low, high = share.interval if share.n else (0.0, 1.0)
    met = True if high <= 0.05 else (False if low > 0.05 else None)
    return Goal(f"any false alarm in 12 looks of {n:,} rows, {COLUMNS} columns: <= 5 %", f"{share}", met)


def judge_power(streams: pl.DataFrame) -> list[Goal]:
    """Power at 0.1 SD within three looks."""
    goals = []
    for n, asked in ((3_000, 0.9), (30_000, 1.0)):
        rows = streams.filter(tool=OURS, group=POWER, n=n)
        share = Share(rows["first_alarm"].drop_nulls().len(), len(rows))
        words = f"power at 0.1 SD in one of {COLUMNS} columns, {n:,} rows a look, 3 looks: >= {asked:.0%}"
        goals.append(Goal(words, f"{share}", share.k >= asked * share.n if share.n else None))
    return goals


def judge_delay(streams: pl.DataFrame) -> Goal:
    """Rows until the alarm at 0.3 SD."""
    rows = streams.filter(tool=OURS, group=DELAY)
    until = rows_until_alarm(rows)
    return Goal(
        f"0.3 SD in one of {COLUMNS} columns, looks of 100 rows, rows until alarm (median): <= 500",
        f"{'no alarm in most' if until is None else f'{until:,.0f} rows'} of {len(rows)} streams",
        until is not None and until <= 500 if len(rows) else None,
    )


def judge_units(watched: pl.DataFrame) -> list[Goal]:
    """Change of unit and unseen device: first look, right column, right factor."""
    goals = []
    for change, words in UNITS:
        rows = watched.filter(tool=OURS, group=UNIT, title=Scenario(change, 300).title)
        right = rows.filter(
            (pl.col("verdict") == "data_fault")
            & pl.col("said").str.contains(change.column, literal=True)
            & pl.col("said").str.contains(words, literal=True)
        )
        goals.append(
            Goal(
                f"{change.in_words()}, first look of 300 rows: column and {words!r} named",
                f"{Share(len(right), len(rows))}",
                len(right) == len(rows) if len(rows) else None,
            )
        )
    return goals


def judge_archives(watched: pl.DataFrame, streams: pl.DataFrame) -> list[Goal]:
    """Hospital B at its first look with its missingness named, the last decile, and the camera."""
    real = watched.filter(tool=OURS, group=REAL_STREAMS, part="changed")
    hospitals = real.filter(title="hospitals", look=0)
    named = hospitals.filter(pl.col("alarm") & pl.col("said").str.contains(r"bicarbonate_mmol_l missing in"))
    never_in_a = hospitals.filter(pl.col("flagged").list.contains("end_tidal_co2_mmhg")).height
    deciles = real.filter(title="encounters_by_decile", look=0)
    cameras = streams.filter(tool=OURS, title="cameras", part="changed")
    looks = cameras["first_alarm"].fill_null(1_000).median() if len(cameras) else None
    images = (looks + 1) * drift_archives.IMAGES_A_LOOK if isinstance(looks, float) else None
    return [
        Goal(
            f"hospital A to B, first look of {drift_archives.PATIENTS_A_LOOK} patients, bicarbonate named as missing",
            f"{Share(len(named), len(hospitals))}; EtCO2, never measured in A, flagged in {never_in_a}",
            len(named) == len(hospitals) if len(hospitals) else None,
        ),
        Goal(
            f"first to last decile of the diabetes archive, look of {drift_archives.ROWS_OF_A_DECILE_A_LOOK} rows",
            f"{Share(deciles.filter('alarm').height, len(deciles))}",
            deciles["alarm"].all() if len(deciles) else None,
        ),
        Goal(
            f"camera swap without device ids, looks of {drift_archives.IMAGES_A_LOOK}, images (median): <= 50",
            "none shown" if images is None else f"{images:,.0f} images, {len(cameras)} streams",
            None if images is None else images <= 50,
        ),
    ]


def judge_harm(watched: pl.DataFrame) -> list[Goal]:
    """Print and judge Matthews' correlation of alarm and real harm over all months, by tool."""
    rows = watched.filter(group=HARM)
    shown = set(rows["title"])
    harm = pl.concat(
        [
            pl.DataFrame({"title": scenario.title, "look": range(scenario.looks), "harm": drift_harm.harmed(scenario)})
            for scenario in drift_harm.scenarios(WHOLE.gradual)
            if scenario.title in shown
        ]
    )
    rows = rows.join(harm, on=["title", "look"])
    streams = rows.select("number").n_unique()
    print(
        f"\n5. Alarm against real harm: {streams} streams of {drift_harm.MONTHS} months of {drift_harm.ROWS_A_MONTH:,} "
        f"patients, reference {drift_harm.REFERENCE_ROWS:,}, the change from month {drift_harm.CHANGES_AT + 1} on, "
        "outcomes known a month late\nHarm: AUROC lower by more than 0.02, or O:E outside 0.9 to 1.1, on 200,000 "
        "patients. Our alarm: a repair is planned, or the estimated loss is not tolerated"
    )
    print(f"{'':32}{'MCC':>8}{'alarms of harmful months':>38}{'alarms of harmless months':>38}")
    found: dict[str, float | None] = {}
    for (tool,), of_tool in rows.group_by("tool", maintain_order=True):
        found[str(tool)] = drift_harm.matthews(of_tool["alarm"].to_list(), of_tool["harm"].to_list())
        right, wrong = of_tool.filter("harm"), of_tool.filter(~pl.col("harm"))
        shares = [Share(int(part["alarm"].sum()), len(part)) for part in (right, wrong)]
        print(f"{tool!s:32}{_number(found[str(tool)]):>8}{shares[0]!s:>38}{shares[1]!s:>38}")
    print("our alarms by change:")
    for (title,), of_change in rows.filter(tool=OURS).group_by("title", maintain_order=True):
        harmful = int(of_change["harm"].sum())
        alarms = Share(int(of_change["alarm"].sum()), len(of_change))
        print(f"   {title!s:46} {harmful:>3} of {len(of_change)} months harmful, alarms in {alarms}")
    ours, others = found.pop(OURS, None), [value for value in found.values() if value is not None]
    best = max(others, default=None)
    reached = ours is not None and ours >= 0.5 and (best is None or ours > best)
    peers_shown = any(tool.startswith(("Evidently", "NannyML")) for tool in found)
    return [
        Goal(
            "MCC of alarm against loss > 0.02 AUROC or O:E outside 0.9-1.1: >= 0.5, above every peer",
            f"{_number(ours)}, best other {_number(best)} ({len(found)} shown), {streams} streams",
            None if ours is None or (reached and not peers_shown) else reached,
        )
    ]


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def judge_speed(plan: Plan, peers: Path | None, folder: Path) -> list[Goal]:
    """Print and judge seconds and memory of profile and drift: 1M + 1M x 30, and many rows out of Parquet."""
    million = 1_000_000
    paths = [folder / f"speed-{seed}.parquet" for seed in range(2)]
    for seed, path in enumerate(paths):
        drift_speed.write_table(path, million, seed)
    cells = 2 * million * drift_speed.COLUMNS
    timed = {OURS: drift_speed.time_ours("compare", *paths)}
    if peers is not None:
        timed |= {tool: drift_speed.time_peer(peers, tool, *paths) for tool in ("Evidently", "NannyML")}
    print(
        f"\n7. Profile and drift of two tables of 1M x {drift_speed.COLUMNS} (20 float, 5 integer, 5 string), one "
        "process each, one after the other; Evidently: drift and summary presets; NannyML: univariate drift, which has "
        f"no profile; load average {os.getloadavg()[0]:.1f}"
    )
    for tool, one in timed.items():
        speed = cells / one.seconds / 1e6
        print(f"{tool:32}{one.seconds:8.1f} s{speed:8.1f} M cells/s{one.peak_mb:10,.0f} MB peak")
    ours = timed[OURS].seconds
    goals = [
        Goal(
            "profile + drift, 1M + 1M x 30: >= 20 M cells/s",
            f"{cells / ours / 1e6:.1f} M cells/s",
            cells / ours >= 20e6,
        )
    ]
    for tool, asked in (("Evidently", 30.0), ("NannyML", 4.0)):
        ratio = timed[tool].seconds / ours if tool in timed else None
        words = f"profile + drift, same run, {tool}: >= {asked:g}x"
        goals.append(
            Goal(words, "not there" if ratio is None else f"{ratio:.1f}x", None if ratio is None else ratio >= asked)
        )
    for path in paths:
        path.unlink()
    peaks = []
    for rows in (million, plan.large_rows):
        path = folder / "large.parquet"
        drift_speed.write_table(path, rows, 3, plan.large_columns)
        peaks.append(drift_speed.time_ours("watch", path, path).peak_mb)
        path.unlink()
    words = f"peak memory, {plan.large_columns} columns out of Parquet, 1M to {plan.large_rows / 1e6:g}M rows: <= 1.2x"
    found = f"{peaks[0]:,.0f} to {peaks[1]:,.0f} MB, {peaks[1] / peaks[0]:.2f}x"
    goals.append(Goal(words, found, peaks[1] <= 1.2 * peaks[0]))
    return goals


def judge_replay(home: Path | None) -> list[Goal]:
    """O:E over the replay, and full retrainings against a monthly calendar, of a finished home."""
    goals = []
    for model in ("readmission", "sepsis"):
        replayed = drift_replay.read_replay(home, model) if home is not None else None
        words = f"O:E over the replay of {model}: 0.97-1.03"
        calendar = f"full retrainings of {model} against a monthly calendar: at most half"
        if replayed is None:
            goals += [Goal(words, "no home given", None), Goal(calendar, "no home given", None)]
            continue
        ratio = replayed.observed / replayed.expected
        met = 0.97 <= ratio <= 1.03
        goals.append(Goal(words, f"{ratio:.3f} ({replayed.rows:,} ripe rows, {replayed.months} months)", met))
        found = f"{replayed.retrainings} in {replayed.months} months ({replayed.counted_by})"
        goals.append(Goal(calendar, found, replayed.retrainings <= replayed.months / 2))
    return goals


def judge_label_free(figures: Sequence[label_free.LabelFreeFigure]) -> list[Goal]:
    """Print and judge the figures of `label_free`: the AUROC estimated without outcomes, by model and kind of month."""
    print("\n6. Performance estimated without outcomes (benchmarks.label_free)")
    label_free.print_figures(figures)
    goals = [
        Goal(
            f"label-free AUROC, {one.model}, {one.months}: <= {label_free.MOST_NOISES} x noise, coverage 93-97 %",
            f"{one.noises:.2f}x [{one.noises_low:.2f}, {one.noises_high:.2f}], "
            f"{Share(round(one.covered * one.n_months), one.n_months)} covered",
            one.met,
        )
        for one in figures
    ]
    return goals or [Goal("label-free AUROC: <= 1.2 x noise, coverage 93-97 %", "no archive below --raw", None)]


def main() -> None:
    """Print every table, and last what was asked beside what was reached."""
    parser = argparse.ArgumentParser(description="Figures of the drift monitor beside other monitors'.")
    parser.add_argument("--raw", type=Path, default=Path(os.environ.get("CLINICAL_RAW", "data/raw")))
    parser.add_argument("--peers", type=Path, default=_optional_path("CLINICAL_PEERS"), help="their interpreter")
    parser.add_argument("--home", type=Path, default=None, help="a finished demo's CLINICAL_HOME")
    parser.add_argument("--quick", action="store_true", help="fewer streams, as printed beside each figure")
    parser.add_argument("--only", choices=GROUPS, action="append", metavar="GROUP", help=f"of {', '.join(GROUPS)}")
    parser.add_argument("--keep", type=Path, default=None, metavar="FOLDER", help="where what was said is kept")
    parser.add_argument("--processes", type=int, default=PROCESSES, help="of one thread each")
    options = parser.parse_args()
    plan = QUICK if options.quick else WHOLE
    groups = tuple(options.only or GROUPS)
    if options.keep is not None:
        options.keep.mkdir(parents=True, exist_ok=True)
    # A task has one thread: two of them share the machine.
    os.environ |= {"OMP_NUM_THREADS": "1", "POLARS_MAX_THREADS": "1"}
    started = time.perf_counter()
    if options.peers is None:
        print("Evidently and NannyML are not shown: install benchmarks/peers.txt elsewhere, and name it by --peers")
    with TemporaryDirectory() as name:
        folder = Path(name)
        tasks = [task for task in list_tasks(plan, options.raw, folder) if task.group in groups]
        shown = run_tasks(
            tasks,
            peers=options.peers,
            folder=folder,
            label_free_of=options.raw if LABEL_FREE in groups else None,
            quick=options.quick,
            processes=options.processes,
            kept_in=options.keep,
        )
        goals = _judge_streams(shown.watched, plan, groups) if tasks else []
        goals += judge_harm(shown.watched) if HARM in groups else []
        goals += judge_label_free(shown.label_free) if LABEL_FREE in groups else []
        goals += judge_replay(options.home) if REPLAY in groups else []
        goals += judge_speed(plan, options.peers, folder) if SPEED in groups else []
    print(f"\n{'':12}| {'asked':96}| reached")
    for goal in goals:
        print(goal.line())
    seconds, load = time.perf_counter() - started, os.getloadavg()[0]
    print(f"{seconds:.0f} s in all, {options.processes} processes of one thread; seeds from 0; load {load:.1f}")


def _optional_path(variable: str) -> Path | None:
    value = os.environ.get(variable)
    return Path(value) if value else None


def _judge_streams(watched: pl.DataFrame, plan: Plan, groups: Sequence[str]) -> list[Goal]:
    order = pl.col("tool").replace_strict({tool: place for place, tool in enumerate(TOOLS)}, default=len(TOOLS))
    streams = of_streams(watched).sort(order, "n", maintain_order=True)
    shared = f"reference 10,000 rows, {COLUMNS} columns; the others see the first {plan.peers} streams of a kind"
    if NULL in groups:
        words = f"1. False alarms: 12 looks without a change; {shared}; with 95 % interval"
        print_nulls(streams.filter(group=NULL), words)
    known = streams.filter(pl.col("group").is_in([POWER, DELAY, UNIT, ATLAS])).sort("title", "n", maintain_order=True)
    if not known.is_empty():
        print_power(
            known,
            f"2. Power and delay, the change from the first look on; {shared}\n(power counts any alarm: beside a "
            "tool's false alarms in 1 it says little; right column: among those flagged at the first alarm)",
        )
    real = streams.filter(group=REAL_STREAMS)
    for title in real["title"].unique(maintain_order=True):
        rows = real.filter(title=title, part="unchanged")
        print_nulls(rows, f"3. {title}, without the change")
        print_power(real.filter(title=title, part="changed"), f"4. {title}, with the change")
    if REAL_STREAMS in groups and real.is_empty():
        print("\n3. and 4. No archive below --raw: nothing real is shown")
    goals = [judge_false_alarms(streams, n) for n in plan.null if NULL in groups]
    goals += judge_power(streams) if POWER in groups else []
    goals += [judge_delay(streams)] if DELAY in groups else []
    goals += judge_units(watched) if UNIT in groups else []
    return goals + (judge_archives(watched, streams) if REAL_STREAMS in groups else [])


if __name__ == "__main__":
    main()
