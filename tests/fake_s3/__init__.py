"""A store of objects in memory that speaks the protocol of S3, and one that refuses what OSS refuses.

SeaweedFS is the real server of these tests. This one shows what it cannot: keys with ``//`` and ``/`` at their end,
the order of S3, archived objects, credentials that expire, regions, and answers that a test makes up.
"""

from tests.fake_s3.objects import Object
from tests.fake_s3.oss import FakeOSS
from tests.fake_s3.server import Asked, FakeS3, Fault

__all__ = ["Asked", "FakeOSS", "FakeS3", "Fault", "Object"]
