#!/bin/sh
# Gather what an image without a distribution needs: files and folders as they are, the libraries that they load, and,
# for scanners, the records of the Debian packages that these are of. It makes images small, and leaves nothing in them
# that could serve an intruder: no shell, no package manager, no program that runs as root.
# usage: gather.sh TARGET FILE...
set -eu
out=$1 && shift && cd /
mkdir -p "$out/etc" "$out/var/lib/dpkg/status.d"
cp -a --parents "$@" "$out"

programs=$(find "$@" -type f \( -perm -u+x -o -name '*.so' -o -name '*.so.*' \))
libraries=$(ldd $programs 2>/dev/null | grep -o '/[^ ]* (0x' | cut -d' ' -f1 | sort -u)
cp -L --parents $libraries "$out"
cp /etc/ld.so.cache "$out/etc"

# A library may be known under the name that /lib stood for before it became a link.
known=$(for file in $programs $libraries; do echo "$file /usr$file $(realpath "$file")"; done)
for package in $(dpkg-query -S $known 2>/dev/null | sed 's/: .*//' | sort -u); do
    dpkg-query -s "$package" >"$out/var/lib/dpkg/status.d/${package%%:*}"
done
cp -L /etc/os-release "$out/etc"
! [ -e /etc/debian_version ] || cp /etc/debian_version "$out/etc"

printf 'root:x:0:0::/:/nonexistent\nkedge:x:65532:65532::/:/nonexistent\n' >"$out/etc/passwd"
printf 'hosts: files dns\n' >"$out/etc/nsswitch.conf"
