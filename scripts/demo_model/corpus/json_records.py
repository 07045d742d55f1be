"""Further kinds of records whose facts are asked for as JSON."""

from __future__ import annotations

from scripts.demo_model.corpus.json_records1 import RECORDS_1
from scripts.demo_model.corpus.json_records2 import RECORDS_2
from scripts.demo_model.corpus.json_records3 import RECORDS_3
from scripts.demo_model.corpus.json_records4 import RECORDS_4
from scripts.demo_model.records import Record

RECORDS_MORE: tuple[Record, ...] = (*RECORDS_1, *RECORDS_2, *RECORDS_3, *RECORDS_4)
