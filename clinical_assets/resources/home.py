"""The folder in which a platform keeps everything it writes: lake, registry, reports, keys, Dagster's own state.

Belongs here: where things lie and who may read them. Does not belong here: what is in them.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from clinical_assets.archives.archive import Archive, ArchiveError
from clinical_assets.governance.dvc_pins import verify
from clinical_assets.protocol import ArchivePin, ModelProtocol, load_object
from clinical_assets.resources.access_rights import make_private, refuse_open_secrets
from clinical_assets.resources.pinned_tree import PinnedTree

PROJECT = Path(__file__).parents[2]
IN_HOME = "$CLINICAL_HOME"
"""How `archives.json` begins the path of an archive that lies below the home, and moves with it."""

DAGSTER_YAML = """\
# Written once, by the platform's first command on this home; from then on it is yours.
nux:
  enabled: false
telemetry:
  enabled: false
storage:
  custom:
    module: clinical_assets.resources.dagster_storages
    class: SqliteStorages
compute_logs:
  module: clinical_assets.resources.dagster_logs
  class: StepLogs
run_launcher:
  module: clinical_assets.resources.run_workers
  class: ForkedRuns
run_monitoring:
  enabled: true
  start_timeout_seconds: 120
  poll_interval_seconds: 30
  max_runtime_seconds: 7200
sensors:
  use_threads: true
  num_workers: 4
retention:
  sensor:
    purge_after_days:
      skipped: 1
concurrency:
  runs:
    max_concurrent_runs: 4
    tag_concurrency_limits:
      - key: clinical/retraining
        value:
          applyLimitPerUniqueValue: true
        limit: 1
