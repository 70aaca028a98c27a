#!/bin/sh
# Makes a virtual environment with the Python client at the given folder, unless it is there: make-venv.sh FOLDER
# It is made beside and renamed, so that one that is there is whole.
set -eu
folder=$1
here=$(dirname "$0")
if "$folder/bin/python" -c 'import kubernetes' 2>/dev/null; then
    exit 0
fi
rm -rf "$folder" "$folder.new"
python3 -m venv "$folder.new"
"$folder.new/bin/python" -m pip install --quiet --retries 1 --timeout 30 --disable-pip-version-check --no-compile --requirement "$here/requirements.txt"
mv "$folder.new" "$folder"
