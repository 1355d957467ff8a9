"""Priors fetched from a server, checked by their hash."""

import contextlib
import functools
import hashlib
import http.server
import json
import socketserver
import threading
import time
from pathlib import Path

import pytest

import xsda
from xsda.priors.reference import refer


@pytest.fixture
def server(tmp_path, rotation):
    """A local server with one prior, and the registry that names it."""
    site = tmp_path / "site"
    site.mkdir()
    path = rotation[2].save(site / "turning.safetensors")
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(site))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as httpd:
        threading.Thread(target=httpd.serve_forever, daemon=True).start()
        registry = {
            "base_url": f"http://127.0.0.1:{httpd.server_port}",
            "priors": {"turning": {"file": path.name, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}},
        }
        (tmp_path / "registry.json").write_text(json.dumps(registry))
        yield registry, tmp_path / "registry.json"
        httpd.shutdown()


def test_a_registered_prior_is_fetched_once(server, monkeypatch, tmp_path, rotation):
    _, registry = server
    monkeypatch.setenv("XSDA_REGISTRY", str(registry))
    monkeypatch.setenv("XSDA_CACHE", str(tmp_path / "cache"))
    assert xsda.load_model("turning").hash == rotation[2].hash
    assert "turning" in xsda.models()
    monkeypatch.setenv("XSDA_BASE_URL", "http://127.0.0.1:9/nothing")
    assert xsda.load_model("turning").hash == rotation[2].hash  # from the cache, without the server


def test_a_wrong_hash_is_refused(server, monkeypatch, tmp_path):
    data, registry = server
    data["priors"]["turning"]["sha256"] = "0" * 64
    registry.write_text(json.dumps(data))
    monkeypatch.setenv("XSDA_REGISTRY", str(registry))
    monkeypatch.setenv("XSDA_CACHE", str(tmp_path / "cache"))
    with pytest.raises(ValueError, match="wrong hash"):
        xsda.load_model("turning")


