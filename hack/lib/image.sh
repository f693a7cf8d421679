# Builds the images of hack/images as OCI archives, cached under the hash of their recipe.
# shellcheck shell=bash disable=SC2154 # cache and hack come from common.sh

image_archive() {
    local recipe
    recipe=$(hash_of "$hack/lib/image-layer.sh" "$hack/lib/oci.py" "$hack/images/$1")
    printf '%s/images/%s-%s.tar\n' "$cache" "$1" "$(printf '%s %s\n' "$recipe" "$(basename "$(base_root)")" | sha256sum | cut -c1-16)"
}

list_images() {
    local recipe
    for recipe in "$hack"/images/*/image.json; do
        recipe=$(dirname "$recipe")
        printf '%-10s %s\n' "$(basename "$recipe")" \
            "$(python3 -c 'import json, sys; print(json.load(open(sys.argv[1]))["description"])' "$recipe/image.json")"
    done
}

# image NAME: prints the archive's path, after building it when the recipe has changed.
image() {
    local name=$1 archive
    [ -f "$hack/images/$name/image.json" ] || die "no image $name; there are: $(list_images | awk '{ printf "%s ", $1 }')"
    archive=$(image_archive "$name")
    if [ ! -f "$archive" ]; then
        mkdir -p "$cache/images"
        [ -d "$(base_root)" ] || step "building the base of the images" build_base >&2 || return 1
        step "building image $name" build_image "$name" "$archive" >&2 || return 1
        # What older recipes made.
        find "$cache/images" -name "$name-????????????????.tar" ! -samefile "$archive" -delete
    fi
    ln -sfn "$(basename "$archive")" "$cache/images/$name.tar"
    cp "$hack/images/$name/image.json" "$cache/images/$name.json.$$"
    mv "$cache/images/$name.json.$$" "$cache/images/$name.json"
    printf '%s\n' "$archive"
}

build_image() {
    local name=$1 archive=$2 work status=0
    work=$(mktemp -d -p "$cache/images")
    # A mount namespace of its own: whatever happens, no mount is left behind. A pid namespace for the same reason.
    unshare --mount --pid --ipc --uts --fork --kill-child \
        bash "$hack/lib/image-layer.sh" "$hack/images/$name" "$work" "$(base_root)" "$(lab_root)" </dev/null \
        && python3 "$hack/lib/oci.py" "$hack/images/$name/image.json" "$name" "$work" "$(base_root)" "$archive.$$" \
        && mv "$archive.$$" "$archive" || status=$?
    rm -rf "$work" "$archive.$$"
    return "$status"
}
