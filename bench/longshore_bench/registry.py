"""A registry on loopback, for one row and one tool: Debian's `docker-registry`, else ours."""

import json
import os
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request

from . import trees

STARTUP_SECONDS = 30
DOCUMENTS = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.docker.distribution.manifest.v2+json",
)


def _is_image(descriptor):
    """Attestations stand beside images, on a platform that there is not."""
    return descriptor.get("platform", {}).get("os") != "unknown"


class Registry:
    """A running registry with nothing in it; stopped, and its data gone, by `stop`."""

    def __init__(self, folder, longshore):
        self.folder = folder
        os.makedirs(folder)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.address = f"127.0.0.1:{probe.getsockname()[1]}"
        self.name = "docker-registry" if shutil.which("docker-registry") else "longshore serve"
        with open(os.path.join(folder, "log"), "wb") as log:
            self.process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", *self._argv(longshore)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self._wait()

    def _argv(self, longshore):
        data = os.path.join(self.folder, "data")
        if self.name == "longshore serve":
            return [longshore, "--root", data, "serve", "--listen", self.address]
        config = {
            "version": 0.1,
            "log": {"level": "error"},
            "storage": {"filesystem": {"rootdirectory": data}},
            "http": {"addr": self.address},
        }
        path = os.path.join(self.folder, "config.yml")
        with open(path, "w", encoding="utf-8") as file:
            json.dump(config, file)
        return ["docker-registry", "serve", path]

    def _wait(self):
        deadline = time.monotonic() + STARTUP_SECONDS
        while True:
            try:
                self._request("GET", "/v2/").close()
                return
            except OSError as error:
                if time.monotonic() > deadline or self.process.poll() is not None:
                    self.stop()
                    raise RuntimeError(f"{self.name} does not answer: {error}") from error
                time.sleep(0.02)

    def _request(self, method, path, data=None, headers=None):
        url = path if path.startswith("http") else f"http://{self.address}{path}"
        request = urllib.request.Request(url, data=data, method=method, headers=headers or {})
        return urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request)

    def upload(self, layout, repository, tag):
        """Puts the image of an OCI layout there."""
        manifest, descriptor = layout.manifest()
        value = json.loads(manifest)
        for blob in [value["config"], *value["layers"]]:
            with self._request("POST", f"/v2/{repository}/blobs/uploads/", b"") as answer:
                place = answer.headers["Location"]
            place += ("&" if "?" in place else "?") + f"digest={urllib.parse.quote(blob['digest'])}"
            headers = {
                "Content-Type": "application/octet-stream",
                "Content-Length": str(blob["size"]),
            }
            with open(layout.blob(blob["digest"]), "rb") as file:
                self._request("PUT", place, file, headers).close()
        headers = {"Content-Type": descriptor["mediaType"]}
        self._request("PUT", f"/v2/{repository}/manifests/{tag}", manifest, headers).close()

    def image(self, repository, tag, folder):
        """What it has under a tag: the tree of the only platform's image. Layers go through
        `folder`."""
        document = self._document(repository, tag)
        if "manifests" in document:
            images = [it for it in document["manifests"] if _is_image(it)]
            if len(images) != 1:
                raise trees.Unreadable(f"{len(images)} images under {repository}:{tag}")
            document = self._document(repository, images[0]["digest"])
        files = []
        for number, layer in enumerate(document["layers"]):
            files.append(os.path.join(folder, f"pushed-layer-{number}"))
            with self._request("GET", f"/v2/{repository}/blobs/{layer['digest']}") as answer:
                with open(files[-1], "wb") as file:
                    shutil.copyfileobj(answer, file, 1 << 20)
        try:
            return trees.Image.of_layers(files)
        finally:
            for file in files:
                os.unlink(file)

    def _document(self, repository, reference):
        headers = {"Accept": ", ".join(DOCUMENTS)}
        path = f"/v2/{repository}/manifests/{reference}"
        with self._request("GET", path, None, headers) as answer:
            return json.load(answer)

    def stop(self):
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)
