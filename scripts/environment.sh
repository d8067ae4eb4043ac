# Sourced by the other scripts: runs setup, then sets root, python and COMFYUI_PATH.
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
"$root/scripts/setup"
python="$root/.venv/bin/python"
COMFYUI_PATH="$(cd "${COMFYUI_PATH:-$root/.comfyui}" && pwd)"
export COMFYUI_PATH
