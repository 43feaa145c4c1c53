"""The ledger as analysts read it: what was live when, one row a period, and every release.

Belongs here: the views over the published table. Does not belong here: the ledger itself, which is never edited.
"""

import duckdb

from clinical_assets.governance.ledger import LEDGER_DESCRIPTIONS
from clinical_assets.resources.lake_engine import quoted_text

LIVE_VERSIONS = """
CREATE OR REPLACE VIEW governance.live_versions AS
SELECT model, version, live_from AS valid_from,
       lead(live_from) OVER (PARTITION BY model ORDER BY number) AS valid_to,
       kind, reason, actor,
       list_transform(approvals, lambda x: x.signer || ' as ' || x.role || if(x.demo, ' (demonstration)', ''))
           AS approved_by,
       limits, report_sha256, artefact_sha256, protocol_sha256, training_set_snapshot, trained_through, data_origin
FROM governance.ledger
QUALIFY kind NOT IN ('withdrawal', 'expiry')
"""
RELEASE = """
CREATE OR REPLACE VIEW governance.release AS
SELECT model, version, previous_version AS previous_champion, live_from AS released_at, artefact_sha256, report_sha256,
       protocol_sha256, trained_through, training_set_snapshot, data_origin
FROM governance.ledger WHERE kind = 'release'
"""
COMMENTS = {
    "governance.live_versions": "Which version of each model was live when, one row a period. What was live at a "
    "moment: FROM governance.live_versions WHERE model = 'MODEL' "
    "AND valid_from <= TIMESTAMPTZ '2026-03-14 02:00:00+00' AND (valid_to IS NULL OR "
    "valid_to > TIMESTAMPTZ '2026-03-14 02:00:00+00')",
    "governance.release": "Every release: which version, in place of which, on which files, report and protocol.",
}
COLUMN_COMMENTS = {
    "governance.live_versions": {
        "version": "The version that was live",
        "kind": "The act that made it live: release, rollback or guard (a rollback by the protocol's own guard)",
        "valid_from": "When the version became live, UTC",
        "valid_to": "When it ceased to be live, UTC; empty for what is live now",
        "approved_by": "Who approved its release, in which role; demonstration signers say so",
    },
    "governance.release": {
        "previous_champion": "The version released before, if any",
        "released_at": "When the version was released, UTC",
    },
}


def create_ledger_views(cursor: duckdb.DuckDBPyConnection) -> None:
    """Make both views in the database in use, which holds governance.ledger."""
    for view, query in (("governance.live_versions", LIVE_VERSIONS), ("governance.release", RELEASE)):
        cursor.execute(query)
        cursor.execute(f"COMMENT ON VIEW {view} IS {quoted_text(COMMENTS[view])}")
        for name, *_ in cursor.execute(f"DESCRIBE {view}").fetchall():
            comment = COLUMN_COMMENTS[view].get(name) or LEDGER_DESCRIPTIONS[name]
            cursor.execute(f"COMMENT ON COLUMN {view}.{name} IS {quoted_text(comment)}")
