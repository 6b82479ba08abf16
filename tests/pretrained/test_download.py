"""Downloads from a local server that cuts connections, sends wrong lengths and sends wrong bytes."""

import hashlib
import http.server
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from gfl_jax.errors import UserError
from gfl_jax.pretrained.download import cache_folder, fetch

CONTENT = np.random.default_rng(0).bytes(3_000_000)
HASH = hashlib.sha256(CONTENT).hexdigest()[:8]


class Server(http.server.ThreadingHTTPServer):
    """Serves CONTENT. `answers` has a function for each request; the last one also serves all later ones."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers, self.requests, self.lock = [whole], [], threading.Lock()
        self.url = f"http://127.0.0.1:{self.server_port}/folder/weights-{HASH}.pth"


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        with self.server.lock:
            self.server.requests.append(self.headers.get("Range"))
            answers = self.server.answers
            answer = answers.pop(0) if len(answers) > 1 else answers[0]
        answer(self)

    def send(self, content, status=200, length=None):
        self.send_response(status)
        self.send_header("Content-Length", str(len(content) if length is None else length))
        self.end_headers()
        self.wfile.write(content)

    def start(self):
        """The first requested byte."""
        return int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").removesuffix("-"))

    def log_message(self, *_):
        pass


def whole(handler, content=CONTENT):
    """Sends all requested bytes."""
    start = handler.start()
    if start >= len(content):
        return handler.send(b"", 416)
    handler.send(content[start:], 206 if start else 200)


def cut(handler):
    """Sends a million bytes and closes the connection."""
    start = handler.start()
    handler.send(CONTENT[start : start + 1_000_000], 206 if start else 200, len(CONTENT) - start)
    handler.wfile.flush()
    handler.connection.close()


def without_ranges(handler):
    handler.send(CONTENT)


def status(number):
    return lambda handler: handler.send(b"no", number)


@pytest.fixture
def server(tmp_path, monkeypatch):
    monkeypatch.setenv("GFL_JAX_CACHE", str(tmp_path / "cache"))
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def kept():
    return cache_folder() / "weights" / f"weights-{HASH}.pth"


def get(server, **options):
    return fetch(server.url, HASH, kept(), pauses=(0, 0), **options)


def line(server):
    with pytest.raises(UserError) as caught:
        get(server)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(f"{server.url}: ")
    return str(caught.value)


def left(tmp_path):
    return sorted(path.name for path in (tmp_path / "cache" / "weights").iterdir())


def test_a_file_is_downloaded_once_and_kept(server, tmp_path):
    file = get(server)
    assert file == tmp_path / "cache" / "weights" / f"weights-{HASH}.pth"
    assert file.read_bytes() == CONTENT
    assert get(server) == file
    assert server.requests == [None]
    assert left(tmp_path) == [file.name]


def test_a_cached_file_needs_no_network(server):
    file = get(server)
    server.shutdown()
    server.server_close()
    assert get(server) == file


def test_a_connection_that_is_cut_repeatedly_resumes_where_it_stopped(server):
    server.answers = [cut, status(503), cut, whole]
    assert get(server).read_bytes() == CONTENT
    assert server.requests == [None, "bytes=1000000-", "bytes=1000000-", "bytes=2000000-"]


def test_the_next_call_resumes_from_the_partial_file_of_the_last_one(server, tmp_path):
    server.answers = [cut, status(500)]
    assert "cannot be downloaded (HTTP Error 500" in line(server)
    assert left(tmp_path) == [f"weights-{HASH}.pth.part"]
    server.answers, server.requests = [whole], []
    assert get(server).read_bytes() == CONTENT
    assert server.requests == ["bytes=1000000-"]


def test_without_ranges_the_download_starts_again(server):
    server.answers = [cut, without_ranges]
    assert get(server).read_bytes() == CONTENT


def test_a_content_length_that_is_too_large(server):
    server.answers = [lambda handler: handler.send(CONTENT, length=len(CONTENT) + 5), whole]
    assert get(server).read_bytes() == CONTENT


def test_a_content_length_that_is_too_small(server, tmp_path):
    server.answers = [lambda handler: handler.send(CONTENT, length=1000)]
    assert "is not the file that was published" in line(server)
    assert left(tmp_path) == [f"weights-{HASH}.pth.part"]
    server.answers = [whole]
    assert get(server).read_bytes() == CONTENT


def test_wrong_bytes_are_never_accepted(server, tmp_path):
    other = bytes(len(CONTENT))
    server.answers = [lambda handler: whole(handler, other)]
    assert f"(its sha256 must begin with {HASH})" in line(server)
    assert not (tmp_path / "cache" / "weights" / f"weights-{HASH}.pth").exists()


def test_a_partial_file_with_wrong_bytes_is_downloaded_again(server, tmp_path):
    part = tmp_path / "cache" / "weights" / f"weights-{HASH}.pth.part"
    part.parent.mkdir(parents=True)
    for rest in (b"another", bytes(len(CONTENT)), CONTENT + b"more"):
        part.write_bytes(rest)
        assert get(server).read_bytes() == CONTENT
        get(server).unlink()


def test_a_file_that_the_server_does_not_have(server):
    server.answers = [status(404)]
    assert "cannot be downloaded (HTTP Error 404: Not Found)" in line(server)
    assert len(server.requests) == 1


def test_no_network(server):
    server.shutdown()
    server.server_close()
    message = line(server)
    assert "refused" in message
    assert f"put it at {cache_folder() / 'weights' / f'weights-{HASH}.pth'}" in message


def test_several_calls_at_once_download_once(server):
    with ThreadPoolExecutor(4) as pool:
        files = list(pool.map(lambda _: get(server), range(4)))
    assert {file.read_bytes() for file in files} == {CONTENT}
    assert server.requests == [None]


def test_environment_variables_set_the_cache_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "gfl_jax"
    monkeypatch.setenv("GFL_JAX_CACHE", "~/here")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "here"


def test_a_cache_folder_that_cannot_be_created(server, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("GFL_JAX_CACHE", str(tmp_path / "file"))
    with pytest.raises(UserError, match="weights: cannot be created"):
        get(server)
