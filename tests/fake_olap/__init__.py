"""Stand-ins for StarRocks and Doris, which no test machine can run.

``FakeStarRocks`` and ``FakeDoris`` (``server``) know the dialect, the types and the catalog; ``volume`` puts the words of
both systems before a real MariaDB, for results of any size at full speed. Each module says what it is faithful to, and
what it can't show.
"""

from tests.fake_olap.server import FakeDoris, FakeOlap, FakeStarRocks, Fault, fresh_database, insert
from tests.fake_olap.volume import VolumeServer

__all__ = ["FakeDoris", "FakeOlap", "FakeStarRocks", "Fault", "VolumeServer", "fresh_database", "insert"]
