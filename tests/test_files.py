import hashlib

import pytest
from lightsleeper.errors import UserError
from lightsleeper.files import gzip_bytes, replacing, sha256


def test_a_file_appears_whole_or_not_at_all(tmp_path):
    path = tmp_path / "deep" / "file.bin"
    with replacing(path) as temporary:
        temporary.write_bytes(b"whole content")
        assert not path.exists()
    failing = replacing(path)
    failing.__enter__().write_bytes(b"half")
    failing.__exit__(RuntimeError, RuntimeError(), None)
    assert path.read_bytes() == b"whole content"
    assert [entry.name for entry in path.parent.iterdir()] == ["file.bin"]


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"), replacing(tmp_path / "file" / "below"):
        pass


def test_digest_and_compressed_size(tmp_path):
    path = tmp_path / "zeros"
    path.write_bytes(bytes(10_000))
    assert sha256(path) == hashlib.sha256(bytes(10_000)).hexdigest()
    assert gzip_bytes(path) < 100
