"""Stores of objects that speak the protocol of S3: Amazon's own, those that are compatible with it, and OSS."""
