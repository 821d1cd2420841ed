"""An SFTP server of Python that does what servers in the field do wrong, each by a word of its own."""

from tests.fake_sftp.server import Server, serving

__all__ = ["Server", "serving"]
