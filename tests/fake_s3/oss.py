"""OSS by its endpoint that is compatible with S3: what it refuses, as its documentation says it."""

from __future__ import annotations

from aiohttp import web

from tests.fake_s3 import objects
from tests.fake_s3.server import Asked, FakeS3, path


class FakeOSS(FakeS3):
    """A region of OSS. A bucket stands in the host, or in a domain of the user's own that is bound to it."""

    domain = "s3.oss-cn-hangzhou.test"

    def __init__(self) -> None:
        super().__init__()
        self.region = "cn-hangzhou"
        self.domains: dict[str, str] = {}
        """The buckets of domains that are bound to them."""
        self.public_endpoint = True
        """Whether the account may read by the region's public endpoint."""

    @property
    def endpoint(self) -> str:
        return f"http://{self.domain}:{self.port}"

    def place(self, request: web.BaseRequest) -> tuple[str, str]:
        host = request.headers.get("Host", "").partition(":")[0]
        if host in self.domains:
            return self.domains[host], path(request)
        return super().place(request)

    def refuse(self, request: web.BaseRequest, asked: Asked) -> web.Response | None:
        host = asked.headers.get("host", "").partition(":")[0]
        if host not in self.domains:
            if not host.endswith(f".{self.domain}"):
                message = "Please use virtual hosted style to access."
                return refusal(request, 403, "SecondLevelDomainForbidden", message, "0003-00001401")
            if not self.public_endpoint:
                message = "Public endpoint is forbidden to perform the data operation."
                return refusal(request, 400, "PublicEndpointForbidden", message, "0048-00000401")
        if "aws-chunked" in asked.headers.get("content-encoding", ""):
            message = "aws-chunked encoding is not supported with the specified x-amz-content-sha256 value."
            return refusal(request, 400, "InvalidArgument", message, "0017-00000804")
        if f"/oss-{self.region}/" in asked.headers.get("authorization", ""):
            message = "Invalid signing region in Authorization header."
            return refusal(request, 400, "InvalidArgument", message, "0002-00000226")
        return super().refuse(request, asked)


def refusal(request: web.BaseRequest, status: int, code: str, message: str, detail: str) -> web.Response:
    """An answer with the code by which OSS tells its errors apart, which stands in a header as well."""
    headers = {"x-oss-ec": detail}
    if request.method == "HEAD":
        return web.Response(status=status, headers=headers)
    text = objects.error(code, message, EC=detail)
    return web.Response(status=status, text=text, content_type="application/xml", headers=headers)
