"""A stand-in for Redshift, which no test machine can run: PostgreSQL's protocol before a real PostgreSQL 18.

What it shows, and where it comes from, each module says: ``settings`` (start-up, settings), ``sql`` (dialect and refusals),
``catalog`` (types, system views), ``session`` (cursors, snapshots, transactions), ``unload`` (files and manifest). Its tests
let clients of others find its faults: Amazon's ``redshift_connector`` and the dialect of SQLAlchemy open sessions, look at
the catalog and read tables.

What it cannot show: how a planner chooses and how fast anything is; queues (WLM), concurrency scaling, Spectrum, data
sharing, SHOW TABLES and its like; lengths of VARCHAR in bytes (they count characters here); trailing blanks that compare as
equal; the limits of numbers in division; binary formats that differ from PostgreSQL's; the binary login and the extended
metadata of Amazon's own protocol versions; whether a portal honours the row limit of Execute, which is disputed. Error 1023
comes only as an injected fault. The tests that need none of its faults run against a real cluster where
``RETL_TEST_REDSHIFT_URL`` names one.
"""

from tests.fake_redshift.bucket import Bucket
from tests.fake_redshift.cluster import Cluster, insert, written
from tests.fake_redshift.server import FakeRedshift, Fault
from tests.fake_redshift.wire import Refusal

__all__ = ["Bucket", "Cluster", "FakeRedshift", "Fault", "Refusal", "insert", "written"]
