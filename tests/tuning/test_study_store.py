"""A study's store that was made by another version of Optuna."""

import sqlite3

import optuna
import pytest

from cluemap.tuning.study import OtherSchema, answering


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
