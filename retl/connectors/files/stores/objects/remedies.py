"""What to do about the codes that stores of objects answer with. ``{region}`` is what the store says of the right one."""

from __future__ import annotations

_KEYS = "check access_key and secret_key: one of them is not what the store knows, or they are of another account."
_RENEW = "get new credentials, and give session_token from a place that is read again: a profile, a role, or a file."
_REGION = "set region to that of the bucket{region}; and endpoint, where it is set, to that of the region."

REMEDIES = {
    "AccessDenied": "allow these credentials to list the bucket below this prefix (s3:ListBucket) and to read its objects (s3:GetObject); "
    "objects that are encrypted by KMS also need kms:Decrypt, and buckets whose reader pays need requester_pays = true.",
    "AllAccessDisabled": "the bucket is closed: ask its owner.",
    "AccountProblem": "the account of the store is closed or in arrears: ask its owner.",
    "UserDisable": "the account of the store is closed or in arrears: ask its owner.",
    "InvalidAccessKeyId": _KEYS,
    "SignatureDoesNotMatch": _KEYS + " The region must be the one that the store signs with.",
    "AuthorizationHeaderMalformed": _REGION,
    "InvalidSecurity": _KEYS,
    "InvalidToken": _RENEW,
    "InvalidSecurityToken": _RENEW,
    "ExpiredToken": _RENEW,
    "ExpiredTokenException": _RENEW,
    "TokenRefreshRequired": _RENEW,
    "SecurityTokenExpired": _RENEW,
    "RequestExpired": "set the clock of this machine, by NTP.",
    "RequestTimeTooSkewed": "set the clock of this machine, by NTP: it is too far from the store's.",
    "NoSuchBucket": "check the bucket in url, and that endpoint and region are those of its account.",
    "InvalidBucketName": "check the bucket in url.",
    "PermanentRedirect": _REGION,
    "301": _REGION,
    "TemporaryRedirect": _REGION,
    "IllegalLocationConstraintException": _REGION,
    "NotImplemented": "this store lacks something that retl needs: ListObjectsV2, ranges, or conditions on a GET.",
    "MethodNotAllowed": "check endpoint: what answers there is no store of objects.",
    # OSS, by code and by detailed code (EC).
    "SecondLevelDomainForbidden": 'OSS takes no bucket in the path: use type "oss", or addressing = "virtual".',
    "0003-00001401": 'OSS takes no bucket in the path: use type "oss", or addressing = "virtual".',
    "PublicEndpointForbidden": "this account may not read by OSS's public endpoint: bind a domain of your own to the bucket (CNAME) and write "
    'endpoint = "https://files.example.com" with bucket_in_host = true; or read within the region with network = "internal".',
    "0048-00000401": "this account may not read by OSS's public endpoint: bind a domain of your own to the bucket (CNAME) and write "
    'endpoint = "https://files.example.com" with bucket_in_host = true; or read within the region with network = "internal".',
    "0003-00001403": _REGION,
}
TRANSIENT = (
    "SlowDown",
    "Throttl",
    "RequestTimeout",
    "RequestLimit",
    "TooManyRequests",
    "InternalError",
    "ServiceUnavailable",
    "Busy",
)
"""What codes of passing troubles begin with, whatever their status."""
