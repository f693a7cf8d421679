"""Packs a layer, and the base below it, into an OCI archive that `ctr image import` reads.

Arguments: IMAGE.JSON NAME WORK BASE OUT. WORK/layer is an overlayfs upper folder. Layers are not compressed:
the archive never leaves this machine, and unpacking is then as fast as the disk.
"""

import hashlib
import io
import json
import os
import stat
import sys
import tarfile

EPOCH = "2024-01-01T00:00:00Z"


class HashingFile:
    """A file that hashes what is written to it."""

    def __init__(self, path):
        self.file = open(path, "wb")
        self.digest = hashlib.sha256()

    def write(self, data):
        self.digest.update(data)
        return self.file.write(data)


def whiteout(path, info):
    """The tar entry that stands for a file removed in an overlayfs upper folder, or None."""
    mode = os.lstat(path)
    if not (stat.S_ISCHR(mode.st_mode) and mode.st_rdev == 0):
        return None
    folder, name = os.path.split(info.name)
    return tarfile.TarInfo(os.path.join(folder, ".wh." + name))


def is_opaque(path):
    try:
        return os.getxattr(path, "trusted.overlay.opaque", follow_symlinks=False) == b"y"
    except OSError:
        return False


def add_tree(tar, root):
    for folder, folders, files in os.walk(root):
        folders.sort()
        inside = os.path.relpath(folder, root)
        for name in sorted(files + folders):
            path = os.path.join(folder, name)
            info = tar.gettarinfo(path, arcname=os.path.normpath(os.path.join(inside, name)))
            if info is None:  # sockets
                continue
            gone = whiteout(path, info)
            if gone:
                tar.addfile(gone)
            elif info.isreg():
                with open(path, "rb") as content:
                    tar.addfile(info, content)
            else:
                tar.addfile(info)
            if info.isdir() and is_opaque(path):
                tar.addfile(tarfile.TarInfo(info.name + "/.wh..wh..opq"))


def pack_layer(root, path):
    """Writes the tar of `root` to `path` and returns its digest; keeps the digest beside it."""
    out = HashingFile(path)
    with tarfile.open(fileobj=out, mode="w|", format=tarfile.GNU_FORMAT) as tar:
        add_tree(tar, root)
    out.file.close()
    return out.digest.hexdigest()


def base_layer(base):
    """The base's layer, packed once and kept beside the base."""
    path, note = base + ".tar", base + ".tar.sha256"
    if not os.path.exists(note):
        mine = f"{path}.new.{os.getpid()}"
        digest = pack_layer(base, mine)
        os.rename(mine, path)
        with open(note + f".new.{os.getpid()}", "w") as file:
            file.write(digest)
        os.rename(note + f".new.{os.getpid()}", note)
    with open(note) as file:
        return path, file.read()


def add_bytes(tar, name, data):
    info = tarfile.TarInfo(name)
    info.size = len(data)
    tar.addfile(info, io.BytesIO(data))


def add_blob(tar, document, media_type):
    data = json.dumps(document, sort_keys=True).encode()
    digest = hashlib.sha256(data).hexdigest()
    add_bytes(tar, f"blobs/sha256/{digest}", data)
    return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(data)}


def config(recipe, layers):
    return {
        "created": EPOCH,
        "architecture": {"x86_64": "amd64", "aarch64": "arm64"}[os.uname().machine],
        "os": "linux",
        "config": {
            "Cmd": recipe["args"],
            "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"] + recipe.get("env", []),
            "WorkingDir": recipe.get("cwd", "/"),
            "User": recipe.get("user", ""),
            "Volumes": {path: {} for path in recipe.get("volumes", [])},
        },
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}" for _, digest in layers]},
        "history": [{"created": EPOCH, "created_by": "hack/lab image"} for _ in layers],
    }


def main(recipe_path, name, work, base, out):
    with open(recipe_path) as file:
        recipe = json.load(file)
    layers = [] if recipe.get("base") == "scratch" else [base_layer(base)]
    own = os.path.join(work, "layer.tar")
    layers.append((own, pack_layer(os.path.join(work, "layer"), own)))

    with tarfile.open(out, "w", format=tarfile.GNU_FORMAT) as tar:
        add_bytes(tar, "oci-layout", b'{"imageLayoutVersion":"1.0.0"}')
        for path, digest in layers:
            tar.add(path, arcname=f"blobs/sha256/{digest}")
        manifest = {
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": add_blob(tar, config(recipe, layers), "application/vnd.oci.image.config.v1+json"),
            "layers": [
                {
                    "mediaType": "application/vnd.oci.image.layer.v1.tar",
                    "digest": f"sha256:{digest}",
                    "size": os.path.getsize(path),
                }
                for path, digest in layers
            ],
        }
        entry = add_blob(tar, manifest, manifest["mediaType"])
        entry["annotations"] = {
            "io.containerd.image.name": f"localhost/thaw/{name}:latest",
            "org.opencontainers.image.ref.name": "latest",
        }
        index = {"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": [entry]}
        add_bytes(tar, "index.json", json.dumps(index, sort_keys=True).encode())


if __name__ == "__main__":
    main(*sys.argv[1:])
