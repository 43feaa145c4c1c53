"""Evidently's or NannyML's drift report of one month, in their own environment: run by Dagster Pipes, never imported.

Belongs here: how the two are called, each as its documentation shows and with its defaults. Does not belong here:
anything of this package, which their environment lacks, as it lacks Polars.

Of Pipes it takes `tool`, `reference` and `batch` (Parquet), `html` (where to write), and `categories`; it reports one
message, `columns` with each column's score, or `failed`. It opens no connection: sockets are refused in this process,
and the tools' telemetry is switched off. What the tools print goes nowhere, for it could hold values of rows.
"""

import importlib
import os
import sys
import traceback
import warnings
from pathlib import Path
from typing import Any

QUIET = {
    "DO_NOT_TRACK": "1",
    "NML_DISABLE_USAGE_LOGGING": "1",
    "MPLBACKEND": "agg",
}
KEPT = ("PATH", "LANG", "TZ", "DAGSTER_PIPES_CONTEXT", "DAGSTER_PIPES_MESSAGES")
"""The variables that stay: those of the platform name its secrets' places, and are no business of a peer's."""

PAGE = (
    '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title></head><body>{body}</body></html>'
)


class ConnectionForbiddenError(OSError):
    """A peer wanted to connect to somewhere; it may not."""


def refuse_connections(event: str, arguments: tuple[Any, ...]) -> None:
    """An audit hook (PEP 578) that lets no socket of the internet connect or send, and no name be looked up."""
    if event in ("socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr"):
        raise ConnectionForbiddenError("no name is looked up here")
    if event in ("socket.connect", "socket.sendto", "socket.sendmsg") and arguments[0].family.name != "AF_UNIX":
        raise ConnectionForbiddenError("no connection is opened here")


def close_off(home: str) -> None:
    """Forget the platform's variables, refuse connections, and let nothing be printed; caches go to a folder."""
    kept = {name: os.environ[name] for name in KEPT if name in os.environ}
    os.environ.clear()
    os.environ.update(kept | QUIET | {"HOME": home, "TMPDIR": home, "XDG_CACHE_HOME": home, "MPLCONFIGDIR": home})
    sys.addaudithook(refuse_connections)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    warnings.simplefilter("ignore")


def report_by_evidently(reference: Any, batch: Any, categories: list[str], html: Path) -> list[dict[str, Any]]:
    """Evidently's DataDriftPreset: the test it chooses for each column, at its default threshold."""
    evidently, presets = importlib.import_module("evidently"), importlib.import_module("evidently.presets")
    numbers = [name for name in reference.columns if name not in categories]
    definition = evidently.DataDefinition(numerical_columns=numbers, categorical_columns=categories)
    now, before = (evidently.Dataset.from_pandas(rows, definition) for rows in (batch, reference))
    snapshot = evidently.Report([presets.DataDriftPreset()], include_tests=True).run(now, before)
    snapshot.save_html(str(html))
    said = snapshot.dict()
    scores = {metric["id"]: metric["value"] for metric in said["metrics"]}
    found = []
    for test in said["tests"]:
        metric = test["metric_config"]
        if "column" in (params := metric["params"]):
            found.append(
                {
                    "column": params["column"],
                    "method": params["method"],
                    "score": float(scores[metric["metric_id"]]),
                    "threshold": float(params["threshold"]),
                    "drifted": test["status"] == "FAIL",
                }
            )
    return found


def report_by_nannyml(reference: Any, batch: Any, categories: list[str], html: Path) -> list[dict[str, Any]]:
    """NannyML's univariate drift, Jensen-Shannon at its default threshold, a chunk as large as the month.

    Each column has a figure of its own: all of 55 in one take its layout longer than ten minutes.
    """
    nannyml = importlib.import_module("nannyml")
    calculator = nannyml.UnivariateDriftCalculator(
        column_names=list(reference.columns), treat_as_categorical=categories, chunk_size=len(batch)
    )
    result = calculator.fit(reference).calculate(batch)
    table = result.filter(period="analysis").to_df()
    found = []
    for name in reference.columns:
        of_column = table[(name, "jensen_shannon")].iloc[0]
        found.append(
            {
                "column": name,
                "method": "Jensen-Shannon distance",
                "score": float(of_column["value"]),
                "threshold": float(of_column["upper_threshold"]),
                "drifted": bool(of_column["alert"]),
            }
        )
    figures = []
    for one in sorted(found, key=lambda column: not column["drifted"]):
        figure = result.filter(column_names=[one["column"]]).plot(kind="drift")
        figures.append(figure.to_html(full_html=False, include_plotlyjs=not figures))
    html.write_text(PAGE.format(title="NannyML: univariate drift", body="".join(figures)))
    return found


REPORTS = {"evidently": report_by_evidently, "nannyml": report_by_nannyml}


def where(error: BaseException) -> str:
    """The last place of an error that is known of it without its words, which could hold values of rows."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__} at {Path(frame.filename).name}:{frame.lineno}"


def main() -> None:
    """Make the report that Pipes asks for."""
    pipes = importlib.import_module("dagster_pipes")
    with pipes.open_dagster_pipes() as context:
        asked = context.extras
        close_off(asked["folder"])
        os.umask(0o077)
        try:
            pandas = importlib.import_module("pandas")
            reference, batch = pandas.read_parquet(asked["reference"]), pandas.read_parquet(asked["batch"])
            columns = REPORTS[asked["tool"]](reference, batch, asked["categories"], Path(asked["html"]))
            version = importlib.import_module("importlib.metadata").version(asked["tool"])
            context.report_custom_message({"version": version, "columns": columns})
        except Exception as error:  # noqa: BLE001 - whatever a peer ends with, its words stay here
            context.report_custom_message({"failed": where(error)})


if __name__ == "__main__":
    main()