def test_a_dead_server_says_so(server, monkeypatch, tmp_path):
    _, registry = server
    monkeypatch.setenv("XSDA_REGISTRY", str(registry))
    monkeypatch.setenv("XSDA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("XSDA_BASE_URL", "http://127.0.0.1:9")
    with pytest.raises(ConnectionError, match="could not be fetched"):
        xsda.load_model("turning")


def test_a_broken_registry_says_so(monkeypatch, tmp_path):
    (tmp_path / "registry.json").write_text("{")
    monkeypatch.setenv("XSDA_REGISTRY", str(tmp_path / "registry.json"))
    with pytest.raises(ValueError, match="XSDA_REGISTRY"):
        xsda.load_model("anything")


def test_references(rotation, tmp_path, monkeypatch):
    prior = rotation[2]
    reference = refer(prior)
    assert reference.load().hash == prior.hash
    assert reference.load() is reference.load()
    path = prior.save(tmp_path / "moved.safetensors")
    loaded = xsda.load_model(path)
    reference = refer(loaded)
    assert reference.file.path == str(path)
    path.unlink()
    monkeypatch.setenv("XSDA_CACHE", str(tmp_path))  # that of a worker, to which nothing was sent
    with pytest.raises(FileNotFoundError, match="all workers share"):
        reference.load()


@pytest.mark.parametrize("file", ["../../loot.txt", "{}/loot.txt", "a/../../../loot.txt", "", ".", "link/loot.txt"])
def test_no_registry_writes_outside_the_cache(server, monkeypatch, tmp_path, file):
    data, registry = server
    content = b"anything at all"
    (tmp_path / "loot.txt").write_text("precious")
    (tmp_path / "cache" / "downloads").mkdir(parents=True)
    (tmp_path / "cache" / "downloads" / "link").symlink_to(tmp_path)
    asked = []
    monkeypatch.setattr("pooch.HTTPDownloader.__call__", lambda *a, **k: asked.append(Path(a[2]).write_bytes(content)))
    data["priors"]["turning"] = {"file": file.format(tmp_path), "sha256": hashlib.sha256(content).hexdigest()}
    registry.write_text(json.dumps(data))
    monkeypatch.setenv("XSDA_REGISTRY", str(registry))
    monkeypatch.setenv("XSDA_CACHE", str(tmp_path / "cache"))
    with pytest.raises(ValueError, match="outside the cache") as caught:
        xsda.load_model("turning")
    assert "\n" not in str(caught.value)
    assert not asked
    assert (tmp_path / "loot.txt").read_text() == "precious"
    assert not Path("{}/loot.txt").exists()


@pytest.mark.parametrize("where", ["head", "body"])
def test_a_download_that_never_ends_is_given_up(monkeypatch, tmp_path, where):
    """One byte after another comes often enough for the timeout of a socket, for ever."""
    head, stop = b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n", threading.Event()

    class Trickle(socketserver.StreamRequestHandler):
        def handle(self):
            self.wfile.write(head + (b"\r\n" if where == "body" else b"X-Slow: "))
            with contextlib.suppress(OSError):
                while not stop.wait(0.05):
                    self.wfile.write(b"x")

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Trickle) as httpd:
        threading.Thread(target=httpd.serve_forever, daemon=True).start()
        entry = {"file": "slow.safetensors", "sha256": "0" * 64}
        registry = {"base_url": f"http://127.0.0.1:{httpd.server_address[1]}", "priors": {"slow": entry}}
        (tmp_path / "registry.json").write_text(json.dumps(registry))
        monkeypatch.setenv("XSDA_REGISTRY", str(tmp_path / "registry.json"))
        monkeypatch.setenv("XSDA_CACHE", str(tmp_path / "cache"))
        monkeypatch.setenv("XSDA_DOWNLOAD_SECONDS", "0.5")
        start = time.monotonic()
        with pytest.raises(ConnectionError, match=r"not complete after 0\.5 seconds; set XSDA_DOWNLOAD_SECONDS"):
            xsda.load_model("slow")
        assert time.monotonic() - start < 5
        stop.set()
        httpd.shutdown()
    assert not list((tmp_path / "cache" / "downloads").iterdir())
    monkeypatch.setenv("XSDA_DOWNLOAD_SECONDS", "soon")
    with pytest.raises(ConnectionError, match="'soon' must be a positive number of seconds"):
        xsda.load_model("slow")


GOOD = {"file": "a.safetensors", "sha256": "0" * 64}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\x89HDF\r\n\x1a\n\xff\xfe\x00", "cannot be read"),
        (b"[" * 100_000, "cannot be read"),
        (b"[1, 2]", 'must be of the form {"base_url"'),
        (json.dumps({"base_url": "https://a.b", "priors": [GOOD]}).encode(), "must be of the form"),
        (json.dumps({"base_url": "https://a.b"}).encode(), "must be of the form"),
        (json.dumps({"base_url": 3, "priors": {"a": GOOD}}).encode(), "its base_url is 3, which must begin with https"),
        (json.dumps({"priors": {"a": GOOD}}).encode(), "its base_url is None"),
        (json.dumps({"base_url": "file:///etc", "priors": {"a": GOOD}}).encode(), "its base_url is 'file:///etc'"),
        (json.dumps({"base_url": "https://a.b", "priors": {"a": "b"}}).encode(), "'a' must have a \"file\""),
        (json.dumps({"base_url": "https://a.b", "priors": {"a": {**GOOD, "file": 3}}}).encode(), "must have a \"file\""),
        (json.dumps({"base_url": "https://a.b", "priors": {"a": {**GOOD, "sha256": ""}}}).encode(), "64 hexadecimal"),
    ],
)  # fmt: skip
def test_a_registry_of_another_form_says_so_in_one_sentence(monkeypatch, tmp_path, content, message):
    (tmp_path / "registry.json").write_bytes(content)
    monkeypatch.setenv("XSDA_REGISTRY", str(tmp_path / "registry.json"))
    for call in (xsda.models, lambda: xsda.load_model("a")):
        with pytest.raises(ValueError, match=message) as caught:
            call()
        assert str(caught.value).startswith(f"the registry {tmp_path / 'registry.json'} (from XSDA_REGISTRY)")
        assert "\n" not in str(caught.value)
