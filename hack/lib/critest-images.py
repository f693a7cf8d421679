"""Pushes the images that critest pulls to a registry: all of one root filesystem, each with a config of its own.

Arguments: ARCHIVE HOST CERTIFICATE. ARCHIVE is an OCI archive of hack/lib/oci.py. HOST serves TLS with CERTIFICATE.
"""

import hashlib
import http.client
import json
import os
import ssl
import sys
import tarfile

ARCHITECTURE = {"x86_64": "amd64", "aarch64": "arm64"}[os.uname().machine]
SHELL = {"Cmd": ["sh"]}
HTTPD = {"Cmd": ["sh", "-c", "echo httpd; exec nginx -g 'daemon off;'"]}
# What differs from the archive's config; critest's own names (cri-tools, pkg/validate/consts.go).
KUBERNETES = {
    "busybox:1.29-2": SHELL,
    "nginx:1.14-2": {},
    "httpd:2.4.39-4": HTTPD,
    "nonewprivs:1.3": SHELL,
}
STAGING = {
    "test-image-user-uid:latest": SHELL | {"User": "1002"},
    "test-image-user-username:latest": SHELL | {"User": "www-data"},
    "test-image-user-uid-group:latest": SHELL | {"User": "1003:users"},
    "test-image-user-username-group:latest": SHELL | {"User": "www-data:www-data"},
    "test-image-predefined-group:latest": SHELL | {"User": "1000"},
    "test-image-latest:latest": SHELL | {"Labels": {"test": "latest"}},
    "test-image-tag:test": SHELL | {"Labels": {"test": "tag"}},
    "test-image-tag:all": SHELL | {"Labels": {"test": "all"}},
    **{f"test-image-{n}:latest": SHELL | {"Labels": {"test": str(n)}} for n in (1, 2, 3)},
    **{f"test-image-tags:{n}": SHELL | {"Labels": {"test": "tags"}} for n in (1, 2, 3)},
    f"hostnet-nginx-{ARCHITECTURE}:latest": {},
}


class Registry:
    """The few calls of the OCI distribution specification that a push needs."""

    def __init__(self, host, certificate):
        self.host, self.trust = host, ssl.create_default_context(cafile=certificate)
        self.home = {}

    def call(self, method, path, body=None, headers=None):
        connection = http.client.HTTPSConnection(self.host, context=self.trust, timeout=60)
        connection.request(method, path, body, headers or {})
        answer = connection.getresponse()
        text = answer.read()
        if answer.status >= 300:
            sys.exit(f"{method} {path}: {answer.status} {text.decode(errors='replace')}")
        return answer

    def push_blob(self, name, digest, size, file):
        """Sends a blob, or links it to the repository that has it already."""
        known = self.home.setdefault(digest, name)
        if known != name:
            self.call("POST", f"/v2/{name}/blobs/uploads/?mount={digest}&from={known}")
            return
        at = self.call("POST", f"/v2/{name}/blobs/uploads/").getheader("Location")
        way = "&" if "?" in at else "?"
        headers = {"Content-Type": "application/octet-stream", "Content-Length": str(size)}
        self.call("PUT", f"{at.removeprefix(f'https://{self.host}')}{way}digest={digest}", file, headers)

    def push_manifest(self, name, tag, manifest):
        self.call("PUT", f"/v2/{name}/manifests/{tag}", json.dumps(manifest), {"Content-Type": manifest["mediaType"]})


def main(path, host, certificate):
    registry = Registry(host, certificate)
    with tarfile.open(path) as archive:

        def blob(digest):
            return archive.extractfile("blobs/" + digest.replace(":", "/"))

        index = json.load(archive.extractfile("index.json"))
        manifest = json.load(blob(index["manifests"][0]["digest"]))
        original = json.load(blob(manifest["config"]["digest"]))
        for prefix, images in (("e2e-test-images", KUBERNETES), ("k8s-staging-cri-tools", STAGING)):
            for image, change in images.items():
                name, tag = f"{prefix}/{image.partition(':')[0]}", image.partition(":")[2]
                config = json.dumps(original | {"config": original["config"] | change}).encode()
                digest = "sha256:" + hashlib.sha256(config).hexdigest()
                for layer in manifest["layers"]:
                    registry.push_blob(name, layer["digest"], layer["size"], blob(layer["digest"]))
                registry.push_blob(name, digest, len(config), config)
                own = manifest["config"] | {"digest": digest, "size": len(config)}
                registry.push_manifest(name, tag, manifest | {"config": own})


if __name__ == "__main__":
    main(*sys.argv[1:])
