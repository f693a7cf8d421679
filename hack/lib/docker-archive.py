"""Writes an OCI archive of hack/lib/oci.py to standard output in the form that `docker load` takes.

Docker with its own image store reads `manifest.json` and no OCI index; with containerd's store it reads either. The
blobs stay as they are, so both make the same image of it, with the same config digest.

Argument: ARCHIVE.
"""

import io
import json
import sys
import tarfile


def read(archive, digest):
    with archive.extractfile("blobs/" + digest.replace(":", "/")) as blob:
        return json.load(blob)


def docker_manifest(archive):
    with archive.extractfile("index.json") as file:
        entry = json.load(file)["manifests"][0]
    image = read(archive, entry["digest"])

    def path(descriptor):
        return "blobs/" + descriptor["digest"].replace(":", "/")

    return [
        {
            "Config": path(image["config"]),
            "RepoTags": [entry["annotations"]["io.containerd.image.name"]],
            "Layers": [path(layer) for layer in image["layers"]],
        }
    ]


def main(path):
    with tarfile.open(path) as archive, tarfile.open(fileobj=sys.stdout.buffer, mode="w|") as out:
        for info in archive:
            out.addfile(info, archive.extractfile(info))
        data = json.dumps(docker_manifest(archive)).encode()
        info = tarfile.TarInfo("manifest.json")
        info.size = len(data)
        out.addfile(info, io.BytesIO(data))


if __name__ == "__main__":
    main(sys.argv[1])
