#!/usr/bin/env bash
# Build Kedge's images, localhost/kedge and localhost/kedge-rtpengine, with buildah, docker or podman.
# usage: images.sh [--from-debian] [kedge] [rtpengine]
#
#   --from-debian  make the base from Debian's packages instead of pulling one; needs buildah, debootstrap and root
#
# TAG (default dev) and BASE, the base image of both, come from the environment; IMAGE_FLAGS are further words for the
# builder, and ARCHIVES is a folder to save the images to, as OCI archives.
set -euo pipefail
cd "$(dirname "$0")/.."
tag=${TAG:-dev}
from_debian=false
images=()
for word in "$@"; do
    case $word in
        --from-debian) from_debian=true ;;
        kedge | rtpengine) images+=("$word") ;;
        *) sed -n '2,8s/^# \{0,1\}//p' "$0" >&2 && exit 2 ;;
    esac
done
((${#images[@]})) || images=(kedge rtpengine)
read -ra flags <<<"${IMAGE_FLAGS:-}"

builder=""
for one in buildah docker podman; do
    # A docker command without its daemon is of no use.
    if command -v "$one" >/dev/null && { [[ $one == buildah ]] || "$one" info >/dev/null 2>&1; }; then
        builder=$one && break
    fi
done
[[ -n $builder ]] || { echo "images.sh: needs buildah, podman, or docker with its daemon" >&2 && exit 1; }
build=("$builder" build)
if [[ $builder == buildah ]]; then
    # Neither overlay mounts nor namespaces are asked of the machine: it builds inside of containers too.
    export STORAGE_DRIVER=${STORAGE_DRIVER:-vfs} BUILDAH_ISOLATION=${BUILDAH_ISOLATION:-chroot}
    build=(buildah bud --format oci)
fi

# A base of Debian's packages; TARGET is the image's name, further words are packages.
debian_base() {
    local target=$1 folder && shift
    buildah inspect --type image "$target" >/dev/null 2>&1 && return
    folder=$(mktemp -d) && trap 'rm -rf "$folder"' RETURN
    debootstrap --variant=minbase "--include=$(IFS=, && echo "$*")" "${DEBIAN:-bookworm}" "$folder" ${MIRROR:+"$MIRROR"}
    rm -rf "$folder"/var/cache/apt/archives/*.deb "$folder"/var/lib/apt/lists/* "$folder"/usr/share/{doc,man,locale}/*
    local container && container=$(buildah from scratch)
    buildah copy --quiet "$container" "$folder" / >/dev/null
    buildah commit --quiet --rm "$container" "$target" >/dev/null
}

if $from_debian; then
    [[ $builder == buildah ]] || { echo "images.sh: --from-debian needs buildah" >&2 && exit 1; }
    BASE=localhost/kedge-base:debian
    debian_base $BASE python3 python3-venv ca-certificates
fi

common=(--build-arg "VERSION=$tag" --build-arg "REVISION=$(git rev-parse --short HEAD 2>/dev/null || echo unknown)")
[[ -z ${BASE:-} ]] || common+=(--build-arg "BASE=$BASE")
for image in "${images[@]}"; do
    name=localhost/kedge && [[ $image == kedge ]] || name=localhost/kedge-$image
    "${build[@]}" "${common[@]}" "${flags[@]}" -f "images/$image/Containerfile" -t "$name:$tag" .
    echo "built $name:$tag"
    if [[ -n ${ARCHIVES:-} ]]; then
        mkdir -p "$ARCHIVES"
        if [[ $builder == docker ]]; then
            docker save -o "$ARCHIVES/$image.tar" "$name:$tag"
        else
            rm -f "$ARCHIVES/$image.tar"
            "$builder" push --quiet "$name:$tag" "oci-archive:$ARCHIVES/$image.tar:$name:$tag"
        fi
    fi
done
