#!/usr/bin/env bash
# Compares ui/third_party/qr with the archive that npm published. Needs the network,
# npm and nothing else; see ui/third_party/README.md.
set -euo pipefail
cd "$(dirname "$0")/.."
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
npm pack --silent --pack-destination "$folder" qr@0.7.0 >/dev/null
sum=$(grep -oE 'sha256 +[0-9a-f]{64}' ui/third_party/README.md | awk '{print $2}')
echo "$sum  $folder/qr-0.7.0.tgz" | sha256sum --check --quiet
tar -xzf "$folder/qr-0.7.0.tgz" -C "$folder"
for file in ui/third_party/qr/*; do
    cmp "$file" "$folder/package/$(basename "$file")"
done
echo "ui/third_party/qr is qr 0.7.0 as published"