"""


@dataclass(frozen=True, slots=True)
class Home:
    """The folder a platform writes to, and the folder in which it looks for publishers' archives."""

    root: Path
    raw: Path

    @classmethod
    def from_environment(cls) -> "Home":
        """The home named by CLINICAL_HOME (`data` if unset), the archives by CLINICAL_RAW (`data/raw` if unset)."""
        return cls(
            Path(os.environ.get("CLINICAL_HOME") or "data").resolve(),
            Path(os.environ.get("CLINICAL_RAW") or "data/raw").resolve(),
        )

    @property
    def lake_catalogue(self) -> Path:
        """The lake's catalogue; it holds the keys of the encrypted data files."""
        return self.root / "lake" / "catalogue.sqlite"

    @property
    def lake_data(self) -> Path:
        """The lake's encrypted Parquet files."""
        return self.root / "lake" / "data"

    @property
    def registry_uri(self) -> str:
        """The address of MLflow's tracking and registry database."""
        return f"sqlite:///{self.root / 'registry' / 'mlflow.db'}"

    @property
    def registry_artefacts(self) -> Path:
        """The folder of the registered models' files."""
        return self.root / "registry" / "artefacts"

    @property
    def reports(self) -> Path:
        """The folder of validation reports, `<model>/v<version>/`."""
        return self.root / "reports"

    @property
    def analytics(self) -> Path:
        """The DuckDB file that analysts open."""
        return self.root / "analytics.duckdb"

    @property
    def sign_offs(self) -> Path:
        """The folder of signed statements, `<model>/v<version>/`."""
        return self.root / "governance" / "sign_offs"

    @property
    def signers(self) -> Path:
        """The public keys and roles of those who may sign on this home alone; demonstration signers stand here."""
        return self.root / "governance" / "signers.toml"

    @property
    def signer_files(self) -> tuple[Path, ...]:
        """All files of signers: the one under version control, and this home's."""
        return PROJECT / "governance" / "signers.toml", self.signers

    def report(self, model: str, version: int) -> Path:
        """The validation report of a version, that people sign."""
        return self.reports / model / f"v{version}" / "validation_report.html"

    @property
    def acts(self) -> Path:
        """The folder of releases and rollbacks at work: what each is about to do, and the lock it holds."""
        return self.root / "governance" / "acts"

    def evidence(self, model: str, version: int) -> Path:
        """The folder of a version's evidence pack, beside its report."""
        return self.report(model, version).parent / "evidence"

    @property
    def keys(self) -> Path:
        """The folder of this home's secrets; readable by its owner alone."""
        return self.root / "keys"

    @property
    def pseudonym_key(self) -> Path:
        """The key of the patients' pseudonyms."""
        return self.keys / "pseudonym.key"

    @property
    def shift_key(self) -> Path:
        """The key of the weeks by which patients' dates are moved; there is none until the pseudonyms are renewed."""
        return self.keys / "date_shift.key"

    @property
    def identified(self) -> Path:
        """The identified zone: feeds with direct identifiers and who is behind a pseudonym, all encrypted."""
        return self.root / "identified"

    @property
    def identified_key(self) -> Path:
        """The key of the identified zone's feeds."""
        return self.keys / "identified.key"

    @property
    def audit(self) -> Path:
        """The folder of the audit trail; readable by its owner alone."""
        return self.root / "audit"

    @property
    def outbox(self) -> Path:
        """The folder of notices to people, delivered or not; readable by its owner alone."""
        return self.root / "outbox"

    @property
    def notifiers(self) -> Path:
        """The file that says by which channels people are told; CLINICAL_NOTIFIERS names another."""
        return Path(os.environ.get("CLINICAL_NOTIFIERS") or self.root / "notifiers.toml")

    def incident_page(self, incident_id: str) -> Path:
        """The page of an incident."""
        return self.reports / "incidents" / f"{incident_id}.html"

    @property
    def dagster(self) -> Path:
        """Dagster's own state (DAGSTER_HOME)."""
        return self.root / "dagster"

    @property
    def source(self) -> Path:
        """The file that says which archive each model of this home is fed from."""
        return self.root / "archives.json"

    @property
    def secrets(self) -> tuple[Path, ...]:
        """Files, and folders with all below them, that nobody but their owner may ever have been able to open."""
        journals = (self.lake_catalogue.with_name(f"{self.lake_catalogue.name}{end}") for end in ("-wal", "-shm"))
        return self.keys, self.audit, self.identified, self.outbox, self.lake_catalogue, *journals

    @property
    def private_folders(self) -> tuple[Path, ...]:
        """The folders that are closed to others, whatever the modes of the files in them."""
        return (
            *(self.keys, self.audit, self.identified, self.lake_catalogue.parent, self.registry_artefacts.parent),
            *(self.signers.parent, self.dagster),
        )

    def prepare(self) -> None:
        """Make the folders with their access rights, and Dagster's settings where there are none; safe to repeat.

        Raises AccessRightsError where a secret is open to others than its owner.
        """
        refuse_open_secrets(self.secrets)
        for private in self.private_folders:
            make_private(private)
        for folder in (self.reports, self.sign_offs, self.registry_artefacts, self.lake_data):
            folder.mkdir(parents=True, exist_ok=True)
        settings = self.dagster / "dagster.yaml"
        if not settings.exists():
            write_atomically(settings, DAGSTER_YAML)

    def choose_archive(self, model: str, path: Path, share_of_patients: float = 1.0) -> None:
        """Feed a model of this home from a share of the archive at `path`, from now on; a choice made is kept.

        An archive below the home or below the folder of archives is found again where these have moved to.
        """
        choices = self._choices()
        asked: dict[str, Any] = {"path": str(path), "share_of_patients": share_of_patients}
        if path.is_relative_to(self.root):
            asked["path"] = f"{IN_HOME}/{path.relative_to(self.root)}"
        elif path.is_relative_to(self.raw):
            asked["below_raw"] = str(path.relative_to(self.raw))
        chosen = choices.get(model, asked)
        if (self._found(chosen), chosen["share_of_patients"]) != (path, share_of_patients):
            from_there = f"{self._found(chosen)} ({chosen['share_of_patients']:.0%} of its patients)"
            raise ArchiveError(
                f"{self.root} already holds {model} data from {from_there}, now asked for {path} "
                f"({share_of_patients:.0%}); choose another CLINICAL_HOME, or start over with `make clean-demo`"
            )
        if model not in choices:
            self.root.mkdir(parents=True, exist_ok=True)
            write_atomically(self.source, json.dumps(choices | {model: asked}, indent=2, sort_keys=True) + "\n")

    def chosen_archive(self, model: str) -> Path | None:
        """The archive that was chosen for a model of this home, if any."""
        chosen = self._choices().get(model)
        return self._found(chosen) if chosen else None

    def archive_path(self, protocol: ModelProtocol) -> Path:
        """The archive this home feeds a model from: the one chosen, else that in `raw`, else that beside its pin."""
        if chosen := self.chosen_archive(protocol.model):
            return chosen
        published = load_object(str(protocol.archive))
        pins = PinnedTree.from_environment()
        for folder in (self.raw, *([pins.archives] if pins else [])):
            if found := published.find(folder):
                return found
        raise ArchiveError(
            f"no {published.title} archive in {self.raw}; run `clinical fetch {protocol.model}`, "
            "set CLINICAL_RAW to the folder that holds it, or run `clinical demo --data simulated`"
        )

    def open_archive(self, protocol: ModelProtocol) -> Archive:
        """The archive this home feeds a model from, opened and checked; raises PinError where it is not as pinned.

        Where the protocol names none, because its cohort function fetches the rows itself, one that only says whose.
        """
        if protocol.archive is None:
            return Archive(self.raw, str(protocol.data_origin), sha256="no archive")
        chosen = self._choices().get(protocol.model, {})
        published, path = load_object(protocol.archive), self.archive_path(protocol)
        tree = PinnedTree.from_environment()
        pin = tree.archive_pin(published.name) if tree else None
        if tree is not None and pin is not None:
            verify(pin, path)
        archive = replace(published.open(path), pin=tree.record_of(pin) if tree and pin else None)
        return archive.sampled(chosen.get("share_of_patients", 1.0))

    def archive_pin(self, protocol: ModelProtocol) -> ArchivePin | None:
        """The pin of a model's archive as it stands now, whether the archive is here or not; None where there is none.

        Raises PinError where it is damaged.
        """
        tree = PinnedTree.from_environment()
        if tree is None or protocol.archive is None:
            return None
        pin = tree.archive_pin(load_object(protocol.archive).name)
        return tree.record_of(pin) if pin else None

    def _found(self, chosen: Mapping[str, Any]) -> Path:
        """Where a chosen archive is: in this home; at its full path; else, if that is gone, at its place in `raw`."""
        name, _, place = chosen["path"].partition("/")
        if name == IN_HOME:
            return self.root / place
        path = Path(chosen["path"])
        return self.raw / chosen["below_raw"] if "below_raw" in chosen and not path.exists() else path

    def _choices(self) -> dict[str, dict[str, Any]]:
        return json.loads(self.source.read_text()) if self.source.exists() else {}


def hash_file(path: Path) -> str:
    """The sha256 of a file's content, as 64 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_atomically(path: Path, text: str) -> None:
    """Write a text file so that a reader, or a kill at any moment, meets the old file or the new one whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with temporary.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
