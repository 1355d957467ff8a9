"""Priors fetched from a server, checked by their hash."""

import functools
import hashlib
import http.server
import json
import threading

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


def test_references(rotation, tmp_path):
    prior = rotation[2]
    reference = refer(prior)
    assert reference.load().hash == prior.hash
    assert reference.load() is reference.load()
    path = prior.save(tmp_path / "moved.safetensors")
    loaded = xsda.load_model(path)
    reference = refer(loaded)
    assert reference.path == str(path)
    path.unlink()
    with pytest.raises(FileNotFoundError, match="all workers share"):
        reference.load()
