"""Other drift monitors on the streams of a folder, in their own environment: `PYTHON benchmarks/drift_peers.py ...`.

Belongs here: how Evidently and NannyML are called, each as its documentation shows and with its defaults. Does not
belong here: anything of this package: the environment of `peers.txt` has neither it nor Polars.

`watch FOLDER PART PARTS` reads `*.reference.parquet` and `*.batches.parquet` (column `look`, and `event`, `risk` and
`alerted` where there is a model), and writes `*.watched.parquet`. `time TOOL REFERENCE BATCH` prints one JSON line.
"""

import importlib
import json
import os
import resource
import sys
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ |= {"NML_DISABLE_USAGE_LOGGING": "1", "DO_NOT_TRACK": "1"}

OUTCOMES = ("event", "risk", "alerted")
NOT_COLUMNS = ("look", "patient", *OUTCOMES)


@dataclass(frozen=True, slots=True)
class Watched:
    """What one tool said at one look: whether it alarmed, and by which columns."""

    tool: str
    look: int
    alarm: bool
    flagged: list[str]


def watch_by_evidently(reference: Any, batches: Any, columns: list[str]) -> list[Watched]:
    """The default test that Evidently chooses for each column, at its default threshold, look by look.

    The tests are called themselves: the report around them draws two figures a column, which decide nothing.
    """
    stattests = importlib.import_module("evidently.legacy.calculations.stattests")
    watched = []
    for look, batch in batches.groupby("look"):
        flagged = []
        for name in columns:
            kind = "num" if reference[name].dtype.kind in "iuf" else "cat"
            before, now = reference[name].dropna(), batch[name].dropna()
            if len(now):
                test = stattests.get_stattest(before, now, kind, None)
                if test(before, now, kind, None).drifted:
                    flagged.append(name)
        half = len(flagged) >= len(columns) / 2
        watched.append(Watched("Evidently, any column", int(look), bool(flagged), flagged))
        watched.append(Watched("Evidently, half of the columns", int(look), half, flagged))
    return watched


def watch_by_nannyml(reference: Any, batches: Any, columns: list[str]) -> list[Watched]:
    """NannyML's univariate drift at its default distance and threshold, one chunk a look."""
    nannyml = importlib.import_module("nannyml")
    rows = int((batches["look"] == batches["look"].iloc[0]).sum())
    categories = [name for name in columns if reference[name].dtype.kind not in "iuf"]
    calculator = nannyml.UnivariateDriftCalculator(
        column_names=columns, treat_as_categorical=categories, chunk_size=rows
    )
    calculator.fit(reference)
    found = calculator.calculate(batches).filter(period="analysis").to_df()
    alerts = {name: found[(name, "jensen_shannon", "alert")].to_numpy(dtype=bool) for name in columns}
    watched = []
    for chunk in range(len(found)):
        flagged = [name for name, alert in alerts.items() if alert[chunk]]
        watched.append(Watched("NannyML, any column", chunk, bool(flagged), flagged))
    return watched


def watch_performance_by_nannyml(reference: Any, batches: Any) -> list[Watched]:
    """NannyML's estimated AUROC (CBPE) of a look, and its realised one of the look before, whose outcomes are ripe."""
    nannyml = importlib.import_module("nannyml")
    rows = int((batches["look"] == batches["look"].iloc[0]).sum())
    roles: dict[str, Any] = {
        "y_pred_proba": "risk",
        "y_pred": "alerted",
        "y_true": "event",
        "metrics": ["roc_auc"],
        "problem_type": "classification_binary",
        "chunk_size": rows,
    }
    estimated = nannyml.CBPE(**roles).fit(reference).estimate(batches).filter(period="analysis").to_df()
    realised = nannyml.PerformanceCalculator(**roles).fit(reference).calculate(batches)
    realised = realised.filter(period="analysis").to_df()
    by_estimate = estimated[("roc_auc", "alert")].to_numpy(dtype=bool)
    by_outcome = realised[("roc_auc", "alert")].to_numpy(dtype=bool)
    return [
        *(Watched("NannyML, estimated AUROC", look, bool(alert), []) for look, alert in enumerate(by_estimate)),
        *(
            Watched("NannyML, realised AUROC", look, look > 0 and bool(by_outcome[look - 1]), [])
            for look in range(len(by_outcome))
        ),
    ]


def watch_folder(folder: Path, part: int, parts: int) -> None:
    """Show every stream of the folder's part to every tool, and write what each said."""
    pandas = importlib.import_module("pandas")
    for path in sorted(folder.glob("*.reference.parquet"))[part::parts]:
        stem = path.name.removesuffix(".reference.parquet")
        reference, batches = pandas.read_parquet(path), pandas.read_parquet(folder / f"{stem}.batches.parquet")
        # Both tools end with an error where a column of the reference has no value at all.
        columns = [name for name in reference.columns if name not in NOT_COLUMNS and reference[name].notna().any()]
        watched = watch_by_evidently(reference, batches, columns) + watch_by_nannyml(reference, batches, columns)
        if set(OUTCOMES) <= set(reference.columns):
            watched += watch_performance_by_nannyml(reference, batches)
        pandas.DataFrame(
            {
                "tool": [one.tool for one in watched],
                "look": [one.look for one in watched],
                "alarm": [one.alarm for one in watched],
                "flagged": [one.flagged for one in watched],
            }
        ).to_parquet(folder / f"{stem}.watched.parquet")


def time_tool(tool: str, reference_path: str, batch_path: str) -> None:
    """Print the seconds of one comparison of two tables, files read and modules loaded before, and peak memory."""
    pandas = importlib.import_module("pandas")
    module = importlib.import_module({"Evidently": "evidently", "NannyML": "nannyml"}[tool])
    presets = importlib.import_module("evidently.presets") if tool == "Evidently" else None
    reference, batch = pandas.read_parquet(reference_path), pandas.read_parquet(batch_path)
    started = time.perf_counter()
    if presets is not None:
        numbers = [name for name in reference.columns if reference[name].dtype.kind in "iuf"]
        definition = module.DataDefinition(
            numerical_columns=numbers, categorical_columns=[name for name in reference.columns if name not in numbers]
        )
        report = module.Report([presets.DataDriftPreset(), presets.DataSummaryPreset()])
        of_batch = module.Dataset.from_pandas(batch, definition)
        report.run(of_batch, module.Dataset.from_pandas(reference, definition)).dict()
    else:
        calculator = module.UnivariateDriftCalculator(column_names=list(reference.columns), chunk_size=len(batch))
        calculator.fit(reference)
        calculator.calculate(batch)
    seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"seconds": seconds, "peak_mb": peak}))


def main() -> None:
    """Do what the command line names."""
    warnings.simplefilter("ignore")
    task, *arguments = sys.argv[1:]
    if task == "watch":
        watch_folder(Path(arguments[0]), int(arguments[1]), int(arguments[2]))
    else:
        time_tool(*arguments)


if __name__ == "__main__":
    main()
