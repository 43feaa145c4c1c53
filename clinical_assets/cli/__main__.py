"""`python -m clinical_assets.cli` is `clinical`."""

from clinical_assets.cli import app

if __name__ == "__main__":
    app()
