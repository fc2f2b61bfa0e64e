"""Requests that schemathesis makes from the OpenAPI document: no answer that the document does not describe."""

from __future__ import annotations

import pytest

pytest.importorskip("fastapi", reason="the extra serve is not installed")
pytest.importorskip("schemathesis", reason="the package schemathesis is not installed")

import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import checks

from dnd.serve.app import VERSION, build_app
from dnd.serve.guard import Limits
from dnd.serve.models import ServedModels
from finetuning_toys import tiny_model

pytestmark = pytest.mark.timeout(300)
OPERATIONS = [
    ("GET", "/models"),
    ("POST", "/predict"),
    ("POST", "/predict.csv"),
    ("POST", "/explain"),
    ("GET", "/drawing"),
    ("POST", "/files"),
    ("GET", "/files/{file_id}"),
    ("DELETE", "/files/{file_id}"),
    ("GET", "/files/{file_id}/rows"),
    ("GET", "/files/{file_id}/result.csv"),
]
CHECKS = [
    checks.not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_schema_conformance,
    checks.response_headers_conformance,
]


@pytest.fixture(scope="module")
def document(tmp_path_factory: pytest.TempPathFactory):
    models = ServedModels.load([tiny_model(tmp_path_factory.mktemp("openapi"))], device="cpu")
    limits = Limits(smiles=20, rows=50, queued=10_000, kept=5)
    return schemathesis.openapi.from_asgi(f"{VERSION}/openapi.json", build_app(models, limits))


@pytest.mark.parametrize(("method", "path"), OPERATIONS)
def test_every_answer_is_one_that_the_document_describes(document, method: str, path: str):
    operation = document[f"{VERSION}{path}"][method]

    @given(case=operation.as_strategy())
    @settings(max_examples=15, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
    def answered(case) -> None:
        case.call_and_validate(checks=CHECKS)

    answered()


def test_no_operation_is_left_out(document):
    found = {(one.ok().method.upper(), one.ok().path) for one in document.get_all_operations()}
    assert found == {(method, f"{VERSION}{path}") for method, path in OPERATIONS}
