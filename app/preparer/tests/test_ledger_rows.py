"""Rows of the ledger as dataclasses."""

from dataclasses import fields

import pytest
from preparer.ledger import File, Task
from preparer.ledger.tables import files, tasks
from sqlalchemy import Table


@pytest.mark.parametrize(("row", "table"), [(Task, tasks), (File, files)])
def test_a_row_has_the_columns_of_its_table_in_their_order(row: type, table: Table) -> None:
    assert [field.name for field in fields(row)] == list(table.columns.keys())
