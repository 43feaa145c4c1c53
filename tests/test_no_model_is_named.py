"""One lifecycle carries every model: what they share knows none of them by name."""

import ast
from pathlib import Path

import pytest

from clinical_assets.protocol import protocol_names
from clinical_assets.resources.home import PROJECT

PACKAGE = PROJECT / "clinical_assets"
SHARED = [
    *sorted(PACKAGE.glob("lifecycle/*.py")),
    *sorted(PACKAGE.glob("components/*.py")),
    *sorted(PACKAGE.glob("resources/*.py")),
    *sorted(PACKAGE.glob("governance/*.py")),
    *sorted(PACKAGE.glob("cli/*.py")),
    *sorted(PACKAGE.glob("metrics/*.py")),
    *(PACKAGE / name for name in ("learning/scoring.py", "learning/splits.py", "learning/storage.py")),
    *(PACKAGE / name for name in ("learning/estimator.py", "evaluation/assessment.py", "archives/data_quality.py")),
    *(PACKAGE / name for name in ("protocol.py", "demo.py", "demo_drill.py", "validation.py", "definitions.py")),
]


def names_and_words(source: str) -> list[tuple[int, str]]:
    """The identifiers and texts of a module by line, without what only explains: docstrings and comments."""
    tree = ast.parse(source)
    explained = {
        id(statement.value)
        for statement in ast.walk(tree)
        if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
    }
    found: list[tuple[int, str]] = []
    for node in ast.walk(tree):
        match node:
            case ast.Constant(value=str(text)) if id(node) not in explained:
                found.append((node.lineno, text))
            case ast.Name(id=name) | ast.Attribute(attr=name) | ast.arg(arg=name) | ast.keyword(arg=str(name)):
                found.append((node.lineno, name))
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
                found.append((node.lineno, name))
            case ast.Import(names=names):
                found += [(node.lineno, alias.name) for alias in names]
            case ast.ImportFrom(module=str(module), names=names):
                found += [(node.lineno, f"{module}.{alias.name}") for alias in names]
            case _:
                pass
    return found


def models_named_in(source: str) -> list[tuple[int, str]]:
    return [(line, text) for line, text in names_and_words(source) if any(x in text.lower() for x in protocol_names())]


def test_a_model_named_in_any_way_would_be_found_and_an_explanation_is_none() -> None:
    assert protocol_names() == ["readmission", "retinopathy", "sepsis"]
    found = models_named_in(
        "\n".join(
            [
                '"""Not of sepsis."""',
                "import clinical_assets.defs.sepsis.cohort",
                "from clinical_assets.defs.retinopathy import cohort",
                'if model == "Readmission": pass',
                "f'{model}/sepsis'",
                "def sepsis_utility(): pass",
                "x = protocol.model  # sepsis",
            ]
        )
    )
    assert {line for line, _ in found} == {2, 3, 4, 5, 6}


@pytest.mark.parametrize("path", SHARED, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_what_all_models_share_names_none_of_them(path: Path) -> None:
    assert models_named_in(path.read_text()) == []
