"""A study's store that was made by another version of Optuna, or does not answer."""

import sqlite3

import optuna
import pytest
from sqlalchemy.exc import OperationalError

from cluemap.tuning.study import OtherSchema, StoreDown, answering


@pytest.mark.parametrize(
    ("schema", "said"), [("v2.6.0.a", "`optuna storage upgrade --storage sqlite"), ("v99.0.0.a", "a newer Optuna than")]
)
def test_a_database_of_another_optuna_is_one_line_with_what_to_do(tmp_path, schema, said):
    url = f"sqlite:///{tmp_path}/optuna.db"
    optuna.storages.RDBStorage(url).engine.dispose()
    with sqlite3.connect(tmp_path / "optuna.db") as base:
        base.execute("update alembic_version set version_num = ?", [schema])
    with pytest.raises(OtherSchema) as error, answering(url):
        optuna.storages.RDBStorage(url)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_a_store_that_does_not_answer_is_one_line_without_its_password():
    pytest.importorskip("psycopg", reason="no PostgreSQL driver here")
    url = "postgresql+psycopg://cluemap:secret@127.0.0.1:9/study"  # the discard port: refuses at once
    with pytest.raises(StoreDown, match=r"cluemap:\*\*\*@.*Connection refused") as error, answering(url):
        optuna.storages.RDBStorage(url)
    assert "\n" not in str(error.value)
    assert "secret" not in str(error.value)


def test_what_broke_a_commit_is_said_and_not_what_optuna_supposes():
    supposed = optuna.exceptions.StorageInternalError("This typically happens due to invalid data in the commit")
    supposed.__cause__ = OperationalError("insert", {}, Exception("the server closed the connection\nunexpectedly"))
    with pytest.raises(StoreDown) as error, answering("sqlite:///optuna.db"):
        raise supposed
    assert str(error.value).endswith("(builtins.Exception) the server closed the connection")
