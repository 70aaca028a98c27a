#!/bin/sh
# Makes a virtual environment at the given folder in which a Python module is to be had, unless it is there:
# make-venv.sh FOLDER MODULE REQUIREMENTS
# It is made beside and renamed, so that one that is there is whole. Only files whose sums stand in REQUIREMENTS are installed.
set -eu
folder=$1
module=$2
requirements=$3
if "$folder/bin/python" -c "import $module" 2>/dev/null; then
    exit 0
fi
rm -rf "$folder" "$folder.new"
python3 -m venv "$folder.new"
"$folder.new/bin/python" -m pip install --quiet --retries 1 --timeout 30 --disable-pip-version-check --no-compile --require-hashes --requirement "$requirements"
mv "$folder.new" "$folder"
